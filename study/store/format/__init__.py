"""What the bytes of a table mean: logs, sealed segments, sequence numbers, partitions."""
