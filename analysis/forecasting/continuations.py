"""How a curve may go on: laws of its set drawn by weight, with their noise and slope errors.

What several continuations agree on is what to expect, and where they differ is how far the
expectation can be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparsing.analysis.evidence.evidence import Evidence, weigh
from sparsing.analysis.evidence.law_set import Member
from sparsing.analysis.evidence.slope_error import SIZES
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.fitting.varpro import refine
from sparsing.analysis.laws.sparsity import Floats

MOST_NEW_POINTS = 24
"""More further points than these are drawn as means of neighbours, with their weight."""
PRECISELY = 1e-6


@dataclass(frozen=True)
class Continuation:
    """One way in which a curve may go on."""

    evidence: Evidence
    member: Member
    """The law that it follows, with coordinates of its own."""
    noise: float
    """Standard deviation of a point of weight 1 about the law."""
    slope_error: float
    """Relative error of the slope beyond the points."""
    seed: tuple[int, int]

    def after(self, further: Floats) -> Evidence:
        """The evidence with points at the rising token counts `further` (m,), drawn here."""
        fit = self.evidence.fit
        points, unit, highest = fit.points, fit.form.unit, fit.form.highest
        groups = np.array_split(further, min(len(further), MOST_NEW_POINTS))
        at = np.array([group.mean() for group in groups]) / unit
        weights = np.array([len(group) for group in groups], dtype=float)
        bent = self.slope_error * self.evidence.slope_error.slope * (1 - points.tokens[-1] / at)
        errors = np.random.default_rng(self.seed).standard_normal(len(at)) * self.noise
        values = self.member.value(at) + bent + errors / np.sqrt(weights)
        longer = fit_curve(
            np.concatenate([points.tokens, at]) * unit,
            np.concatenate([points.values, np.clip(values, 0.0, highest)]),
            law=fit.form,
            weights=np.concatenate([points.weights, weights]),
            drop=0,
        )
        return weigh(longer, shared_error=self.evidence.shared_error)


def continuations(evidence: Evidence, count: int, *, seed: int = 0) -> list[Continuation]:
    """Ways in which a curve may go on, the same for the same seed; none without intervals."""
    if not evidence.answers:
        return []
    random = np.random.default_rng([seed, count])
    laws = [
        each for each in evidence.laws.kept if len(evidence.fit.points.tokens) > each.parameters
    ]
    shares = np.cumsum([each.weight for each in laws])
    # Evenly spread over the laws and over the sizes of slope errors, in no order.
    places = (random.permutation(count) + 0.5) / count * shares[-1]
    sizes = np.interp(
        (random.permutation(count) + 0.5) / count,
        np.cumsum(evidence.slope_error.chances),
        SIZES,
    )
    found = []
    for i in range(count):
        member, noise = _redrawn(laws[int(np.searchsorted(shares, places[i]))], random)
        error = float(sizes[i] * random.standard_normal())
        found.append(Continuation(evidence, member, noise, error, (seed, i)))
    return found


def _redrawn(member: Member, random: np.random.Generator) -> tuple[Member, float]:
    """A law that the points leave possible, by resampled residuals; and the size of its noise."""
    problem, count = member.problem, len(member.problem.tokens)
    freedom = count - member.parameters
    root = np.sqrt(problem.weights)
    fitted = member.value(problem.tokens)
    residuals = (problem.values - fitted) * root
    residuals = (residuals - residuals.mean()) * np.sqrt(count / freedom)
    drawn = fitted + residuals[random.integers(0, count, count)] / root
    batch = replace(problem, values=drawn[None])
    found = refine(batch, member.solution.theta, converged=PRECISELY)
    noise = float(np.sqrt(member.solution.sse[0] / random.chisquare(freedom)))
    return replace(member, solution=found), noise
