"""Openly licensed corpora: the list, their download, their documents."""
