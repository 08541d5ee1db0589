"""Curves that a law tool meets and its law does not foresee, with their truth.

Each kind starts from a published law (Table 2): another law that runs through the same curve,
residuals that follow each other, noise that shrinks or grows, outliers, few points, a second
phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from sparsing.analysis.fitting.comparison import CURVE_LAWS
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.laws.published import LAST_BILLIONS, NOISE, PUBLISHED, law_of
from sparsing.analysis.laws.sparsity import PAPER_LAWS, Floats

POINTS, FEW_POINTS = 40, 10
OUTLIER_SHARE, OUTLIER_SIZE = 0.06, 8.0
SECOND_PHASE = 0.3
"""Size of the second phase, in multiples of the change up to the limit before it."""

Truth = Callable[[Floats], Floats]
"""Billions of tokens -> activation ratios."""


@dataclass(frozen=True)
class HardCurve:
    """One made-up curve and what is true of it."""

    kind: str
    base: str
    """The published curve that it is made from, `0.8b_relu`."""
    tokens: Floats
    ratios: Floats
    truth: Truth
    limit: float
    true_law: str | None
    """The law that it follows; None where none of ours does."""
    weights: Floats
    """Inverse variances of its noise, relative."""
    rho: float
    """Correlation of neighbouring errors."""

    @property
    def law(self) -> str:
        """The law that a study would fit: that of its activation."""
        return law_of(self.base)


@dataclass(frozen=True)
class Kind:
    """A way in which curves are hard."""

    name: str
    law: str | None = None
    """The law that the truth follows; None: the published one's own."""
    rho: float = 0.0
    power: float = 0.0
    """The standard deviation of the noise goes as tokens^-power."""
    outliers: bool = False
    points: int = POINTS
    two_phases: bool = False


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("true law"),
        Kind("few points", points=FEW_POINTS),
        Kind("exponential", law="exponential"),
        Kind("shifted power", law="shifted_power"),
        Kind("hill", law="hill"),
        Kind("logistic", law="logistic"),
        Kind("AR 0.3", rho=0.3),
        Kind("AR 0.5", rho=0.5),
        Kind("AR 0.7", rho=0.7),
        Kind("noise shrinks", power=0.5),
        Kind("noise grows", power=-0.5),
        Kind("outliers", outliers=True),
        Kind("two phases", two_phases=True),
    )
}


def hard_curve(kind: Kind, base: str, seed: int) -> HardCurve:
    """A curve of a kind, made from a published one; the same for the same seed."""
    names = list(KINDS)
    random = np.random.default_rng([seed, list(PUBLISHED).index(base), names.index(kind.name)])
    truth, limit, law = _truth(base, kind.law, kind.two_phases)
    last = LAST_BILLIONS[base.partition("_")[0]]
    billions = np.linspace(last / kind.points, last, kind.points)
    spread = (billions / last) ** -kind.power
    spread /= np.sqrt((spread**2).mean())
    error = spread * _errors(random, kind) * NOISE[law_of(base)]
    return HardCurve(
        kind=kind.name,
        base=base,
        tokens=billions * 1e9,
        ratios=np.clip(truth(billions) + error, 0.0, 1.0),
        truth=truth,
        limit=limit,
        true_law=law,
        weights=spread**-2,
        rho=kind.rho,
    )


def _errors(random: np.random.Generator, kind: Kind) -> Floats:
    """Errors of standard deviation 1, outliers aside: (points,)."""
    fresh = random.normal(size=kind.points)
    errors = fresh.copy()
    for i in range(1, kind.points):
        errors[i] = kind.rho * errors[i - 1] + np.sqrt(1 - kind.rho**2) * fresh[i]
    if kind.outliers:
        far = random.random(kind.points) < OUTLIER_SHARE
        errors = np.where(far, errors * OUTLIER_SIZE, errors)
    return errors


@cache
def _truth(base: str, law: str | None, two_phases: bool) -> tuple[Truth, float, str | None]:
    """The curve without noise, its limit, and the law that it follows."""
    name, parameters = law_of(base), dict(PUBLISHED[base])
    last = LAST_BILLIONS[base.partition("_")[0]]
    billions = np.linspace(last / POINTS, last, POINTS)
    published = PAPER_LAWS[name]
    if law is not None:
        fit = fit_curve(billions * 1e9, published.value(billions, **parameters), law=law, drop=0)
        found = {k: v for k, v in fit.parameters.items() if v is not None}
        form = CURVE_LAWS[law]
        return lambda at: form.value(at, **found), form.limit(**found), law
    if not two_phases:
        return lambda at: published.value(at, **parameters), parameters["A0"], name
    step = SECOND_PHASE * (parameters["A0"] - float(published.value(billions[0], **parameters)))

    def phases(at: Floats) -> Floats:
        """The published law, and half way a second change of the same direction."""
        second = step / (1 + np.exp(-np.log(at / (0.5 * last)) / 0.15))
        return published.value(at, **parameters) + second

    return phases, parameters["A0"] + step, None
