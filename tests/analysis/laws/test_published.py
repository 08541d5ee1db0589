"""What is asked of the fits on the paper's curves: the measured ones, if they are at hand."""

from __future__ import annotations

import numpy as np
import pytest
from curves import any_curve, measured_folder

from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.fitting.projection import grid_sse
from sparsing.analysis.fitting.varpro import refine
from sparsing.analysis.laws.published import MEASURED, law_of


def first_part(name: str, level: float):
    """A fit of the first 70 % of a curve, and the points after them."""
    tokens, ratios = any_curve(name)
    end = round(0.7 * len(tokens))
    return fit_curve(tokens[:end], ratios[:end], level=level), tokens[end:], ratios[end:]


@pytest.mark.parametrize("name", MEASURED)
def test_error_is_that_of_an_exhaustive_search(name) -> None:
    fit = fit_curve(*any_curve(name))
    axes = [np.linspace(c.low, c.high, 250) for c in fit.form.coordinates]
    theta = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
    best = theta[np.argsort(grid_sse(fit.problem, theta)[0])[:50]]
    assert fit.mse * fit.n <= refine(fit.problem, best).sse.min() * 1.001


@pytest.mark.parametrize("kind", ["relu", "silu"])
def test_extrapolation_from_the_first_part(kind) -> None:
    errors = []
    for name in MEASURED:
        if law_of(name) == kind:
            fit, tokens, ratios = first_part(name, 0.95)
            errors.append(np.abs(fit.predict_many(tokens)[0] - ratios).mean())
    assert np.mean(errors) <= 9e-4


def test_prediction_intervals_of_the_first_part_hold_the_rest() -> None:
    inside = []
    for name in MEASURED:
        fit, tokens, ratios = first_part(name, 0.9)
        _, low, high = fit.predict_many(tokens)
        inside.extend((low <= ratios) & (ratios <= high))
    assert np.mean(inside) >= 0.8


def test_tokens_to_a_later_ratio_hold_the_real_ones() -> None:
    held = []
    for name in MEASURED:
        fit, tokens, _ = first_part(name, 0.95)
        whole = fit_curve(*any_curve(name))
        for at in (tokens[len(tokens) // 2], tokens[-1]):
            answer = fit.tokens_to(whole.predict(at).value)
            held.append(
                answer.low is not None
                and answer.low <= at
                and (answer.high is None or at <= answer.high)
            )
    assert sum(held) >= 9  # of 12


def test_the_warm_up_of_1_2b_relu_is_the_paper_s() -> None:
    fit = fit_curve(*any_curve("1.2b_relu"))
    assert fit.dropped == (6 if measured_folder() else 0)
