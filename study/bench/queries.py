"""Queries of `sparsing bench store`: many small commits against one Parquet file, many runs.

Ten million rows are written through `TableWriter` in 5,000 commits. They are asked live, as the
writers left them, and after compaction; the baseline is the same rows in one Parquet file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from sparsing.study.bench.bench import Case, compare
from sparsing.study.bench.made_rows import bench_study, step_rows
from sparsing.study.definition.model import Study
from sparsing.study.errors import SparsingError
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.study_store import StudyStore

RUNS, COMMITS, ROWS = 10, 500, 2000
"""Runs, commits of each, rows of each."""
MANY_RUNS, STEPS = 1000, 50
"""Runs of the study that is opened, and steps of each."""
BAR_SECONDS = 1.0
SQL = "SELECT run, count(*) AS rows, avg(loss) AS loss, max(tokens) AS tokens FROM {} GROUP BY run"
Rows = Callable[[int, int], list[dict[str, object]]]


def write_commits(store: StudyStore, rows: Rows, shape: tuple[int, int, int]) -> None:
    """Rows in commits of their own, through the store's writer."""
    runs, commits, count = shape
    batches = [rows(count * at, count) for at in range(20)]
    for run in range(runs):
        with store.writer("steps", run=f"r{run}", attempt=1) as writer:
            for at in range(commits):
                writer.append(at, batches[at % len(batches)])
                writer.flush()


def query_cases(root: Path, repeats: int) -> list[Case]:
    """Aggregations over many commits, and a study of many runs."""
    store = StudyStore.create(root / "aggregation", bench_study())
    write_commits(store, step_rows, (RUNS, COMMITS, ROWS))
    one = root / "one.parquet"
    store.scan("steps").sink_parquet(one)
    found = _aggregations(store, one, "live", repeats)
    for run in store.runs_present("steps"):
        store.seal(run)
    found += _aggregations(store, one, "compacted", repeats)
    return found + _many_runs(root / "many", bench_study(MANY_RUNS), step_rows, repeats)


def _aggregations(store: StudyStore, one: Path, state: str, repeats: int) -> list[Case]:
    ways = {
        "polars": (lambda: _polars(store.scan("steps")), lambda: _polars(pl.scan_parquet(one))),
        "DuckDB": (lambda: _duckdb(store), lambda: _duckdb_file(one)),
    }
    wanted = ways["polars"][1]()
    found = []
    for name, (ours, theirs) in ways.items():
        if ours() != wanted or theirs() != wanted:
            raise SparsingError(f"{name}: the answers from the store and from one file differ")
        found.append(
            compare(
                f"aggregation, {RUNS * COMMITS} commits, {state}, {name}",
                lambda ours=ours: _milliseconds(ours),  # type: ignore[misc]
                lambda theirs=theirs: _milliseconds(theirs),  # type: ignore[misc]
                baseline_name="one Parquet file",
                unit="ms",
                better="lower",
                repeats=repeats,
            )
        )
    return found


Answer = list[tuple[str, int, float, int]]


def _rounded(rows: list[tuple[str, int, float, int]]) -> Answer:
    return sorted((run, count, round(loss, 9), tokens) for run, count, loss, tokens in rows)


def _polars(frame: pl.LazyFrame) -> Answer:
    columns = pl.len(), pl.col("loss").mean(), pl.col("tokens").max()
    return _rounded(frame.group_by("run").agg(*columns).collect().rows())


def _duckdb(store: StudyStore) -> Answer:
    files, tail = store.snapshot("steps")
    read = f"SELECT * FROM read_parquet({files}, hive_partitioning = false, union_by_name = true)"
    source = f"({read} UNION ALL BY NAME FROM tail)" if files else "tail"
    return _rounded(_ask(source, tail=tail))


def _duckdb_file(file: Path) -> Answer:
    return _rounded(_ask(f"read_parquet('{file}')"))


def _ask(source: str, **tables: object) -> list[tuple[str, int, float, int]]:
    import duckdb

    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return connection.execute(SQL.format(source)).fetchall()


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def _many_runs(root: Path, study: Study, rows: Rows, repeats: int) -> list[Case]:
    """A study of many runs, each with a state and steps of its own, against a second."""
    from sparsing.study.plan.runs import plan_runs

    store = StudyStore.create(root, study)
    runs = [run.id for run in plan_runs(study)]
    for run in runs:
        with store.writer("runs", run=run, attempt=1) as states:
            states.append(0, [{"step": 0, "state": "training"}])
        with store.writer("steps", run=run, attempt=1) as steps:
            steps.append(0, rows(0, STEPS))
    one = pl.col("run") == runs[len(runs) // 2]
    asked: dict[str, Callable[[], object]] = {
        "open": lambda: StudyStore.open(root, study.study_id),
        "status": lambda: StudyStatus.read(StudyStore.open(root, study.study_id)),
        "query of one run": lambda: store.scan("steps").filter(one).collect(),
    }
    return [
        compare(
            f"{name}, {len(runs)} runs",
            lambda work=work: _milliseconds(work),  # type: ignore[misc]
            lambda: 1000 * BAR_SECONDS,
            baseline_name="the bar, a second",
            unit="ms",
            better="lower",
            repeats=repeats,
        )
        for name, work in asked.items()
    ]
