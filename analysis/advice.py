"""Advice on a study: which runs can stop, which must go on and how far, what to run next, and why.

From the store alone: the newest fits, the definition's costs. Nothing is changed or started.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.refit import newest_fits
from analysis.run_advice import Case, RunAdvice, advise_run, without_fit
from analysis.wish import Wish
from study.plan import ACCELERATOR, plan
from study.status import StudyStatus
from study.store import StudyStore

NOT_STARTED = ("planned", "waiting")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The advice on a study; GPU-hours are those of `sparsing plan`."""

    study: str
    wish: Wish
    runs: tuple[RunAdvice, ...]
    """On each run that was started, in the order of the plan."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "study": self.study,
            "quantity": self.wish.quantity,
            "tokens": self.wish.tokens,
            "ratio": self.wish.ratio,
            "precision": self.wish.precision,
            "absolute": self.wish.absolute,
            "accelerator": ACCELERATOR,
            "runs": [each.as_dict() for each in self.runs],
        }


def advise(
    store: StudyStore,
    *,
    precision: float = 0.1,
    absolute: bool = False,
    tokens: float | None = None,
    ratio: float | None = None,
    progress: Callable[[str], None] = lambda run: None,
) -> Advice:
    """The advice for a wished quantity of every run, by the newest fits in the store.

    The quantity is the limit of the activation ratio; with `tokens`, the ratio there; with
    `ratio`, the tokens to it. `precision`: wished half width of its 95 % interval, relative to
    the value or, if `absolute`, in its own unit. `progress` is told each run before its turn.
    The same store gives the same advice. Raises DefinitionError for a wish that cannot be.
    """
    wish = Wish(precision=precision, absolute=absolute, tokens=tokens, ratio=ratio)
    started = [case for case in _cases(store, wish) if case.rows or _has_started(case)]
    advised = []
    for case in started:
        progress(case.cost.run.id)
        advised.append(advise_run(case, case.fit()) if case.rows else without_fit(case))
    return Advice(study=store.study_id, wish=wish, runs=tuple(advised))


def _cases(store: StudyStore, wish: Wish) -> list[Case]:
    """What is known of each run, in the order of the plan."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in newest_fits(store).iter_rows(named=True):
        rows.setdefault(row["run"], []).append(row)
    statuses = StudyStatus.read(store).runs
    costs = plan(store.study).costs
    return [
        Case(store.study, status, cost, rows.get(cost.run.id, []), wish)
        for status, cost in zip(statuses, costs, strict=True)
    ]


def _has_started(case: Case) -> bool:
    return case.status.state not in NOT_STARTED or case.status.tokens > 0
