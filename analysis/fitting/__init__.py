"""Fitting a law to a curve: optimum, confidence region, comparison of laws."""
