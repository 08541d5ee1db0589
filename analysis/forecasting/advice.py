"""Advice on a study: which runs can stop, which must go on and how far, what to run next, and why.

From the store alone: the newest fits, the definition's costs. Nothing is changed or started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sparsing.analysis.forecasting.new_runs import NewRuns, cost_at, new_runs
from sparsing.analysis.forecasting.planned import (
    Family,
    PlannedRun,
    families,
    predict_planned,
    scale_parameters,
)
from sparsing.analysis.forecasting.run_advice import Case, RunAdvice, advise_run, without_fit
from sparsing.analysis.forecasting.target import Wish
from sparsing.analysis.refitting.newest import newest_fits
from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import ACCELERATOR, Cost, plan
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.study_store import StudyStore

NOT_STARTED = ("planned", "waiting")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The advice on a study; GPU-hours are those of `sparsing plan`."""

    study: str
    wish: Wish
    runs: tuple[RunAdvice, ...]
    """On each run that was started, in the order of the plan."""
    planned: tuple[PlannedRun, ...]
    """What to expect of each run that was not, and of the models of `scale`."""
    new_runs: tuple[NewRuns, ...]
    """What to run next, for each family of runs over scales or width-depth ratios."""

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
            "planned": [each.as_dict() for each in self.planned],
            "new_runs": [each.as_dict() for each in self.new_runs],
        }


def advise(
    store: StudyStore,
    *,
    precision: float = 0.1,
    absolute: bool = False,
    tokens: float | None = None,
    ratio: float | None = None,
    scale: str | None = None,
    progress: Callable[[str], None] = lambda run: None,
) -> Advice:
    """The advice for a wished quantity of every run, by the newest fits in the store.

    The quantity is the limit of the activation ratio; with `tokens`, the ratio there; with
    `ratio`, the tokens to it. `precision`: wished half width of its 95 % interval, relative to
    the value or, if `absolute`, in its own unit. `scale`: also predict models of this scale, as in
    a definition (`2.4B`), and look at the laws over scales there. `progress` is told each run
    before its turn. The same store gives the same advice. Raises DefinitionError for a wish that
    cannot be.
    """
    wish = Wish(precision=precision, absolute=absolute, tokens=tokens, ratio=ratio)
    parameters = None if scale is None else scale_parameters(scale)
    cases = _cases(store, wish)
    advised = []
    for case in cases:
        if case.rows or _has_started(case):
            progress(case.cost.run.id)
            advised.append(advise_run(case, case.evidence()) if case.rows else without_fit(case))
    costs = {case.cost.run.id: case.cost for case in cases}
    found = families([case.cost.run for case in cases], _known(advised), _half_widths(advised))
    started = {each.run for each in advised}
    return Advice(
        study=store.study_id,
        wish=wish,
        runs=tuple(advised),
        planned=(
            *_planned([cost for run, cost in costs.items() if run not in started], found, wish),
            *_of_scale(store.study, found, wish, parameters),
        ),
        new_runs=tuple(
            new_runs(store.study, family, costs, started, wish, _target(family, parameters))
            for family in found
        ),
    )


def _target(family: Family, parameters: float | None) -> float | None:
    return parameters if family.kind.varies == "scale" else None


def _known(advised: list[RunAdvice]) -> dict[str, float]:
    """The quantity of each run that knows it precisely enough."""
    return {
        each.run: each.value
        for each in advised
        if each.verdict in ("stop", "done") and each.value is not None
    }


def _half_widths(advised: list[RunAdvice]) -> dict[str, float]:
    """Of each run's interval, in the quantity's unit."""
    return {
        each.run: (each.high - each.low) / 2
        for each in advised
        if each.low is not None and each.high is not None
    }


def _planned(costs: list[Cost], found: list[Family], wish: Wish) -> Iterator[PlannedRun]:
    for cost in costs:
        own = [family for family in found if cost.run in family.runs]
        yield predict_planned(cost, own, wish)


def _of_scale(
    study: Study, found: list[Family], wish: Wish, parameters: float | None
) -> Iterator[PlannedRun]:
    """A model of this number of parameters for each family over scales."""
    if parameters is None:
        return
    for family in found:
        if family.kind.varies == "scale":
            yield predict_planned(cost_at(study, family, parameters), [family], wish)


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
