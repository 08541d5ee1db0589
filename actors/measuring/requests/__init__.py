"""Measuring models in folders, as the command line and the library ask for it."""
