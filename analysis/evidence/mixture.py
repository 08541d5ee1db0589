"""The answers of a set of laws: each law's profile likelihood as a distribution, mixed by weight.

A law's profile intervals of a quantity at rising levels are quantiles of a distribution (its
confidence distribution). One scan of its region serves all levels and all token counts. The
mixture's quantiles are found between the ends of those intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from sparsing.analysis.evidence.law_set import LawSet, Member
from sparsing.analysis.fitting.projection import Solution, solve
from sparsing.analysis.fitting.region import Region
from sparsing.analysis.fitting.region_scan import scan
from sparsing.analysis.laws.sparsity import Floats

REACHES = np.array([0.25, 0.6, 1.0, 1.4, 1.8, 2.2, 2.7, 3.3])
"""Half widths of the intervals looked at, in standard deviations of a normal distribution."""
LEVELS = 2 * ndtr(REACHES) - 1
CHANCES = np.concatenate([(1 - LEVELS[::-1]) / 2, [0.5], (1 + LEVELS) / 2])
"""What lies below each end of those intervals, and below the law's best value."""
FARTHEST_SHAPE = 1e6
"""A shape at infinite tokens beyond this is as good as infinite."""
APART = 1e-13
"""Equal ends of intervals are put this far apart, so that a distribution rises everywhere."""


@dataclass(frozen=True)
class Profile:
    """A law's confidence region at the widest level, and the sums of squares of all levels."""

    member: Member
    region: Region
    limits: Floats
    """Sums of squares (levels,) within which the solutions of each level lie."""

    def ends(self, tokens: Floats) -> Floats:
        """Ends of the intervals of the law at tokens (q,) in billions, inf for the limit.

        (q, 2 levels + 1), rising, within what is possible; the law's best value in the middle.
        """
        law, region = self.member.law, self.region
        at, best = self._shape(tokens, region.theta), self._shape(tokens, self.best.theta)[0]
        with np.errstate(all="ignore"):
            value = region.centre.start[:, None] + region.centre.change[:, None] * at
            away = (at - region.mean_shape[:, None]) ** 2 / region.spread[:, None]
            reach = np.sqrt(1 / region.problem.weights.sum() + away)
            middle = self.best.start[0] + self.best.change[0] * best
            lows, highs = [], []
            for limit in self.limits:
                inside = region.centre.sse <= limit * (1 + 1e-9)
                slack = np.sqrt(np.maximum(limit - region.centre.sse[inside], 0.0))
                moved = slack[:, None] * reach[inside]
                low, high = value[inside] - moved, value[inside] + moved
                lows.append(np.fmin(np.where(np.isnan(low), -np.inf, low).min(0), middle))
                highs.append(np.fmax(np.where(np.isnan(high), np.inf, high).max(0), middle))
        low = np.minimum.accumulate(lows)[::-1]
        ends = np.concatenate([low, middle[None], np.maximum.accumulate(highs)]).T
        ends = np.where(np.isnan(ends), 0.0, ends)
        return np.maximum.accumulate(np.clip(ends, 0.0, law.highest), axis=1)

    @property
    def best(self) -> Solution:
        """The law's optimum."""
        return self.member.solution

    def _shape(self, tokens: Floats, theta: Floats) -> Floats:
        """The law's shape at tokens (q,), also infinite ones: (m, q)."""
        law, span = self.member.law, self.region.problem.span
        found = np.empty((len(theta), len(tokens)))
        finite = np.isfinite(tokens)
        with np.errstate(all="ignore"):
            if finite.any():
                found[:, finite] = law.shape(tokens[finite], theta, span)
            if not finite.all():
                limit = law.shape_limit(theta, span)
                found[:, ~finite] = np.clip(limit, -FARTHEST_SHAPE, FARTHEST_SHAPE)[:, None]
        return found


@dataclass(frozen=True)
class Mixture:
    """The laws of a set as one distribution of the ratio at any token count."""

    profiles: tuple[Profile, ...]
    shares: Floats
    """Of each profile: (profiles,), with a sum of 1."""

    def quantiles(self, tokens: Floats, chances: Floats) -> Floats:
        """Quantiles of the law's value at tokens (q,) in billions (inf: the limit): (chances, q).

        0 and the law's highest value where a side is open.
        """
        ends = np.stack([profile.ends(tokens) for profile in self.profiles])
        ends = ends + np.arange(ends.shape[-1]) * APART
        found = np.empty((len(chances), len(tokens)))
        for i in range(len(tokens)):
            at = np.unique(ends[:, i])
            below = np.zeros(len(at))
            for share, own in zip(self.shares, ends[:, i], strict=True):
                below += share * np.interp(at, own, CHANCES, left=0.0, right=1.0)
            below = np.maximum.accumulate(below) + np.arange(len(at)) * 1e-15
            found[:, i] = np.interp(chances, below, at)
        return found


def mixture(laws: LawSet) -> Mixture | None:
    """The answers of a set of laws; None where the points leave no law any freedom."""
    found = [_profile(member, laws) for member in laws.kept]
    profiles = tuple(profile for profile in found if profile is not None)
    if not profiles:
        return None
    shares = np.array([profile.member.weight for profile in profiles])
    return Mixture(profiles, shares / shares.sum())


def _profile(member: Member, laws: LawSet) -> Profile | None:
    problem, best = member.problem, member.solution
    count = len(problem.tokens)
    spare = count - member.parameters
    if spare < 1:
        return None
    inflation = laws.noise.inflation
    freedom = max(count / inflation - member.parameters, 1.0)
    quantiles = stdtrit(freedom, 0.5 + LEVELS / 2) ** 2
    limits = float(best.sse[0]) * (1 + quantiles * inflation / spare)
    theta = scan(problem, best, float(limits[-1]))
    centre = solve(problem, theta)
    inside = centre.sse <= limits[-1] * (1 + 1e-9)
    rows = np.flatnonzero(inside)
    region = Region(problem, best, float(limits[-1]), theta[inside], centre.rows(rows), True)
    return Profile(member, region, limits)
