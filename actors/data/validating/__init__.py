"""Validation sets: passages drawn by hash, deduplicated exactly, split in two halves."""
