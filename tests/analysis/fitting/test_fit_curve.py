from __future__ import annotations

import json

import numpy as np
import pytest
from curves import TABLE_2, synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.fitting.names import LOSSES
from sparsing.study.errors import DefinitionError, SparsingError


def test_published_curves(curve) -> None:
    law, tokens, ratios = curve
    fit = fit_curve(tokens, ratios)
    assert fit.law == law
    assert fit.identified["A0"]
    low, high = fit.intervals["A0"]
    assert low < fit.limit < high
    assert fit.dropped <= 8
    assert fit.mse < 3e-6
    assert list(fit.parameters) == (
        ["alpha", "b", "c", "A0"] if law == "relu" else ["alpha", "c", "A0"]
    )


@pytest.mark.parametrize("name", TABLE_2)
def test_the_document_has_what_is_promised(name) -> None:
    document = json.loads(json.dumps(fit_curve(*synthetic(name)).as_dict(), allow_nan=False))
    wanted = {"law", "parameters", "intervals", "identified", "dropped", "mse", "n", "criteria"}
    assert wanted | {"warnings"} <= set(document)
    assert {"relu", "silu", "logarithm"} <= set(document["criteria"])
    assert set(document["criteria"]["relu"]) == {"aicc", "bic", "holdout_mae"}


@pytest.mark.parametrize("name", TABLE_2)
@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_units_of_tokens_do_not_matter(name, scale) -> None:
    tokens, ratios = synthetic(name)
    one, other = fit_curve(tokens, ratios, drop=0), fit_curve(tokens * scale, ratios, drop=0)
    assert other.mse == pytest.approx(one.mse, rel=1e-6)
    assert other.parameters["alpha"] == pytest.approx(one.parameters["alpha"], rel=1e-4)
    assert other.intervals["A0"] == pytest.approx(one.intervals["A0"], rel=1e-4)
    assert other.predict(tokens[-1] * scale * 2) == pytest.approx(
        one.predict(tokens[-1] * 2), rel=1e-5
    )


def test_ten_noisy_points_of_a_tiny_run_do_not_identify_a_limit() -> None:
    tokens = np.linspace(1e5, 1e6, 10)
    noise = np.random.default_rng(1).normal(0, 4e-3, 10)
    fit = fit_curve(tokens, 0.12 - 0.03 * tokens / 1e6 + noise)
    assert not fit.identified["A0"]
    assert fit.limit is None
    assert None in fit.intervals["A0"]
    assert "not identified" in str(fit)
    assert any("not identified" in warning for warning in fit.warnings)


def test_a_limit_is_not_identified_early_and_is_later() -> None:
    tokens, ratios = synthetic("1.2b_relu", noise=2e-4)
    assert fit_curve(tokens[:12], ratios[:12], drop=0).limit is None
    assert fit_curve(tokens, ratios, drop=0).limit is not None


def test_the_warmup_as_configured_is_dropped_and_nothing_else() -> None:
    tokens, ratios = synthetic("0.8b_relu")
    ratios[:3] += 0.01
    fit = fit_curve(tokens, ratios, warmup_tokens=float(tokens[2]))
    assert (fit.dropped, fit.n) == (3, 37)
    assert fit_curve(tokens, ratios, drop=0).dropped == 0
    assert fit_curve(tokens, ratios, drop=5).dropped == 5


def test_a_warmup_nobody_told_of_is_found() -> None:
    tokens, ratios = synthetic("0.8b_relu")
    ratios[:4] -= 0.004
    fit = fit_curve(tokens, ratios)
    assert fit.dropped == 4
    assert any("4 early points" in warning for warning in fit.warnings)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss) -> None:
    tokens, ratios = synthetic("0.2b_silu", noise=3e-4)
    spoiled = ratios.copy()
    spoiled[[12, 25, 33]] += 0.03
    clean, fit = fit_curve(tokens, ratios, drop=0), fit_curve(tokens, spoiled, drop=0, loss=loss)
    error = abs(fit.parameters["A0"] - clean.parameters["A0"])
    assert (error > 2e-3) if loss == "least_squares" else (error < 1e-3)


