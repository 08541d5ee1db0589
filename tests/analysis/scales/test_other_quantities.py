from __future__ import annotations

import numpy as np
import pytest
from curves import synthetic

from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.scales.other_quantities import (
    LossPowerLaw,
    ScaleLaw,
    WidthDepthLaw,
    derivative_by_data_ratio,
)


def test_loss_of_one_run() -> None:
    tokens = np.linspace(1e9, 4e10, 60)
    noise = np.random.default_rng(0).normal(0, 2e-3, 60)
    fit = fit_curve(tokens, 2.4 + 1.1 * (tokens / 1e9) ** -0.4 + noise, law=LossPowerLaw(), drop=0)
    truth = {"alpha": 0.4, "c": 1.1, "L0": 2.4}
    for name, value in truth.items():
        low, high = fit.intervals[name]
        assert low < value < high
    assert fit.limit == fit.parameters["L0"]
    at = fit.predict(1e11)
    assert at.low < 2.4 + 1.1 * 100**-0.4 < at.high
    assert fit.tokens_to(2.0).verdict == "never"
    assert fit.form.tokens_at(2.6, **truth) == pytest.approx(float((1.1 / 0.2) ** 2.5))


def test_width_depth_ratio_rises_to_a_bottleneck_then_is_flat() -> None:
    ratio = np.array([14, 26, 40, 53, 74, 114, 160, 210, 282], dtype=float)
    noise = np.random.default_rng(2).normal(0, 5e-4, 9)
    limits = 0.08 - 4e-4 * np.maximum(0, 114 - ratio) + noise
    fit = fit_curve(ratio, limits, law=WidthDepthLaw(), drop=0)
    assert fit.parameters["A_flat"] == pytest.approx(0.08, abs=1e-3)
    low, high = fit.intervals["bottleneck"]
    assert low < 114 < high
    assert fit.parameters["slope"] == pytest.approx(4e-4, rel=0.1)
    assert fit.form.value(300.0, **fit.parameters) == pytest.approx(fit.parameters["A_flat"])


def test_limits_of_the_paper_depend_weakly_on_scale() -> None:
    parameters = np.array([1.08e8, 2.41e8, 4.52e8, 7.60e8, 1.18e9])
    relu = fit_curve(parameters, [0.0614, 0.0674, 0.0690, 0.0721, 0.0782], law=ScaleLaw(), drop=0)
    silu = fit_curve(parameters, [0.409, 0.390, 0.385, 0.383, 0.382], law=ScaleLaw(), drop=0)
    assert relu.parameters["b"] > 0 > silu.parameters["b"]
    low, high = relu.intervals["b"]
    assert 0 < low < high < 0.02
    assert relu.predict(2.44e9).value == pytest.approx(0.0828, abs=2e-3)


def test_derivative_against_tokens_per_parameter() -> None:
    fit = fit_curve(*synthetic("0.1b_silu"))
    ratios = np.array([20.0, 300.0])  # tokens per parameter
    slopes = derivative_by_data_ratio(fit, 1.08e8, ratios)
    assert slopes[0] > slopes[1] > 0
    assert slopes == pytest.approx(fit.form.derivative(ratios * 0.108, **fit.parameters))
    flat = fit_curve(np.linspace(1e9, 1e10, 9), np.full(9, 0.1))
    assert derivative_by_data_ratio(flat, 1e8, ratios) == pytest.approx([0.0, 0.0])
