"""Steps that are trained again after a restart are compared with what the store has of them.

The store keeps the first row of each step. A restart from a checkpoint that holds exactly what was
saved gives the same losses again; where it does not, the table would join two trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from sparsing.study.plan.runs import Run
from sparsing.study.status.run_state import RunState
from sparsing.study.store.study_store import StudyStore

TOLERANCE = 0.02
"""Relative, where rounding differs: another world size, device, precision or ZeRO stage adds in
another order, and training amplifies that. On GPUs always, for some of their sums have no fixed
order. (The fault suites allow the same.)"""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The loss of a step in the store, and how far a replay may be from it."""

    loss: float
    attempt: int
    tolerance: float
    """Relative; 0: equal to the bit."""


class ReplayCheck:
    """Compares replayed losses with the stored ones; remembers the first difference.

    Args:
        store, run: the study and the run of it.
        start: optimizer steps done.
        device: description of this attempt's engine.
        world_size: of this attempt.
    """

    def __init__(
        self, store: StudyStore, run: Run, start: int, device: str, world_size: int
    ) -> None:
        rows = store.scan("steps", run.id).filter(pl.col("step") > start)
        replayed = rows.select("step", "loss", "attempt").collect()
        exact = _exact_attempts(store, run, device, world_size) if len(replayed) else set()
        self._stored = {
            step: Stored(
                loss=loss, attempt=attempt, tolerance=0.0 if attempt in exact else TOLERANCE
            )
            for step, loss, attempt in replayed.iter_rows()
        }
        self.difference: str | None = None
        """The first one, in words; None while there is none."""

    def check(self, step: int, loss: float) -> None:
        """Compare the loss of step number `step`, from 1, if the store has one."""
        stored = self._stored.pop(step, None)
        if stored is None or self.difference is not None:
            return
        if abs(loss - stored.loss) > stored.tolerance * abs(stored.loss):
            allowed = f"{stored.tolerance:.0%} are allowed" if stored.tolerance else "none allowed"
            self.difference = (
                f"replayed step {step} has loss {loss!r}, attempt {stored.attempt} had "
                f"{stored.loss!r} ({allowed}): rows before and after it are of two trajectories"
            )


def _exact_attempts(store: StudyStore, run: Run, device: str, world_size: int) -> set[int]:
    """Attempts that computed as this one does, on processors: their sums have a fixed order."""
    if not device.startswith("CPU"):
        return set()
    alike = (
        pl.col("state") == RunState.TRAINING,
        pl.col("device") == device,
        pl.col("world_size") == world_size,
    )
    return set(store.scan("runs", run.id).filter(*alike).select("attempt").collect()["attempt"])
