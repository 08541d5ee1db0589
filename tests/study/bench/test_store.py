from __future__ import annotations

import pytest

from sparsing.study.bench import queries as bench_queries
from sparsing.study.bench import store as bench_store
from sparsing.study.errors import NotFoundError


def test_processes_append_durably_and_are_timed(tmp_path, monkeypatch):
    monkeypatch.setitem(bench_store.APPENDS, "ours", 3)
    assert bench_store.rows_per_second(tmp_path, "ours", 2) > 0


def test_answers_from_commits_are_those_from_one_file(tmp_path, monkeypatch):
    """`query_cases` raises where they are not, live or compacted, in polars or in DuckDB."""
    for name, value in {"RUNS": 2, "COMMITS": 3, "ROWS": 50, "MANY_RUNS": 3}.items():
        monkeypatch.setattr(bench_queries, name, value)
    names = [case.case for case in bench_queries.query_cases(tmp_path, 1)]
    assert len(names) == 7
    assert "aggregation, 6 commits, live, DuckDB" in names


def test_a_missing_baseline_is_said_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(bench_store, "NEEDED", ("no_such_baseline",))
    with pytest.raises(NotFoundError, match="pip install mlflow-skinny"):
        bench_store.cases(1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ratios_reach_the_bars():
    for case in bench_store.cases(3):
        if "MLflow (sqlite), row" in case.baseline:
            assert case.ratio >= 100, case
        elif "TensorBoard" in case.baseline:
            assert case.ratio >= 20, case
        elif "live" in case.case or "compacted" in case.case:
            assert case.ratio >= (1 / 1.5 if "live" in case.case else 1 / 1.3), case
        else:
            assert case.ratio > 1, case
