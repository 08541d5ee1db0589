"""From a definition to its runs, and what they cost."""
