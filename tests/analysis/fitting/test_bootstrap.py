from __future__ import annotations

import numpy as np
import pytest
from curves import TABLE_2, synthetic

from sparsing.analysis.fitting.bootstrap import bootstrap, resampled
from sparsing.analysis.fitting.fit_curve import fit_curve


@pytest.mark.parametrize("name", TABLE_2)
def test_percentile_and_profile_intervals_are_alike(name) -> None:
    fit = fit_curve(*synthetic(name), drop=0)
    low, high = bootstrap(fit, 400).interval("A0")
    profile_low, profile_high = fit.intervals["A0"]
    assert (low, high) == pytest.approx(
        (profile_low, profile_high), abs=0.3 * (profile_high - profile_low)
    )


def test_seed_decides_and_blocks_stay_together() -> None:
    fit = fit_curve(*synthetic("0.8b_relu"), drop=0)
    one, same = resampled(fit, 50, block=5, seed=1), resampled(fit, 50, block=5, seed=1)
    assert np.array_equal(one, same)
    shape = fit.form.shape(fit.problem.tokens, fit.solution.theta[0], fit.problem.span)
    fitted = fit.solution.start[0] + fit.solution.change[0] * shape
    residuals = fit.points.values - fitted
    residuals = (residuals - residuals.mean()) * np.sqrt(40 / 36)
    drawn = (one - fitted)[:, :5]
    for row in drawn:
        first = int(np.abs(residuals - row[0]).argmin())
        assert row == pytest.approx(residuals[(first + np.arange(5)) % 40])
