"""`import sparsing`: the library over the rooms, for notebooks and scripts."""
