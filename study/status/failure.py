"""Kinds of failure, as they stand in the table `runs` and in the metrics."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What kind of failure; the values stand in the table `runs`."""

    OUT_OF_MEMORY = "out_of_memory"
    BAD_INPUT = "bad_input"
    MEASURING_FAILED = "measuring_failed"
    NOT_FINITE = "not_finite"
    SPIKE = "spike"
    DISK = "disk"
    NODE_LOST = "node_lost"
    SHARD_LOST = "shard_lost"
    HUNG = "hung"
    MEASURER_LOST = "measurer_lost"
    SHARD_FAILED = "shard_failed"
