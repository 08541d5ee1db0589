"""Measuring a checkpoint: the CETT search, intervals, Pareto curves, rows for the store."""
