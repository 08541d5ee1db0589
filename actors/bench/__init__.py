"""Benchmarks of training, measuring, decoding and scheduling."""
