"""`sparsing bench fit`: fits and refits against scipy's curve_fit, L(N, D) against a grid.

The curves are the paper's, from the folder SPARSING_CURVES, or synthetic ones from its published
laws. Slow baselines are measured on a part of their work and scaled to the whole of it. Nothing
is reported where ours is not at least as near the data as the baseline.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit, minimize

from sparsing.analysis.fitting.bootstrap import bootstrap, resampled
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.laws.published import MEASURED, published_curve
from sparsing.analysis.laws.sparsity import Floats
from sparsing.analysis.scales.loss_surface import DELTA, fit_loss_surface, loss_terms
from sparsing.study.bench.bench import Case, compare
from sparsing.study.errors import SparsingError

REFITS = 1000
WARM_SAMPLE, RANDOM_SAMPLE, RANDOM_STARTS = 25, 2, 20
GRID_SAMPLE = 25
RUNS = 234


def cases(repeats: int) -> list[Case]:
    """All cases of this benchmark."""
    found: list[Case] = []
    for name in MEASURED:
        tokens, ratios = published_curve(name)
        fit = fit_curve(tokens, ratios)
        curves = resampled(fit, REFITS, block=1, seed=0)
        _check_optimum(name, fit, curves[:WARM_SAMPLE])
        found += [_fit_case(name, tokens, ratios, fit, curves, repeats)]
        found += _bootstrap_cases(name, fit, curves, repeats)
    return [*found, _surface_case(repeats)]


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _fit_case(
    name: str, tokens: Floats, ratios: Floats, fit: Fit, curves: Floats, repeats: int
) -> Case:
    """Estimates with intervals, from nothing but a curve."""

    def baseline() -> float:
        estimate = _random_starts(fit, fit.points.values[None])
        return estimate + _warm(fit, curves[:WARM_SAMPLE]) * REFITS / WARM_SAMPLE

    return compare(
        f"fit with intervals, {name}",
        lambda: _milliseconds(lambda: fit_curve(tokens, ratios)),
        baseline,
        baseline_name=f"curve_fit, {RANDOM_STARTS} random starts and {REFITS} refits",
        unit="ms",
        better="lower",
        repeats=repeats,
    )


def _bootstrap_cases(name: str, fit: Fit, curves: Floats, repeats: int) -> list[Case]:
    baselines = {
        f"curve_fit, warm start ({WARM_SAMPLE} refits, scaled)": lambda: (
            _warm(fit, curves[:WARM_SAMPLE]) * REFITS / WARM_SAMPLE
        ),
        f"curve_fit, {RANDOM_STARTS} random starts ({RANDOM_SAMPLE} refits, scaled)": lambda: (
            _random_starts(fit, curves[:RANDOM_SAMPLE]) * REFITS / RANDOM_SAMPLE
        ),
    }
    return [
        compare(
            f"{REFITS} bootstrap refits, {name}",
            lambda: _milliseconds(lambda: bootstrap(fit, REFITS)),
            baseline,
            baseline_name=baseline_name,
            unit="ms",
            better="lower",
            repeats=repeats,
        )
        for baseline_name, baseline in baselines.items()
    ]


def _check_optimum(name: str, fit: Fit, curves: Floats) -> None:
    """Our refits are at most 0.1 % further from the points than warm-started curve_fit's."""
    refits = bootstrap(fit, REFITS).parameters
    for i, curve in enumerate(curves):
        ours = {parameter: values[i] for parameter, values in refits.items()}
        start = [fit.parameters[p] for p in fit.form.parameter_names]
        theirs = dict(zip(fit.form.parameter_names, _curve_fit(fit, curve, start), strict=True))
        misses = [
            float(((fit.form.value(fit.points.tokens, **p) - curve) ** 2).sum())
            for p in (ours, theirs)
        ]
        if misses[0] > misses[1] * 1.001:
            raise SparsingError(f"{name}: refit {i} is worse than curve_fit's: {misses}")


