from __future__ import annotations

import numpy as np
import pytest
from curves import TABLE_2, synthetic

from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.laws.sparsity import PAPER_LAWS
from sparsing.study.errors import DefinitionError


@pytest.mark.parametrize("name", TABLE_2)
def test_prediction_intervals_hold_later_points(name) -> None:
    inside = count = 0
    for seed in range(6):
        tokens, ratios = synthetic(name, seed=seed)
        fit = fit_curve(tokens[:28], ratios[:28], drop=0, level=0.9)
        _, low, high = fit.predict_many(tokens[28:])
        inside += int(((low <= ratios[28:]) & (ratios[28:] <= high)).sum())
        count += len(tokens) - 28
    assert inside >= 0.8 * count


@pytest.mark.parametrize("name", TABLE_2)
def test_a_measurement_s_interval_is_wider_than_the_law_s(name) -> None:
    tokens, ratios = synthetic(name)
    fit = fit_curve(tokens, ratios)
    law, measured = (fit.predict(tokens[-1] * 2, measurement=m) for m in (False, True))
    assert law.value == measured.value
    assert measured.low < law.low < law.value < law.high < measured.high


@pytest.mark.parametrize("name", ["0.8b_relu", "0.1b_silu", "0.4b_silu"])
def test_tokens_to_a_ratio_on_the_way_hold_the_truth(name) -> None:
    law, parameters = TABLE_2[name]
    tokens, ratios = synthetic(name, seed=1)
    fit = fit_curve(tokens[:30], ratios[:30], drop=0)
    target = float(PAPER_LAWS[law].value(tokens[-1] / 1e9, **parameters))
    answer = fit.tokens_to(target)
    assert answer.low <= tokens[-1]
    assert answer.high is None or answer.high >= tokens[-1]
    back = fit.predict(answer.tokens, measurement=False)
    assert back.value == pytest.approx(target)


def test_never_cannot_say_and_reached() -> None:
    fit = fit_curve(*synthetic("0.8b_relu"), drop=0)
    low, high = fit.intervals["A0"]
    never, unsure = fit.tokens_to(low * 0.98), fit.tokens_to((low + high) / 2)
    assert (never.verdict, never.tokens, never.low) == ("never", None, None)
    assert unsure.verdict == "cannot say"
    assert unsure.low is not None
    assert unsure.high is None
    reached = fit.tokens_to(0.08)
    assert reached.verdict == "reached"
    assert reached.low < reached.tokens < reached.high
    rising = fit_curve(*synthetic("0.2b_silu"), drop=0)
    assert rising.tokens_to(0.42).verdict == "never"
    assert rising.tokens_to(0.38).verdict == "reached"


def test_what_cannot_be_asked() -> None:
    fit = fit_curve(*synthetic("0.8b_relu"))
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(DefinitionError):
            fit.tokens_to(ratio)
    for tokens in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DefinitionError):
            fit.predict(tokens)


def test_predictions_stay_possible() -> None:
    tokens = np.linspace(1e9, 1e10, 20)
    fit = fit_curve(tokens, np.linspace(0.5, 0.99, 20) + 1e-3 * np.sin(tokens))
    for at in (1e3, 1e9, 1e12, 1e18):
        prediction = fit.predict(at)
        assert 0 <= prediction.low <= prediction.value <= prediction.high <= 1
