"""Refitting a study's curves while its runs train."""