def test_weights_are_inverse_variances() -> None:
    tokens, ratios = synthetic("0.2b_silu")
    spoiled, weights = ratios.copy(), np.ones(len(tokens))
    spoiled[20] += 0.05
    weights[20] = 1e-9
    weighted = fit_curve(tokens, spoiled, weights=weights, drop=0)
    without = fit_curve(np.delete(tokens, 20), np.delete(ratios, 20), drop=0)
    assert weighted.parameters["A0"] == pytest.approx(without.parameters["A0"], abs=1e-5)
    weights[20] = 0
    assert fit_curve(tokens, spoiled, weights=weights, drop=0).n == 39


@pytest.mark.parametrize(
    ("tokens", "ratios", "said"),
    [
        ([], [], "two token counts"),
        ([1e9, 1e9], [0.1, 0.2], "two token counts"),
        ([1e9, 2e9, 3e9], [10.0, 9.0, 8.0], "divide percentages by 100"),
        ([-1e9, 2e9, 3e9], [0.1, 0.1, 0.1], "negative"),
        ([1e9, 2e9], [0.1], "as many"),
        (["a", "b"], [0.1, 0.2], "numbers"),
        ([[1e9, 2e9]], [[0.1, 0.2]], "one list"),
    ],
)
def test_input_that_cannot_be_fitted_is_refused_in_words(tokens, ratios, said) -> None:
    with pytest.raises(DefinitionError, match=said):
        fit_curve(tokens, ratios)


def test_options_out_of_range_are_refused_in_words() -> None:
    tokens, ratios = synthetic("0.8b_relu")
    for options in ({"law": "x"}, {"loss": "x"}, {"level": 95}, {"drop": 39}, {"drop": 400}):
        with pytest.raises(DefinitionError):
            fit_curve(tokens, ratios, **options)


@pytest.mark.parametrize("law", ["relu", "silu"])
@pytest.mark.parametrize("level", [0.0, 0.1, 1.0])
def test_a_constant_curve_has_no_trend(law, level) -> None:
    fit = fit_curve(np.linspace(1e9, 2e10, 20), np.full(20, level), law=law)
    assert not any(fit.identified.values())
    assert fit.limit is None
    assert fit.predict(1e12).value == pytest.approx(level, abs=1e-6)
    assert fit.tokens_to(0.05).verdict == "cannot say"


@pytest.mark.parametrize("points", [2, 3, 4])
def test_fewer_points_than_parameters_and_one_are_marked(points) -> None:
    fit = fit_curve(np.arange(1, points + 1) * 1e9, 0.1 / np.arange(1, points + 1), law="relu")
    assert not any(fit.identified.values())
    assert fit.predict(1e10) == (None, None, None)
    assert fit.tokens_to(0.01).verdict == "cannot say"


def test_order_does_not_matter_and_what_is_no_number_is_said() -> None:
    tokens, ratios = synthetic("0.8b_relu")
    mixed = np.random.default_rng(0).permutation(len(tokens))
    assert (
        fit_curve(tokens[mixed], ratios[mixed]).parameters == fit_curve(tokens, ratios).parameters
    )
    ratios[3] = np.nan
    fit = fit_curve(np.append(tokens, 0.0), np.append(ratios, 0.5))
    assert fit.n == 39
    assert any("without a number" in warning for warning in fit.warnings)
    assert any("0 tokens" in warning for warning in fit.warnings)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e15), st.floats(0, 1) | st.just(float("nan"))), max_size=14),
    st.sampled_from(["auto", "relu", "silu", "hill"]),
)
def test_any_curve_is_answered_or_refused(rows, law) -> None:
    tokens, ratios = [row[0] for row in rows], [row[1] for row in rows]
    try:
        fit = fit_curve(tokens, ratios, law=law)
    except SparsingError:
        return
    json.dumps(fit.as_dict(), allow_nan=False)
    assert str(fit)
    for bounds, known in zip(fit.intervals.values(), fit.identified.values(), strict=True):
        assert known == (None not in bounds)
    for name, (low, high) in fit.intervals.items():
        if low is not None and high is not None:
            value = fit.parameters[name]
            assert low - 1e-9 * abs(low) <= value <= high + 1e-9 * abs(high)
    answer = fit.tokens_to(0.3)
    assert answer.verdict in ("reached", "never", "cannot say")
