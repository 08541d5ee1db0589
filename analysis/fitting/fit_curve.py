"""Fit a law to a curve, with nothing to steer: `fit_curve` gives a `Fit`.

The law is chosen, the warm-up dropped, the parameters estimated and their profile-likelihood
intervals found without start values; what the points do not identify is said, not guessed.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparsing.analysis.fitting.comparison import CURVE_LAWS
from sparsing.analysis.fitting.dropping import choose
from sparsing.analysis.fitting.fit import Bounds, Fit
from sparsing.analysis.fitting.names import LOSSES, Loss
from sparsing.analysis.fitting.points import MOST_POINTS, Points, different, read_points
from sparsing.analysis.fitting.projection import Problem, Solution
from sparsing.analysis.fitting.region import Region, confidence_region
from sparsing.analysis.fitting.robust import robust_weights
from sparsing.analysis.fitting.varpro import refine
from sparsing.analysis.laws.sparsity import PAPER_LAWS, Floats, Law
from sparsing.study.errors import DefinitionError

DIVERGED_SHAPE = 100.0
"""A limit further away than this many times the change measured is no limit."""

__all__ = ["Fit", "fit_curve"]


def fit_curve(
    tokens: ArrayLike,
    activation_ratio: ArrayLike,
    *,
    law: str | Law = "auto",
    drop: int | None = None,
    warmup_tokens: float | None = None,
    weights: ArrayLike | None = None,
    loss: Loss = "least_squares",
    level: float = 0.95,
) -> Fit:
    """Fit a law to a curve of activation ratios against plain training tokens.

    `law`: a name of `CURVE_LAWS`, a law object (then of that law's quantities), or `auto`, which
    takes the relu or silu form, whichever fits better. Early points: `drop` of them, or those at
    `warmup_tokens` and before; with neither, as many as the BIC asks for. `weights`: inverse
    variances of the measurements. Raises DefinitionError for input that no law can be fitted to;
    where it can, but says too little, the answer is marked not identified.
    """
    began = time.perf_counter()
    candidates = _candidates(law)
    _check(loss, level)
    unit, highest = candidates[0].unit, candidates[0].highest
    points = read_points(tokens, activation_ratio, weights, unit=unit, highest=highest)
    if warmup_tokens is not None:
        drop = (drop or 0) + int((points.tokens <= warmup_tokens / unit).sum())
    _check_left(points, drop or 0)
    points, given = _joined(points, drop)
    chosen, dropped, theta = choose(points, candidates, 0 if given else drop)
    rest = points.after(dropped)
    dropped = given + points.measured - rest.measured
    problem, solution = _estimate(chosen, rest, theta, loss)
    region = confidence_region(problem, solution, 2 + len(chosen.coordinates), level)
    said = []
    if len(candidates) > 1:
        found = region is None or region.trend
        how = "chosen by fit" if found else "taken, for neither form finds a trend"
        said.append(f"law '{chosen.name}' {how}")
    if drop is None and dropped:
        said.append(f"{dropped} early points dropped: without them the BIC is lower by over 6")
    return _describe(
        problem,
        solution,
        region,
        points=rest,
        dropped=dropped,
        loss=loss,
        level=level,
        said=said,
        settings=_settings(chosen, drop, warmup_tokens),
        began=began,
    )


def _joined(points: Points, drop: int | None) -> tuple[Points, int]:
    """The points, joined where they are many, and how many were dropped before that."""
    if len(points.tokens) <= MOST_POINTS:
        return points, 0
    return points.after(drop or 0).joined(), drop or 0


def _candidates(law: str | Law) -> list[Law]:
    if isinstance(law, Law):
        return [law]
    if law == "auto":
        return list(PAPER_LAWS.values())
    if law not in CURVE_LAWS:
        raise DefinitionError(f"no law '{law}'; laws: auto, {', '.join(CURVE_LAWS)}")
    return [CURVE_LAWS[law]]


def _check(loss: str, level: float) -> None:
    if loss not in LOSSES:
        raise DefinitionError(f"no loss '{loss}'; losses: {', '.join(LOSSES)}")
    if not 0 < level < 1:
        raise DefinitionError(f"level lies between 0 and 1, got {level:g}; 0.95 is usual")


def _check_left(points: Points, drop: int) -> None:
    left = points.tokens[drop:]
    if not different(left):
        raise DefinitionError(
            f"{len(left)} of {len(points.tokens)} points are left without the {drop} early ones; "
            "a fit needs two token counts or more"
        )


def _estimate(law: Law, points: Points, theta: Floats, loss: Loss) -> tuple[Problem, Solution]:
    """The optimum near theta; with a robust loss, of the reweighted problem."""
    problem = Problem(law, points.tokens, points.values, points.weights, points.span)
    solution = refine(problem, theta)
    if loss != "least_squares":
        problem, solution = robust_weights(problem, solution, loss)
    return problem, solution


def _settings(law: Law, drop: int | None, warmup_tokens: float | None) -> dict[str, Any]:
    """What is needed to repeat a fit, besides its points, loss and level."""
    return {
        "optimizer": "variable projection: grid, then Levenberg-Marquardt",
        "start_rule": "grid over the bounds",
        "bounds": {c.name: [c.low, c.high] for c in law.coordinates},
        "drop": drop,
        "warmup_tokens": warmup_tokens,
        "seed": None,
    }


def _describe(
    problem: Problem,
    solution: Solution,
    region: Region | None,
    *,
    points: Points,
    dropped: int,
    loss: Loss,
    level: float,
    said: list[str],
    settings: dict[str, Any],
    began: float,
) -> Fit:
    law, n = problem.law, len(points.tokens)
    estimates = law.parameters(solution.theta, solution.start, solution.change, problem.span)
    flat = float(solution.change[0]) == 0.0
    intervals = intervals_of(law, region)
    identified = {name: None not in bounds for name, bounds in intervals.items()}
    return Fit(
        law=law.name,
        parameters={
            name: _number(estimates[name][0], flat and name != law.limit_parameter)
            for name in law.parameter_names
        },
        intervals=intervals,
        identified=identified,
        dropped=dropped,
        mse=(float(solution.sse[0]) + points.scattered) / float(problem.weights.sum()),
        n=n,
        level=level,
        loss=loss,
        warnings=(*points.warnings, *said, *_warnings(problem, region, flat, identified)),
        fit_seconds=time.perf_counter() - began,
        points=points,
        settings=settings | {"loss": loss, "level": level},
        problem=problem,
        solution=solution,
        _regions={level: region},
    )


def _number(value: float, unknown: bool) -> float | None:
    return float(value) if np.isfinite(value) and not unknown else None


def intervals_of(law: Law, region: Region | None) -> dict[str, Bounds]:
    """Each parameter's interval; None = open: unbounded, or it ends only where the search does."""
    names = law.parameter_names
    if region is None or not region.trend:
        return dict.fromkeys(names, (None, None))

    def quantities(theta: Floats, start: Floats, change: Floats) -> Floats:
        found = law.parameters(theta, start, change, region.problem.span)
        return np.stack(np.broadcast_arrays(*found.values(), start)[:-1])

    intervals: dict[str, Bounds] = {}
    for name, found in zip(names, region.extremes(quantities), strict=True):
        low_open, high_open = found.low_at_bound, found.high_at_bound
        if name == law.limit_parameter:
            diverged = bool(region.limit_shape.max() > DIVERGED_SHAPE)
            low_open, high_open = diverged or found.low <= 0, diverged or found.high >= law.highest
        low, high = (None if low_open else found.low), (None if high_open else found.high)
        intervals[name] = low, high
    return intervals


def _warnings(
    problem: Problem, region: Region | None, flat: bool, identified: dict[str, bool]
) -> list[str]:
    law, n = problem.law, int((problem.weights > 0).sum())
    if region is None:
        return [f"not identified: {n} points for {len(identified)} parameters and their intervals"]
    if flat or not region.trend:
        wanted = {-1: "fall", 0: "change", 1: "rise"}[law.direction]
        return [f"not identified: the points do not {wanted} beyond their noise"]
    missing = [name for name, known in identified.items() if not known]
    return [f"not identified: {', '.join(missing)}"] if missing else []
