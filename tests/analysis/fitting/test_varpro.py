from __future__ import annotations

import numpy as np
import pytest
from curves import TABLE_2, synthetic

from sparsing.analysis.fitting.comparison import CURVE_LAWS
from sparsing.analysis.fitting.projection import Problem, grid, grid_sse, solve
from sparsing.analysis.fitting.varpro import best_fit, refine
from sparsing.analysis.laws.sparsity import PAPER_LAWS, Span


def problem(name: str, law: str | None = None, **options) -> Problem:
    tokens, ratios = synthetic(name, **options)
    billions = tokens / 1e9
    form = CURVE_LAWS[law or TABLE_2[name][0]]
    span = Span(float(billions[0]), float(billions[-1]))
    return Problem(form, billions, ratios, np.ones_like(ratios), span)


def exhaustive(curve: Problem) -> float:
    """The least sum of squares on a grid far finer than the fit's, refined from its best tenth."""
    axes = [np.linspace(c.low, c.high, 200) for c in curve.law.coordinates]
    points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=-1)
    sse = grid_sse(curve, points)[0]
    best = points[np.argsort(sse)[:40]]
    return float(refine(curve, best).sse.min())


@pytest.mark.parametrize("name", TABLE_2)
@pytest.mark.parametrize("seed", range(3))
def test_optimum_is_the_exhaustive_search_s(name, seed) -> None:
    curve = problem(name, seed=seed)
    assert best_fit(curve).sse[0] <= exhaustive(curve) * 1.001


@pytest.mark.parametrize("law", CURVE_LAWS)
def test_optimum_of_the_rivals_is_the_exhaustive_search_s(law) -> None:
    for name in ("0.1b_relu", "1.2b_relu", "0.2b_silu"):
        curve = problem(name, law)
        if curve.law.coordinates:
            assert best_fit(curve).sse[0] <= exhaustive(curve) * 1.001


def test_grid_products_agree_with_the_direct_solution() -> None:
    for name in TABLE_2:
        curve = problem(name)
        theta = grid(curve.law)
        assert grid_sse(curve, theta)[0] == pytest.approx(solve(curve, theta).sse, rel=1e-6)


def test_a_batch_gives_what_its_members_give() -> None:
    curves = [problem("0.8b_relu", seed=seed) for seed in range(5)]
    values = np.stack([curve.values for curve in curves])
    weights = np.ones_like(values)
    weights[2, :4] = 0
    first = curves[0]
    together = best_fit(Problem(first.law, first.tokens, values, weights, first.span))
    for i in range(5):
        alone = best_fit(Problem(first.law, first.tokens, values[i], weights[i], first.span))
        assert together.sse[i] == pytest.approx(alone.sse[0], rel=1e-6)


def test_noise_free_parameters_come_back() -> None:
    for name, (law, truth) in TABLE_2.items():
        curve = problem(name, noise=0.0)
        found = best_fit(curve)
        back = PAPER_LAWS[law].parameters(found.theta, found.start, found.change, curve.span)
        for parameter, value in truth.items():
            assert back[parameter][0] == pytest.approx(value, rel=1e-3), (name, parameter)


def test_constraints_hold_where_the_data_pull_beyond_them() -> None:
    billions = np.linspace(1, 10, 20)
    span = Span(1.0, 10.0)
    straight = 0.2 - 0.019 * billions  # would reach 0 soon: an unconstrained limit is negative
    for values in (straight, straight[::-1]):
        curve = Problem(PAPER_LAWS["relu"], billions, values, np.ones(20), span)
        found = best_fit(curve)
        limit = curve.law.parameters(found.theta, found.start, found.change, span)["A0"]
        assert limit[0] >= -1e-12
        assert found.change[0] <= 0
