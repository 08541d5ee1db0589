"""Scaling studies of activation sparsity in large language models."""
