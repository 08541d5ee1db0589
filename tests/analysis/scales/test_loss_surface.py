from __future__ import annotations

import numpy as np
import pytest

from sparsing.analysis.bench.fit import best_of_starts, start_grid, surface_runs
from sparsing.analysis.scales.loss_surface import fit_loss_surface
from sparsing.study.errors import DefinitionError


def test_coefficients_come_back_without_noise() -> None:
    parameters, tokens, _ = surface_runs()
    found = fit_loss_surface(parameters, tokens, 1.7 + 400 * parameters**-0.3 + 300 * tokens**-0.25)
    assert (found.E, found.alpha, found.beta) == pytest.approx((1.7, 0.3, 0.25), rel=1e-4)
    assert pytest.approx((400, 300), rel=1e-3) == (found.A, found.B)


@pytest.mark.parametrize("seed", range(2))
def test_no_start_of_the_grid_gets_lower(seed) -> None:
    runs = surface_runs(seed)
    starts = start_grid()[np.random.default_rng(seed).permutation(3125)[:8]]
    assert fit_loss_surface(*runs).objective <= best_of_starts(*runs, starts) * (1 + 1e-9)


def test_outliers_hardly_pull() -> None:
    parameters, tokens, loss = surface_runs(5)
    spoiled = loss.copy()
    spoiled[:10] *= 1.5
    one, other = (fit_loss_surface(parameters, tokens, each) for each in (loss, spoiled))
    assert pytest.approx(one.E, rel=0.05) == other.E


def test_best_split_is_best() -> None:
    found = fit_loss_surface(*surface_runs())
    parameters, tokens = found.best_split(1e21)
    assert 6 * parameters * tokens == pytest.approx(1e21)
    for factor in (0.9, 1.1):
        beside = found.loss(parameters * factor, tokens / factor)
        assert beside > found.loss(parameters, tokens)


def test_what_cannot_be_fitted() -> None:
    parameters, tokens, loss = surface_runs()
    for wrong in (
        (parameters[:5], tokens[:5], loss[:5]),
        (parameters, tokens[:9], loss),
        (parameters, tokens, -loss),
        (parameters, tokens, loss * np.nan),
    ):
        with pytest.raises(DefinitionError):
            fit_loss_surface(*wrong)
