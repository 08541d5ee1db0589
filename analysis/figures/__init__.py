"""Every figure and table of the paper, from a study's store alone, each with its data beside it."""
