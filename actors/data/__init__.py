"""Data of a study: sources, tokenizers, prepared token shards, training order, validation."""
