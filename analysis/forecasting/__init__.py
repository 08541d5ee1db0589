"""What to do next: targets, extensions, advice on runs, new runs."""
