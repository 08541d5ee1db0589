"""What a gang is told: which run it trains, for whom, and where store and data are."""

from __future__ import annotations

from dataclasses import dataclass

from sparsing.study.plan.runs import Run


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a shard needs to know to train its part of a run."""

    study_path: str
    """The study's folder in the store, on a file system that every node sees."""
    data_path: str
    run: Run
    attempt: int
    token: int
    """Of the controller's lease: with a smaller one than the newest, nothing may be committed."""
    world_size: int
    replaced_steps: tuple[int, ...] = ()
    """Steps, from 1, whose batches are replaced, in the order of that decision."""
    gang_timeout_seconds: int = 1800
