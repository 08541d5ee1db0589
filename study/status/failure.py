"""Kinds of failure and notice, as they stand in the table `runs` and in the metrics."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What kind of failure or notice; the values stand in the table `runs`."""

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
    CHECKPOINT_DAMAGED = "checkpoint_damaged"
    """Set aside; the run goes on from the one before."""
    REPLAY_DIFFERS = "replay_differs"
    """A step that was trained again gave another loss than the store has."""


NOTICES = frozenset({Kind.CHECKPOINT_DAMAGED, Kind.REPLAY_DIFFERS})
"""Kinds after which the run goes on: somebody should look, but no attempt has failed."""
