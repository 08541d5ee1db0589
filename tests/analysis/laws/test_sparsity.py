from __future__ import annotations

import numpy as np
import pytest
from curves import TABLE_2
from hypothesis import given
from hypothesis import strategies as st

from sparsing.analysis.fitting.comparison import CURVE_LAWS
from sparsing.analysis.laws.sparsity import PAPER_LAWS, Span

SPAN = Span(0.8, 41.6)
TOKENS = np.linspace(SPAN.first, SPAN.last, 25)
every_law = pytest.mark.parametrize("law", CURVE_LAWS.values(), ids=CURVE_LAWS.keys())


def some_theta(law, share: float) -> np.ndarray:
    """Coordinates at a share of each one's range."""
    return np.array([c.low + share * (c.high - c.low) for c in law.coordinates])


@every_law
@given(share=st.floats(0, 1), first=st.floats(1e-5, 1e3), ratio=st.floats(1.01, 1e4))
def test_shape_runs_from_0_to_1_at_any_scale(law, share, first, ratio) -> None:
    span = Span(first, first * ratio)
    shape = law.shape(np.array([span.first, span.last]), some_theta(law, share), span)
    assert shape[0] == pytest.approx(0, abs=1e-12)
    assert shape[1] == pytest.approx(1, abs=1e-9)


@every_law
@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_parameters_say_the_same_as_the_fitted_form(law, share) -> None:
    theta, start = some_theta(law, share), np.array(0.4)
    change = np.array(-0.1 if law.direction <= 0 else 0.1)
    if share == 0.2 and law.name in ("relu", "exponential"):
        change = change * 1e-2  # a nearly straight fall over the points; its limit stays above 0
    parameters = law.parameters(theta, start, change, SPAN)
    fitted = start + change * law.shape(TOKENS, theta, SPAN)
    assert law.value(TOKENS, **parameters) == pytest.approx(fitted, rel=1e-6)
    if law.limit_parameter:
        far = law.shape_limit(theta, SPAN)
        assert parameters[law.limit_parameter] == pytest.approx(start + change * far)


@pytest.mark.parametrize("name", TABLE_2)
def test_derivative_and_inverse_of_the_published_laws(name) -> None:
    law, parameters = PAPER_LAWS[TABLE_2[name][0]], TABLE_2[name][1]
    tokens = np.array([2.0, 20.0, 200.0])
    step = 1e-5 * tokens
    slope = (law.value(tokens + step, **parameters) - law.value(tokens - step, **parameters)) / (
        2 * step
    )
    assert law.derivative(tokens, **parameters) == pytest.approx(slope, rel=1e-5)
    for at in tokens:
        ratio = float(law.value(at, **parameters))
        assert law.tokens_at(ratio, **parameters) == pytest.approx(at, rel=1e-6)


def test_a_ratio_at_or_beyond_the_limit_is_never_reached() -> None:
    relu, silu = PAPER_LAWS["relu"], PAPER_LAWS["silu"]
    falling, rising = TABLE_2["0.8b_relu"][1], TABLE_2["0.2b_silu"][1]
    assert np.isnan(relu.tokens_at(falling["A0"], **falling))
    assert np.isnan(relu.tokens_at(0.01, **falling))
    assert np.isnan(silu.tokens_at(rising["A0"], **rising))
    assert relu.limit(**falling) == falling["A0"]


@every_law
def test_generic_derivative_and_inverse_agree_with_the_value(law) -> None:
    theta, start = some_theta(law, 0.5), np.array(0.4)
    change = np.array(-0.1 if law.direction <= 0 else 0.1)
    parameters = law.parameters(theta, start, change, SPAN)
    ratio = float(law.value(10.0, **parameters))
    assert law.tokens_at(ratio, **parameters) == pytest.approx(10.0, rel=1e-6)
    slope = (law.value(10.001, **parameters) - law.value(9.999, **parameters)) / 0.002
    assert law.derivative(10.0, **parameters) == pytest.approx(slope, rel=1e-3, abs=1e-9)
