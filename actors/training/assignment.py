"""What a gang is told: which run it trains, for whom, and where store and data are."""

from __future__ import annotations

from collections.abc import Sequence
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

    def batch_index(self, step: int) -> int:
        """Which batch of the data order optimizer step number `step`, from 1, trains on."""
        return batch_index(step, self.run.steps, self.replaced_steps)


def batch_index(step: int, steps: int, replaced: Sequence[int]) -> int:
    """Which batch of the data order step number `step`, from 1, of `steps` trains on.

    Batches are numbered from 0. A replaced one gives its place to one from after the run's end,
    the first for the first that was replaced: no other step ever sees it.
    """
    return steps + replaced.index(step) if step in replaced else step - 1
