"""Benchmarks of fits, of their coverage, and of the law service."""
