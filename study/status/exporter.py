"""Prometheus metrics of studies, read from their stores at each scrape.

The store is the only state: counters go on where they were when the service, the controller or
the machine is started again, and nothing is exported of which the store has no row. Labels are
`study` and, where it says something, `run`; of a run there are at most some 20 series.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from sparsing.study.status.failure import NOTICES, Kind
from sparsing.study.status.run_history import read_histories
from sparsing.study.status.run_metrics import LawPoint, StudyNow, run_metrics
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.by_run import ByRun, States
from sparsing.study.store.commit_delay import read_commit_delays
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES

FIT_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
WAIT_BUCKETS = (1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0)
MEASURE_BUCKETS = (0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0)

Tally = tuple[list[int], float]
"""Counts of values up to each bucket's end and of all; their sum."""


class StudyMetrics:
    """What the metrics of one study are made of.

    status: how it stands now. fit_lag_seconds: age of the newest measurement that is in no fit
    yet, 0 when all are, None while nobody knows. laws: what the newest fits say of each run.
    """

    def __init__(
        self,
        store: StudyStore,
        status: Callable[[States], StudyStatus],
        fit_lag_seconds: Callable[[], float | None],
        laws: Callable[[States], dict[str, LawPoint]],
    ) -> None:
        self.study_id, self.place = store.study_id, store.place
        self.fit_lag_seconds = fit_lag_seconds
        self._vocabulary = store.study.data.tokenizer.entries
        self._status, self._laws = status, laws
        self._histories = ByRun(store, "runs", partial(read_histories, store))
        self._commits = ByRun(store, "steps", partial(read_commit_delays, store))
        self.rows = {table: ByRun(store, table, _counts(store, table)) for table in TABLES}
        self.preparation = ByRun(store, "preparation", partial(_read_preparation, store))
        self.fit_seconds = ByRun(store, "fits", partial(_fit_seconds, store))
        self.measure_seconds = ByRun(store, "sparsity", partial(_measure_seconds, store))

    def now(self, seen: States) -> StudyNow:
        """How its runs stand; `seen` as in ByRun."""
        histories, laws = self._histories.now(seen), self._laws(seen)
        commits = self._commits.now(seen)
        return StudyNow(self._status(seen), histories, laws, commits, self._vocabulary)


class StoreCollector(Collector):
    """Yields the metrics of studies, as their stores stand when it is asked.

    studies: those that there are at that moment.
    """

    def __init__(self, studies: Callable[[], Sequence[StudyMetrics]]) -> None:
        self._studies = studies

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are those of `collect`, which need not be asked for to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        studies: list[tuple[StudyMetrics, States]] = [(study, {}) for study in self._studies()]
        now = [study.now(seen) for study, seen in studies]
        yield _states([each.status for each in now])
        yield from _leases([each.status for each in now])
        yield from run_metrics(now)
        yield _failures(now)
        yield _histogram(
            "sparsing_placement_wait_seconds",
            "Time for which an attempt waited for its place on the cluster.",
            {each.status.study_id: _wait_tallies(each) for each in now},
            WAIT_BUCKETS,
        )
        yield _row_counts(studies)
        yield from _room([study for study, _ in studies])
        yield from _preparation(studies)
        yield _fit_lag([study for study, _ in studies])
        yield _histogram(
            "sparsing_fit_seconds",
            "Wall time of a fit.",
            {study.study_id: study.fit_seconds.now(seen) for study, seen in studies},
            FIT_BUCKETS,
        )
        yield _histogram(
            "sparsing_measure_seconds",
            "Wall time of the measurement of a checkpoint.",
            {study.study_id: study.measure_seconds.now(seen) for study, seen in studies},
            MEASURE_BUCKETS,
        )


def _room(studies: Sequence[StudyMetrics]) -> Iterator[Metric]:
    """Of file systems that hold stores: size, and what is free for their user."""
    size = GaugeMetricFamily(
        "sparsing_store_size_bytes", "Of the store's file system.", labels=["study"]
    )
    free = GaugeMetricFamily(
        "sparsing_store_free_bytes", "Left on the store's file system.", labels=["study"]
    )
    for study in studies:
        if not isinstance(study.place, Path):
            continue  # an object store is never full
        found = os.statvfs(study.place)
        size.add_metric([study.study_id], found.f_frsize * found.f_blocks)
        free.add_metric([study.study_id], found.f_frsize * found.f_bavail)
    yield size
    yield free


def _preparation(studies: Sequence[tuple[StudyMetrics, States]]) -> Iterator[Metric]:
    """How far the preparation of the data is, by domain."""
    labels = ["study", "domain"]
    gauges = {
        "bytes": ("sparsing_preparation_bytes", "Bytes of the sources' files that are done."),
        "bytes_total": ("sparsing_preparation_size_bytes", "Bytes of the sources' files."),
        "tokens": ("sparsing_preparation_tokens", "Tokens of the data that are made."),
    }
    families = {
        column: GaugeMetricFamily(name, about, labels=labels)
        for column, (name, about) in gauges.items()
    }
    for study, seen in studies:
        for rows in study.preparation.now(seen).values():
            for row in rows:
                for column, family in families.items():
                    family.add_metric([study.study_id, row["domain"]], row[column])
    yield from families.values()