def _curve_fit(fit: Fit, values: Floats, start: list[float | None] | Floats) -> Floats:
    """scipy's estimate from a start; the start itself where scipy gives up."""
    names = fit.form.parameter_names

    def law(tokens: Floats, *parameters: float) -> Floats:
        return fit.form.value(tokens, **dict(zip(names, parameters, strict=True)))

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            return curve_fit(law, fit.points.tokens, values, p0=start, maxfev=5000)[0]
        except (RuntimeError, ValueError):
            return np.array(start, dtype=float)


def _warm(fit: Fit, curves: Floats) -> float:
    start = [fit.parameters[name] for name in fit.form.parameter_names]
    return _milliseconds(lambda: [_curve_fit(fit, curve, start) for curve in curves])


def _random_starts(fit: Fit, curves: Floats) -> float:
    """curve_fit from random starts over the ranges that the paper's coefficients span."""
    random = np.random.default_rng(0)
    ranges = {"alpha": (0.05, 2.0), "b": (-5.0, 1.0), "c": (1e-4, 4.0), "A0": (0.0, 0.5)}
    low, high = np.array([ranges[name] for name in fit.form.parameter_names]).T
    starts = random.uniform(low, high, size=(RANDOM_STARTS, len(low)))
    return _milliseconds(
        lambda: [_curve_fit(fit, curve, start) for curve in curves for start in starts]
    )


def _surface_case(repeats: int) -> Case:
    runs = surface_runs()
    grid = start_grid()
    sample = grid[np.random.default_rng(0).permutation(len(grid))[:GRID_SAMPLE]]
    theirs = best_of_starts(*runs, sample)
    ours = fit_loss_surface(*runs).objective
    if ours > theirs * (1 + 1e-9):
        raise SparsingError(f"L(N, D): our objective {ours} is above the grid's {theirs}")
    return compare(
        f"L(N, D), {RUNS} runs, Huber loss",
        lambda: _milliseconds(lambda: fit_loss_surface(*runs)),
        lambda: _milliseconds(lambda: best_of_starts(*runs, sample)) * len(grid) / GRID_SAMPLE,
        baseline_name=f"L-BFGS from {len(grid)} starts ({GRID_SAMPLE} of them, scaled)",
        unit="ms",
        better="lower",
        repeats=repeats,
    )


def surface_runs(seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Parameters, tokens and losses of runs about Hoffmann's surface, some of them far off it."""
    random = np.random.default_rng(seed)
    parameters = np.exp(random.uniform(np.log(4e7), np.log(1.6e10), RUNS))
    tokens = np.exp(random.uniform(np.log(1e9), np.log(5e11), RUNS))
    loss = 1.69 + 406.4 * parameters**-0.34 + 410.7 * tokens**-0.28
    noise = random.normal(0, 0.01, RUNS) * np.where(random.random(RUNS) < 0.05, 8, 1)
    return parameters, tokens, loss * np.exp(noise)


def start_grid() -> Floats:
    """The field's 5^5 starts of (log E, log A, log B, alpha, beta)."""
    exponents, offsets = [0, 0.5, 1, 1.5, 2], [0, 5, 10, 15, 20]
    return np.array(
        list(itertools.product([-1, -0.5, 0, 0.5, 1], offsets, offsets, exponents, exponents))
    )


def best_of_starts(parameters: Floats, tokens: Floats, loss: Floats, starts: Floats) -> float:
    """The least objective that L-BFGS reaches from the starts, with exact gradients."""
    terms, log_loss = loss_terms(np.log(parameters), np.log(tokens)), np.log(loss)

    def objective(theta: Floats) -> tuple[float, Floats]:
        exponents = terms @ theta
        highest = exponents.max(1)
        parts = np.exp(exponents - highest[:, None])
        total = parts.sum(1)
        misses = highest + np.log(total) - log_loss
        size = np.abs(misses)
        value = np.where(size <= DELTA, misses**2 / 2, DELTA * (size - DELTA / 2)).sum()
        slopes = np.einsum("nk,nkp->np", parts / total[:, None], terms)
        return float(value), slopes.T @ np.clip(misses, -DELTA, DELTA)

    found = (minimize(objective, start, jac=True, method="L-BFGS-B") for start in starts)
    return min(float(each.fun) for each in found)
