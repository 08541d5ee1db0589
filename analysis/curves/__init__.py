"""Curves from anyone's files, and their plots."""
