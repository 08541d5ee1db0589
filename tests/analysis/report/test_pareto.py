"""Which way of choosing weak neurons keeps the fewest is read off the curves, never assumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_stores import small_study, write, write_measurements

from sparsing.analysis.figures.data import StudyData
from sparsing.analysis.figures.pareto import (
    WAYS,
    crossing,
    curves_of,
    read_pareto,
    smallest_ratios,
)
from sparsing.analysis.report.report import render_report
from sparsing.analysis.report.weak_neurons import ratios_table, weak_neurons
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.store.study_store import StudyStore

GRID = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
COSTS = {"cett": 0.1, "fat": 0.2, "topk": 0.4}
"""Activation ratio of each way at a perplexity rise of 1 %."""


def write_pareto(
    store: StudyStore, run: Run, costs: dict[str, float], step: int | None = None, **powers: float
) -> None:
    """Curves on which perplexity rises by (cost / ratio)^power percent."""
    at = step or run.steps
    shared = {"step": at, "tokens": at * run.batch_tokens, "measured_tokens": 8192}
    rows: list[dict[str, Any]] = []
    for way, cost in costs.items():
        for parameter, ratio in enumerate(GRID):
            rise = (cost / ratio) ** powers.get(way, 3)
            place = shared | {"metric": way, "parameter": float(parameter)}
            losses = {"dense_loss": 2.0, "sparse_loss": 2.0, "ppl_rise_percent": rise}
            rows.append(place | losses | {"activation_ratio": ratio})
            rows.append(place | losses | {"activation_ratio": 0.9, "domain": "code"})
    if run.activation == "relu":
        straight = {"metric": "relu", "activation_ratio": 0.5, "ppl_rise_percent": 0.0}
        rows.append(shared | straight | {"dense_loss": 2.0, "sparse_loss": 2.0})
    write(store, "pareto", run, rows)


def study_with(tmp_path: Path, **powers: float) -> tuple[StudyData, pl.DataFrame]:
    store = StudyStore.create(tmp_path, small_study())
    for run in plan_runs(store.study):
        write_pareto(store, run, COSTS, **powers)
    data = StudyData.read(store)
    return data, read_pareto(data)


@given(cost=st.floats(0.021, 0.79), power=st.floats(0.5, 6), rise=st.floats(0.3, 30))
def test_crossing_of_a_power_law_is_exact(cost: float, power: float, rise: float) -> None:
    points = [(ratio, (cost / ratio) ** power) for ratio in GRID]
    expected = cost * rise ** (-1 / power)
    found = crossing(points, rise)
    if found is None:
        assert not GRID[0] < expected <= GRID[-1]
    elif points[-1][1] > 0.01:
        assert found == pytest.approx(expected, rel=1e-6)


def test_rises_that_are_chance_stretch_no_curve() -> None:
    """A loss that by chance gets better has no logarithm, and one near 0 a meaningless one."""
    best = crossing([(0.1, 4.0), (0.2, -0.01)], 1.0)
    assert best == crossing([(0.1, 4.0), (0.2, 1e-9)], 1.0)
    assert best == pytest.approx(0.1 * 2 ** (2 / 8.6), rel=0.01)


def test_curves_that_do_not_cross() -> None:
    low, high = [(0.1, 0.5), (0.2, 0.1)], [(0.1, 9.0), (0.2, 5.0)]
    assert crossing(low, 1.0) is crossing(high, 1.0) is None
    assert smallest_ratios({"cett": low, "fat": high, "relu": [(0.3, 0.0)]}, 1.0) == {
        "cett": 0.1,
        "relu": 0.3,
    }


def test_way_with_the_fewest_neurons_is_named_with_its_numbers(tmp_path) -> None:
    data, rows = study_with(tmp_path)
    assert weak_neurons(data, rows) == (
        "At a perplexity rise of 1 %, CETT keeps the fewest neurons in all 4 runs. "
        "So it is at rises of 0.1 to 50 %."
    )
    table = ratios_table(data, rows)
    assert table.heads[1:] == tuple(WAYS.values())
    assert [row[1:] for row in table.rows] == [
        ("10.0\u00a0%", "20.0\u00a0%", "40.0\u00a0%", "50.0\u00a0%"),
        ("10.0\u00a0%", "20.0\u00a0%", "40.0\u00a0%", "50.0\u00a0%"),
        ("10.0\u00a0%", "20.0\u00a0%", "40.0\u00a0%", "–"),
        ("10.0\u00a0%", "20.0\u00a0%", "40.0\u00a0%", "–"),
    ]


def test_where_another_way_is_better_is_said(tmp_path) -> None:
    data, rows = study_with(tmp_path, fat=1.5)
    # (0.1 / r)^3 and (0.2 / r)^1.5 meet at r = 0.05, where both are 8 %.
    assert weak_neurons(data, rows) == (
        "At a perplexity rise of 1 %, CETT keeps the fewest neurons in all 4 runs. "
        "At other rises some runs keep fewer by another way: FAT-ε for ReLU at 10 to 20 %, "
        "FAT-ε for SiLU at 10 to 20 %."
    )


def test_runs_that_disagree_are_counted(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    first, *others = plan_runs(store.study)
    write_pareto(store, first, {"cett": 0.2, "fat": 0.1})
    for run in others[:2]:
        write_pareto(store, run, {"cett": 0.1, "fat": 0.2})
    data = StudyData.read(store)
    said = weak_neurons(data, read_pareto(data))
    assert "CETT keeps the fewest neurons in 2 of 3 runs and FAT-ε keeps" in said
    assert "FAT-ε for ReLU at" in said


def test_threshold_ways_end_in_straightforward_relu(tmp_path) -> None:
    data, rows = study_with(tmp_path)
    relu, _, silu, _ = data.runs
    curves = curves_of(rows, relu.run.id)
    assert (0.5, 0.0) in curves["cett"]
    assert (0.5, 0.0) in curves["fat"]
    assert (0.5, 0.0) not in curves["topk"]
    assert [ratio for ratio, _ in curves["cett"]] == sorted([*GRID, 0.5])
    assert "relu" not in curves_of(rows, silu.run.id)


def test_newest_checkpoint_counts(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    run = plan_runs(store.study)[2]
    write_pareto(store, run, {"cett": 0.4, "fat": 0.1}, step=run.steps // 2)
    write_pareto(store, run, {"cett": 0.1, "fat": 0.4})
    data = StudyData.read(store)
    rows = read_pareto(data)
    assert len(rows) == 2 * len(GRID)
    assert "CETT keeps the fewest neurons in the one run" in weak_neurons(data, rows)


def test_report_shows_the_curves_or_says_that_there_are_none(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    for run in plan_runs(store.study):
        write_measurements(store, run, count=1, stage="live")
    assert "No Pareto curve has been measured yet" in render_report(store)
    for run in plan_runs(store.study):
        write_pareto(store, run, COSTS)
    html = render_report(store)
    assert "CETT keeps the fewest neurons in all 4 runs" in html
    for about in (
        "Perplexity rise against activation ratio, ReLU",
        "Perplexity rise against activation ratio, SiLU",
        "Perplexity rise against CETT",
        "Activation ratio against CETT",
    ):
        assert f'aria-label="{about}"' in html
    for text in (*WAYS.values(), "Perplexity against CETT"):
        assert f">{text}<" in html
