"""Which new run would narrow the law over a family of runs most, per GPU-hour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.forecasting.planned import (
    NOT_OF_TOKENS,
    Family,
    parameters,
    width_depth_ratio,
)
from sparsing.analysis.forecasting.target import Wish
from sparsing.analysis.forecasting.what_if import futures
from sparsing.study.definition.model import Resources, RunPoint, Shape, Study
from sparsing.study.definition.shapes import HEAD_SIZE
from sparsing.study.errors import DefinitionError
from sparsing.study.plan.runs import Cost, plan
from sparsing.study.units import count_text

Kind = Literal["planned", "another seed", "between", "beyond"]

FUTURES = 15
WIDE_GAP = 1.5
"""Between places that differ by more than this factor a new one is worth a look."""
BEYOND = 2.0
"""How far outside the family a new place is looked for."""
HEADS_FROM = 512
"""From this hidden size on, new shapes have whole heads of HEAD_SIZE."""


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """A run that could be started, and what it would do for the law over its family."""

    run: str
    kind: Kind
    gpu_hours: float
    half_width: float
    """Expected afterwards, of the 95 % interval at the family's target: a share of neurons."""
    narrowing_per_gpu_hour: float
    """How much less than now, for each of its GPU-hours."""


@dataclass(frozen=True, kw_only=True)
class NewRuns:
    """The new runs for one family, the best first."""

    family: str
    reason: str
    target: float | None = None
    """Where its law is looked at: parameters, or a width-depth ratio."""
    value: float | None = None
    half_width: float | None = None
    """Of the law's 95 % interval there, now; None where there is no law."""
    runs: tuple[NewRun, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"runs": [asdict(run) for run in self.runs]}


def new_runs(
    study: Study,
    family: Family,
    costs: dict[str, Cost],
    started: set[str],
    wish: Wish,
    target: float | None = None,
) -> NewRuns:
    """What to run next for a family; `costs` of all its runs, `started` those that were begun.

    The law is looked at at `target`; default: the family's largest place, planned runs included.
    """
    fit = None if wish.quantity == "tokens" else family.fit()
    if fit is None:
        lacking = NOT_OF_TOKENS if wish.quantity == "tokens" else family.lacking(wish)
        return NewRuns(family=family.name, reason=f"cannot say: {lacking}")
    target = target or max(family.kind.place(run) for run in family.runs)
    value, by_law = _at(fit, target)
    now = float(np.hypot(by_law, family.error(target)))
    candidates = _candidates(study, family, costs, started)
    found = [_new_run(family, fit, target, now, kind, cost) for kind, cost in candidates]
    found = [run for run in found if run.narrowing_per_gpu_hour > 0]
    why = f"at {family.kind.varies} {count_text(target)} the law {family.name} gives {value:.4g} "
    why += f"+- {now:.2g} ({fit.n} runs)"
    if not found:
        why += "; no new run is expected to narrow it"
    return NewRuns(
        family=family.name,
        reason=why,
        target=target,
        value=value,
        half_width=now,
        runs=tuple(sorted(found, key=lambda run: -run.narrowing_per_gpu_hour)),
    )


def _new_run(family: Family, fit: Fit, target: float, now: float, kind: Kind, cost: Cost) -> NewRun:
    """What a run would do for the law at the target, whose half width is `now` by then."""
    place = np.array([family.kind.place(cost.run)])
    widths = [_at(future.after(place), target)[1] for future in futures(fit, FUTURES)]
    expected = float(np.hypot(np.median(widths), family.error(target, also=float(place[0]))))
    return NewRun(
        run=cost.run.id,
        kind=kind,
        gpu_hours=cost.gpu_hours,
        half_width=expected,
        narrowing_per_gpu_hour=(now - expected) / cost.gpu_hours,
    )


def _at(fit: Fit, place: float) -> tuple[float, float]:
    """The law's value at a place, and the half width of its 95 % interval there."""
    value, low, high = fit.predict(place, measurement=False)
    assert value is not None
    assert low is not None
    assert high is not None
    return value, (high - low) / 2


def _candidates(
    study: Study, family: Family, costs: dict[str, Cost], started: set[str]
) -> Iterator[tuple[Kind, Cost]]:
    """Planned runs, one more seed of each shape, and shapes between and beyond these."""
    seeds: dict[str, list[Cost]] = {}
    for run in family.runs:
        cost = costs[run.id]
        if run.id not in started:
            yield "planned", cost
        seeds.setdefault(run.id.rpartition("-s")[0], []).append(cost)
    for shape, of_shape in seeds.items():
        seed = max(cost.run.seed for cost in of_shape) + 1
        yield (
            "another seed",
            replace(of_shape[0], run=replace(of_shape[0].run, id=f"{shape}-s{seed}", seed=seed)),
        )
    places = family.places
    for low, high in pairwise(places):
        if high / low > WIDE_GAP:
            yield from _at_place(study, family, float(np.sqrt(low * high)), "between")
    yield from _at_place(study, family, places[0] / BEYOND, "beyond")
    yield from _at_place(study, family, places[-1] * BEYOND, "beyond")


def _at_place(
    study: Study, family: Family, place: float, kind: Kind
) -> Iterator[tuple[Kind, Cost]]:
    """A run of the family at a place of its own; none where the definition allows no such run."""
    try:
        yield kind, cost_at(study, family, place)
    except DefinitionError:
        return


def cost_at(study: Study, family: Family, place: float) -> Cost:
    """A run like those of the family at a place near to `place`, planned as the study's are.

    Raises DefinitionError where the definition allows no such run, for its checkpoints say.
    """
    first = family.runs[0]
    if family.kind.varies == "scale":
        shape = shape_of(place, float(np.median([width_depth_ratio(run) for run in family.runs])))
    else:
        shape = shape_of(float(np.median([parameters(run) for run in family.runs])), place)
    optimization = study.optimization
    if isinstance(optimization.batch_tokens, dict):  # of the study's own scales
        optimization = optimization.model_copy(update={"batch_tokens": None})
    changes = {
        "axes": None,
        "runs": [
            RunPoint.model_validate(
                {"activation": first.activation, "scale": shape, "seed": first.seed}
            )
        ],
        "optimization": optimization,
        "resources": Resources(),
    }
    (cost,) = plan(study.model_copy(update=changes)).costs
    return cost


def shape_of(count: float, ratio: float) -> Shape:
    """The shape nearest to a parameter count and a width-depth ratio, with d_f = 2.5 d_h.

    Not `shapes.solve_shape`, which refuses what it cannot meet within 1 %: a small model of
    about that size will do here.
    """
    layers = max(1, round((count / (11.5 * ratio**2)) ** (1 / 3)))
    d_h = (count / (11.5 * layers)) ** 0.5
    step = HEAD_SIZE if d_h >= HEADS_FROM else 2
    return Shape(d_h=max(step, step * round(d_h / step)), layers=layers)
