from __future__ import annotations

import numpy as np
import pytest
from curves import synthetic

from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.fitting.points import MOST_POINTS, read_points
from sparsing.analysis.laws.published import NOISE, PUBLISHED


def test_many_points_are_joined_and_say_so() -> None:
    tokens, ratios = synthetic("0.8b_relu", points=20_000)
    fit = fit_curve(tokens, ratios)
    assert len(fit.points.tokens) <= MOST_POINTS
    assert any("20000 points were joined" in warning for warning in fit.warnings)
    assert fit.as_dict()["n"] + fit.dropped == 20_000
    assert fit.mse**0.5 == pytest.approx(NOISE["relu"], rel=0.03)
    low, high = fit.intervals["A0"]
    assert low < PUBLISHED["0.8b_relu"]["A0"] < high
    assert high - low < 1e-3


def test_points_that_are_told_to_be_dropped_are_dropped_before_they_are_joined() -> None:
    tokens, ratios = synthetic("0.8b_relu", points=5000)
    fit = fit_curve(tokens, ratios, drop=100)
    assert (fit.dropped, fit.points.measured) == (100, 4900)
    assert fit.points.tokens[0] * 1e9 >= tokens[100]


def test_joined_points_keep_means_weights_and_scatter() -> None:
    tokens, ratios = synthetic("0.8b_relu", points=3000)
    points = read_points(tokens, ratios)
    joined = points.joined(50)
    assert joined.weights.sum() == pytest.approx(points.weights.sum())
    mean = (joined.weights * joined.values).sum() / joined.weights.sum()
    assert mean == pytest.approx(ratios.mean())
    whole = ((ratios - ratios.mean()) ** 2).sum()
    between = (joined.weights * (joined.values - mean) ** 2).sum()
    assert between + joined.scattered == pytest.approx(whole)
    assert np.all(np.diff(joined.tokens) > 0)
    assert points.joined(3000) is points
