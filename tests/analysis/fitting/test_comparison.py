from __future__ import annotations

import numpy as np
import pytest
from curves import TABLE_2, synthetic

from sparsing.analysis.fitting.comparison import CURVE_LAWS, compare_laws, undecided
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.fitting.points import read_points


@pytest.mark.parametrize("name", TABLE_2)
def test_the_true_law_is_among_the_undecided(name) -> None:
    criteria = fit_curve(*synthetic(name, points=60), drop=0).criteria
    assert set(criteria) == set(CURVE_LAWS)
    aicc = {law: values["aicc"] for law, values in criteria.items()}
    assert aicc[TABLE_2[name][0]] - min(aicc.values()) < 4
    assert undecided(criteria)[0] == min(aicc, key=aicc.__getitem__)


def test_a_law_that_cannot_fall_is_far_off() -> None:
    criteria = fit_curve(*synthetic("0.8b_relu")).criteria
    assert criteria["silu"]["aicc"] > criteria["relu"]["aicc"] + 100
    assert criteria["silu"]["holdout_mae"] > 10 * criteria["relu"]["holdout_mae"]
    assert "silu" not in undecided(criteria)


def test_criteria_are_those_of_the_books() -> None:
    tokens, ratios = synthetic("0.2b_silu")
    fit = fit_curve(tokens, ratios, law="silu", drop=0)
    n, k = 40, 4  # alpha, c, A0 and the noise's variance
    log_likelihood = -n / 2 * np.log(fit.mse)
    found = fit.criteria["silu"]
    assert found["bic"] == pytest.approx(k * np.log(n) - 2 * log_likelihood)
    aic = 2 * k - 2 * log_likelihood
    assert found["aicc"] == pytest.approx(aic + 2 * k * (k + 1) / (n - k - 1))


def test_too_few_points_have_no_criteria() -> None:
    compared = compare_laws(read_points([1e9, 2e9, 3e9], [0.3, 0.2, 0.15]))
    criteria = {law: each.criteria for law, each in compared.items()}
    assert criteria["relu"] == {"aicc": None, "bic": None, "holdout_mae": None}
    assert criteria["logarithm"]["bic"] is not None
