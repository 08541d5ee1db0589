"""The wished quantity of a run that is not measured yet, by the law over its family.

A family are runs of one activation that differ in one thing: in scale at a similar width-depth
ratio (Fig 7), or in the width-depth ratio at a similar scale (Fig 5). Its law is fitted to the
runs whose quantity is known as precisely as wished, each as one point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.forecasting.target import Wish
from sparsing.analysis.laws.sparsity import Law
from sparsing.analysis.scales.other_quantities import ScaleLaw, WidthDepthLaw
from sparsing.study.definition.shapes import NAMED_SCALES
from sparsing.study.definition.values import parse_count
from sparsing.study.errors import DefinitionError
from sparsing.study.plan.runs import Cost, Run

SIMILAR_RATIO, SIMILAR_SCALE = 1.25, 1.1
"""Runs whose width-depth ratio, or parameters, differ by less than this factor are alike in it."""
DIFFERENT = 1.1
"""Scales, or ratios, that differ by less than this factor count as one."""


NOT_OF_TOKENS = "the laws over scales and width-depth ratios speak of ratios, not of tokens"
ALONE = "no other run differs from it in scale only, or in width-depth ratio only"


@dataclass(frozen=True)
class Kind:
    """What the runs of a family differ in, and its law."""

    varies: str
    plural: str
    law: Law
    fewest: int
    """Different places that the law needs: one more than it has parameters."""
    place: Callable[[Run], float]
    alike: Callable[[Run], float]
    similar: float


def width_depth_ratio(run: Run) -> float:
    """d_h / layers."""
    return run.width_depth_ratio


def parameters(run: Run) -> float:
    """Non-embedding parameters."""
    return float(run.parameters)


KINDS = (
    Kind("scale", "scales", ScaleLaw(), 3, parameters, width_depth_ratio, SIMILAR_RATIO),
    Kind(
        "width-depth ratio",
        "width-depth ratios",
        WidthDepthLaw(),
        4,
        width_depth_ratio,
        parameters,
        SIMILAR_SCALE,
    ),
)


@dataclass(frozen=True)
class Family:
    """Runs of one activation that differ in `kind`, and the known quantities of some of them."""

    kind: Kind
    runs: tuple[Run, ...]
    """In the order of the plan."""
    known: dict[str, float]
    """By run."""
    half_widths: dict[str, float] = field(default_factory=dict)
    """Of the intervals of known quantities, by run; 0 where none is given."""

    @property
    def name(self) -> str:
        """`relu over scales`."""
        return f"{self.runs[0].activation} over {self.kind.plural}"

    @property
    def places(self) -> list[float]:
        """The different places of all runs, rising."""
        return _different([self.kind.place(run) for run in self.runs])

    def fit(self) -> Fit | None:
        """The law over the known runs; None where they are at too few places."""
        known = [run for run in self.runs if run.id in self.known]
        at = [self.kind.place(run) for run in known]
        if len(_different(at)) < self.kind.fewest:
            return None
        return fit_curve(
            at,
            [self.known[run.id] for run in known],
            law=self.kind.law,
            weights=self._weights(known),
            drop=0,
        )

    def error(self, place: float, *, also: float | None = None) -> float:
        """Half the interval that is not in the law's: of the runs' own, and of the law beyond them.

        Outside the runs the law's slope in the logarithm of the place may be wrong by as much as
        the change that the runs show for it. `also`: a place at which another run is known.
        """
        known = [run for run in self.runs if run.id in self.known]
        own = [self.half_widths.get(run.id, 0.0) for run in known]
        logs = np.log([self.kind.place(run) for run in known])
        values = [self.known[run.id] for run in known]
        ends = logs if also is None else np.append(logs, np.log(also))
        beyond = max(ends.min() - np.log(place), np.log(place) - ends.max(), 0.0)
        slope = (max(values) - min(values)) / max(logs.max() - logs.min(), 1e-12)
        return float(np.hypot(np.sqrt(np.mean(np.square(own))), slope * beyond))

    def _weights(self, known: list[Run]) -> list[float] | None:
        """Inverse variances: of each run's own interval, and of a scatter as large as the median's.

        Between runs there is scatter, too, so that no run counts for much more than the others.
        """
        widths = np.array([self.half_widths.get(run.id, 0.0) for run in known])
        if not widths.all():
            return None
        return (1 / (widths**2 + np.median(widths) ** 2)).tolist()

    def lacking(self, wish: Wish) -> str:
        """Why there is no law over the runs, in words."""
        known = [self.kind.place(run) for run in self.runs if run.id in self.known]
        return (
            f"the law {self.name} needs {self.kind.fewest} {self.kind.plural} whose {wish.name} "
            f"is known to {wish.precision_text}; known: {len(_different(known))} of "
            f"{len(self.places)}"
        )


def scale_parameters(scale: str) -> float:
    """Parameters of a scale as written in a definition: `0.4B` as in Table 3, or any count."""
    if scale in NAMED_SCALES:
        return NAMED_SCALES[scale].parameters
    count = parse_count(scale)
    if not isinstance(count, int) or count <= 0:
        raise DefinitionError(f"scale {scale}: a scale of the paper or a count, as 2.4B or 27M")
    return float(count)


def families(
    runs: list[Run], known: dict[str, float], half_widths: dict[str, float] | None = None
) -> list[Family]:
    """All families of a study with two places or more, those over scales first.

    `known`: quantities of the runs that are known precisely enough, `half_widths` of their
    intervals.
    """
    found = []
    for kind in KINDS:
        for activation in dict.fromkeys(run.activation for run in runs):
            members = [run for run in runs if run.activation == activation]
            for alike in _clusters(members, kind):
                values = {run.id: known[run.id] for run in alike if run.id in known}
                widths = {run: (half_widths or {}).get(run, 0.0) for run in values}
                family = Family(kind, tuple(alike), values, widths)
                if len(family.places) > 1:
                    found.append(family)
    return found


def _clusters(runs: list[Run], kind: Kind) -> Iterator[list[Run]]:
    """Runs that are alike, each within the factor of the next."""
    ordered = sorted(runs, key=kind.alike)
    cluster = ordered[:1]
    for run in ordered[1:]:
        if kind.alike(run) > kind.similar * kind.alike(cluster[-1]):
            yield [each for each in runs if each in cluster]
            cluster = []
        cluster.append(run)
    yield [each for each in runs if each in cluster]


def _different(places: list[float]) -> list[float]:
    found: list[float] = []
    for place in sorted(places):
        if not found or place > DIFFERENT * found[-1]:
            found.append(place)
    return found


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """What the law over a family says of a run that is not measured."""

    run: str
    verdict: Literal["predicted", "cannot say"]
    reason: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    """95 % interval for the quantity of such a run, with the scatter between runs."""
    gpu_hours: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def predict_planned(cost: Cost, own: list[Family], wish: Wish) -> PlannedRun:
    """The wished quantity of a run by the first of `own`, its families, that has a law."""
    if wish.quantity == "tokens":
        return _unsaid(cost, NOT_OF_TOKENS)
    reasons = [family.lacking(wish) for family in own]
    for family in own:
        if (fit := family.fit()) is not None:
            return _predicted(cost, family, fit)
    return _unsaid(cost, reasons[0] if reasons else ALONE)


def _unsaid(cost: Cost, why: str) -> PlannedRun:
    return PlannedRun(run=cost.run.id, verdict="cannot say", reason=why, gpu_hours=cost.gpu_hours)


def _predicted(cost: Cost, family: Family, fit: Fit) -> PlannedRun:
    run = cost.run
    value, low, high = fit.predict(family.kind.place(run))
    assert value is not None
    assert low is not None  # the law needs more places than it has parameters
    assert high is not None
    wider = family.error(family.kind.place(run))
    low, high = (
        value - float(np.hypot(value - low, wider)),
        value + float(np.hypot(high - value, wider)),
    )
    closed = low > 0 and high < fit.form.highest
    at = np.array([family.kind.place(each) for each in family.runs if each.id in family.known])
    place = family.kind.place(run)
    why = f"by the law {family.name}, {fit.n} runs"
    if not at.min() <= place <= at.max():
        why += f", beyond the {family.kind.plural} measured"
    if not closed:
        why += ": its interval is open, for the runs scatter too much for their number"
    return PlannedRun(
        run=run.id,
        verdict="predicted" if closed else "cannot say",
        reason=why,
        value=value if closed else None,
        low=low if low > 0 else None,
        high=high if high < fit.form.highest else None,
        gpu_hours=cost.gpu_hours,
    )
