"""The laws that a curve's points cannot refuse, each fitted, with a weight.

A law's weight goes as exp(-distance / (2 TEMPER)), with its distance in AICc from the best one;
correlated residuals count for fewer points. The run's own law is kept in with OWN_AT_LEAST.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparsing.analysis.evidence.noise import Noise, estimate_noise
from sparsing.analysis.fitting.comparison import CURVE_LAWS
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.projection import Problem, Solution, least_mse
from sparsing.analysis.fitting.varpro import refine
from sparsing.analysis.laws.sparsity import Floats, Law

TEMPER = 1.7
"""Weights by the AICc alone are too sure of themselves on real curves (docs/laws.md)."""
OWN_AT_LEAST = 0.1
LEAST_WEIGHT = 0.004
"""A law with less is left out."""
SMALL_POWER = 0.3
"""A power of the noise's variance below this leaves the weights as they are."""
PRECISELY = 1e-7


@dataclass(frozen=True)
class Member:
    """A law of the set, fitted to the points."""

    law: Law
    problem: Problem
    solution: Solution
    """Of 1."""
    distance: float
    """AICc above that of the best law, with correlated residuals counted as fewer."""
    weight: float
    """Its share of the answers; 0 where it is left out."""

    @property
    def parameters(self) -> int:
        """Free parameters of the law."""
        return 2 + len(self.law.coordinates)

    def value(self, tokens: Floats) -> Floats:
        """The law at tokens (q,) in billions."""
        found = self.solution
        with np.errstate(over="ignore"):
            shape = self.law.shape(tokens, found.theta[0], self.problem.span)
        return found.start[0] + found.change[0] * shape


@dataclass(frozen=True)
class LawSet:
    """All laws on one curve, the best first; those with a weight above 0 answer."""

    members: tuple[Member, ...]
    noise: Noise
    weights: Floats
    """Of the points, (n,), with the power of the noise in them."""

    @property
    def kept(self) -> list[Member]:
        """The laws that answer."""
        return [member for member in self.members if member.weight]

    def of(self, name: str) -> Member:
        """The member with this law's name."""
        return next(member for member in self.members if member.law.name == name)


def fit_laws(fit: Fit) -> LawSet:
    """All laws on the points of a fit, whose own law is one of `CURVE_LAWS`."""
    points = fit.points
    given = fit.problem.weights
    near = {name: each.whole for name, each in fit.compared.items() if _testable(fit, name)}
    near[fit.law] = fit.solution
    problems = {name: _problem(fit, name, given) for name in near}
    if given is not points.weights:  # a robust loss has changed them
        near = {name: _refined(problems[name], near[name]) for name in near}
    best = min(near, key=lambda name: _aicc(problems[name], near[name], 1.0))
    noise = estimate_noise(problems[best].law, near[best], points, given)
    weights = given
    if abs(noise.power) > SMALL_POWER:
        relative = np.exp(noise.power * np.log(points.tokens / points.tokens[-1]))
        weights = given * relative * (given.sum() / (given * relative).sum())
        problems = {name: _problem(fit, name, weights) for name in near}
        near = {name: _refined(problems[name], near[name]) for name in near}
    else:
        noise = noise._replace(power=0.0)
    names = sorted(near, key=lambda name: _aicc(problems[name], near[name], noise.inflation))
    scores = np.array([_aicc(problems[name], near[name], noise.inflation) for name in names])
    distances = scores - scores[0]
    shares = _shares(distances, names.index(fit.law))
    members = []
    for name, distance, share in zip(names, distances, shares, strict=True):
        problem, found = problems[name], near[name]
        if share and name != fit.law:
            found = _refined(problem, found)
        members.append(Member(problem.law, problem, found, float(distance), float(share)))
    return LawSet(tuple(members), noise, weights)


def _testable(fit: Fit, name: str) -> bool:
    """Whether there are points to spare for a law."""
    return 2 + len(CURVE_LAWS[name].coordinates) < len(fit.points.tokens) - 1


def _problem(fit: Fit, name: str, weights: Floats) -> Problem:
    points = fit.points
    return Problem(CURVE_LAWS[name], points.tokens, points.values, weights, points.span)


def _refined(problem: Problem, near: Solution) -> Solution:
    """The optimum near a solution (of 1)."""
    return refine(replace(problem, values=problem.values[None]), near.theta, converged=PRECISELY)


def _aicc(problem: Problem, solution: Solution, inflation: float) -> float:
    count = len(problem.tokens)
    parameters = 3 + len(problem.law.coordinates)
    sse = max(float(solution.sse[0]), count * least_mse(problem.values))
    penalty = 2 * parameters * count / max(count - parameters - 1, 0.5)
    return float(count / inflation * np.log(sse / count) + penalty)


def _shares(distances: Floats, own: int) -> Floats:
    shares = np.exp(-distances / (2 * TEMPER))
    shares /= shares.sum()
    if shares[own] < OWN_AT_LEAST:
        shares *= (1 - OWN_AT_LEAST) / (1 - shares[own])
        shares[own] = OWN_AT_LEAST
    shares[shares < LEAST_WEIGHT] = 0.0
    return shares / shares.sum()
