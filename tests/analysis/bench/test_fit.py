from __future__ import annotations

import pytest

from sparsing.analysis.bench import coverage as bench_coverage
from sparsing.analysis.bench import fit as bench_fit
from sparsing.analysis.laws.published import MEASURED


def test_refits_are_as_near_the_points_as_curve_fit_s() -> None:
    for name in MEASURED:
        fit = bench_fit.fit_curve(*bench_fit.published_curve(name))
        bench_fit._check_optimum(name, fit, bench_fit.resampled(fit, 1000, block=1, seed=0)[:3])


@pytest.mark.slow
def test_ratios_reach_the_bars() -> None:
    for case in bench_fit.cases(3):
        bar = 300 if case.case.startswith("L(N, D)") else 10
        if "random starts (" in case.baseline:
            bar = 100
        assert case.ratio > bar, case


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0.1b_relu", "1.2b_relu", "0.4b_silu"])
def test_limits_hold_as_often_as_stated(name) -> None:
    assert 0.92 <= bench_coverage.coverage(name, 500).covered["A0"] <= 0.98


def test_coverage_counts_open_sides_as_holding() -> None:
    assert bench_coverage.holds((None, 2.0), -5.0)
    assert bench_coverage.holds((1.0, None), 9.0)
    assert not bench_coverage.holds((1.0, 2.0), 2.5)
    found = bench_coverage.coverage("0.2b_silu", 5)
    assert (found.replicates, set(found.covered)) == (5, {"alpha", "c", "A0"})
