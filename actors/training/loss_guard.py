"""Whether training is stable, step by step, as the definition's `stability` says."""

from __future__ import annotations

import math
import statistics
from collections import deque

import polars as pl

from sparsing.actors.training.run_failure import RunFailure
from sparsing.study.plan.runs import Run
from sparsing.study.status.failure import Kind
from sparsing.study.store.study_store import StudyStore

SPIKE_WINDOW_STEPS = 50
"""A spike is told from the median loss of this number of steps before it."""


class LossGuard:
    """Checks every step's loss; starts from the steps that the store has, so that a restart
    decides as an undisturbed run does.

    Args:
        store, run: the study and the run of it.
        start: optimizer steps done.
    """

    def __init__(self, store: StudyStore, run: Run, start: int) -> None:
        self._spike_factor = store.study.stability.spike_factor
        self._recent: deque[float] = deque(maxlen=SPIKE_WINDOW_STEPS)
        if self._spike_factor and start:
            newest = pl.col("step").is_between(start - SPIKE_WINDOW_STEPS + 1, start)
            rows = store.scan("steps", run.id).filter(newest).sort("step").select("loss")
            self._recent.extend(rows.collect()["loss"])

    def check(self, step: int, loss: float, grad_norm: float) -> None:
        """Return if step number `step`, from 1, was stable. All shards see the same numbers.

        Raises:
            RunFailure: loss or gradient norm is not finite, or the loss is a spike.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise RunFailure(
                f"loss {loss}, gradient norm {grad_norm} at step {step}; where it comes again, a "
                "smaller optimization.peak_learning_rate or a longer warm-up usually helps",
                Kind.NOT_FINITE,
                step,
            )
        if self._spike_factor is None:
            return
        full = len(self._recent) == SPIKE_WINDOW_STEPS
        if full and loss > self._spike_factor * statistics.median(self._recent):
            raise RunFailure(
                f"loss {loss:.4g} at step {step}: over {self._spike_factor:g} times its median",
                Kind.SPIKE,
                step,
            )
        self._recent.append(loss)