def _read_preparation(store: StudyStore, runs: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The newest row of each domain, by run."""
    rows = (
        store.scan("preparation", runs)
        .unique(["run", "domain"], keep="last", maintain_order=True)
        .collect()
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows.sort("domain").iter_rows(named=True):
        found.setdefault(row["run"], []).append(row)
    return found


def _fit_lag(studies: Sequence[StudyMetrics]) -> Metric:
    metric = GaugeMetricFamily(
        "sparsing_fit_lag_seconds",
        "Age of the newest measurement that is in no fit yet; 0 when all are.",
        labels=["study"],
    )
    for study in studies:
        lag_seconds = study.fit_lag_seconds()
        if lag_seconds is not None:
            metric.add_metric([study.study_id], lag_seconds)
    return metric


def _row_counts(studies: Sequence[tuple[StudyMetrics, States]]) -> Metric:
    metric = CounterMetricFamily(
        "sparsing_store_rows", "Rows in the store.", labels=["study", "table"]
    )
    for study, seen in studies:
        for table, counts in study.rows.items():
            metric.add_metric([study.study_id, table], sum(counts.now(seen).values()))
    return metric


def _counts(store: StudyStore, table: str) -> Callable[[list[str]], dict[str, int]]:
    return lambda runs: {run: store.count_rows(table, run) for run in runs}


def _fit_seconds(store: StudyStore, runs: list[str]) -> dict[str, Tally]:
    return _tallies(store.scan("fits", runs), "fit_seconds", FIT_BUCKETS)


def _measure_seconds(store: StudyStore, runs: list[str]) -> dict[str, Tally]:
    means = (pl.col("layer").is_null(), pl.col("domain").is_null())
    return _tallies(store.scan("sparsity", runs).filter(*means), "measure_seconds", MEASURE_BUCKETS)


def _tallies(rows: pl.LazyFrame, column: str, buckets: Sequence[float]) -> dict[str, Tally]:
    value = pl.col(column)
    ends = [(value <= end).sum().alias(repr(end)) for end in buckets]
    counted = rows.drop_nulls(column).group_by("run").agg(*ends, pl.len(), value.sum())
    return {run: (counts, total) for run, *counts, total in counted.collect().iter_rows()}


def _histogram(
    name: str, about: str, tallies: dict[str, dict[str, Tally]], buckets: Sequence[float]
) -> Metric:
    metric = HistogramMetricFamily(name, about, labels=["study"])
    names = [*map(repr, buckets), "+Inf"]
    for study, by_run in tallies.items():
        counts = [sum(column) for column in zip(*(c for c, _ in by_run.values()), strict=True)]
        total = sum(seconds for _, seconds in by_run.values())
        pairs = list(zip(names, counts or [0] * len(names), strict=True))
        metric.add_metric([study], pairs, total)
    return metric


def _states(statuses: Sequence[StudyStatus]) -> Metric:
    metric = GaugeMetricFamily("sparsing_runs", "Runs by state.", labels=["study", "state"])
    for status in statuses:
        for state, count in status.states.items():
            metric.add_metric([status.study_id, state], count)
    return metric


def _leases(statuses: Sequence[StudyStatus]) -> Iterator[Metric]:
    """Whether anybody works on each study, as this service has seen it."""
    up = GaugeMetricFamily(
        "sparsing_controller_up",
        "1 while a controller holds the study's lease.",
        labels=["study"],
    )
    age = GaugeMetricFamily(
        "sparsing_lease_age_seconds",
        "Since the lease was renewed; absent where it was given back, or never taken.",
        labels=["study"],
    )
    for status in statuses:
        lease = status.lease
        up.add_metric([status.study_id], float(lease.held))
        if lease.record and not lease.record.released:
            age.add_metric([status.study_id], lease.age_seconds)
    yield up
    yield age


def _failures(studies: Sequence[StudyNow]) -> Metric:
    metric = CounterMetricFamily(
        "sparsing_failures", "Attempts that failed, by kind.", labels=["study", "kind"]
    )
    for study in studies:
        failed = sum((history.failures for history in study.histories.values()), Counter[str]())
        for kind in (each for each in Kind if each not in NOTICES):
            metric.add_metric([study.status.study_id, kind], failed[kind])
    return metric


def _wait_tallies(study: StudyNow) -> dict[str, Tally]:
    waits = {run: history.waits_seconds for run, history in study.histories.items()}
    return {
        run: ([sum(w <= end for w in each) for end in WAIT_BUCKETS] + [len(each)], sum(each))
        for run, each in waits.items()
    }
