"""The Ray cluster: its nodes, its capacity, jobs on it."""
