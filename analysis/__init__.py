"""What it means: laws, fits, intervals, predictions, figures, the report. Needs no torch."""
