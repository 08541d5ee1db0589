"""Prometheus metrics of studies, read from their stores at each scrape.

The store is the only state: counters go on where they were when the service, the controller or
the machine is started again, and nothing is exported of which the store has no row. What only a
running process knows (model FLOPs utilization, the time of a commit) is therefore not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import polars as pl
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from study.by_run import ByRun
from study.status import RunStatus, StudyStatus
from study.store import StudyStore
from study.tables import TABLES

FIT_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
MEASURE_BUCKETS = (0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0)

Tally = tuple[list[int], float]
"""Counts of values up to each bucket's end and of all; their sum."""


class StudyMetrics:
    """What the metrics of one study are made of.

    status: how it stands now. fit_lag_seconds: age of the newest measurement that is in no fit
    yet, 0 when all are, None while nobody knows.
    """

    def __init__(
        self,
        store: StudyStore,
        status: Callable[[], StudyStatus],
        fit_lag_seconds: Callable[[], float | None],
    ) -> None:
        self.study_id = store.study_id
        self.status, self.fit_lag_seconds = status, fit_lag_seconds
        self.rows = {table: ByRun(store, table, _counts(store, table)) for table in TABLES}
        self.fit_seconds = ByRun(store, "fits", partial(_fit_seconds, store))
        self.measure_seconds = ByRun(store, "sparsity", partial(_measure_seconds, store))


class StoreCollector(Collector):
    """Yields the metrics of studies, as their stores stand when it is asked."""

    def __init__(self, studies: Sequence[StudyMetrics]) -> None:
        self._studies = studies

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are those of `collect`, which need not be asked for to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics; labels are `study` and, where it says something, `run`."""
        statuses = [study.status() for study in self._studies]
        yield _states(statuses)
        yield from _per_run(statuses)
        yield _limits(statuses)
        yield self._row_counts()
        yield self._fit_lag()
        yield _histogram(
            "sparsing_fit_seconds",
            "Wall time of a fit.",
            {study.study_id: study.fit_seconds.now() for study in self._studies},
            FIT_BUCKETS,
        )
        yield _histogram(
            "sparsing_measure_seconds",
            "Wall time of the measurement of a checkpoint.",
            {study.study_id: study.measure_seconds.now() for study in self._studies},
            MEASURE_BUCKETS,
        )

    def _row_counts(self) -> Metric:
        metric = CounterMetricFamily(
            "sparsing_store_rows", "Rows in the store.", labels=["study", "table"]
        )
        for study in self._studies:
            for table, counts in study.rows.items():
                metric.add_metric([study.study_id, table], sum(counts.now().values()))
        return metric

    def _fit_lag(self) -> Metric:
        metric = GaugeMetricFamily(
            "sparsing_fit_lag_seconds",
            "Age of the newest measurement that is in no fit yet; 0 when all are.",
            labels=["study"],
        )
        for study in self._studies:
            lag_seconds = study.fit_lag_seconds()
            if lag_seconds is not None:
                metric.add_metric([study.study_id], lag_seconds)
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


PER_RUN: tuple[tuple[str, str, Callable[[RunStatus], float | None]], ...] = (
    ("run_tokens_total", "Training tokens seen.", lambda run: run.tokens),
    ("run_restarts_total", "Lives after the first.", lambda run: max(0, run.attempt - 1)),
    ("run_loss", "Of the newest step, nats per token.", lambda run: run.loss),
    (
        "run_learning_rate",
        "While training.",
        lambda run: None if run.tokens_per_second is None else run.learning_rate,
    ),
    ("run_tokens_per_second", "While training.", lambda run: run.tokens_per_second),
    ("activation_ratio", "Of the newest checkpoint measured.", lambda run: run.activation_ratio),
    (
        "law_residual",
        "Root mean square over the points of the newest fit.",
        lambda run: None if run.mse is None else math.sqrt(run.mse),
    ),
)


def _per_run(statuses: Sequence[StudyStatus]) -> Iterator[Metric]:
    for name, about, read in PER_RUN:
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        metric = family(f"sparsing_{name}", about, labels=["study", "run"])
        for study, run in _runs(statuses):
            value = read(run)
            if value is not None:
                metric.add_metric([study, run.run.id], value)
        yield metric


def _limits(statuses: Sequence[StudyStatus]) -> Metric:
    metric = GaugeMetricFamily(
        "sparsing_law_limit_activation_ratio",
        "Limit of the activation ratio by the newest fit, and its 95 % interval.",
        labels=["study", "run", "bound"],
    )
    for study, run in _runs(statuses):
        bounds = {"estimate": run.limit, "low": run.limit_low, "high": run.limit_high}
        for bound, value in bounds.items():
            if value is not None:
                metric.add_metric([study, run.run.id, bound], value)
    return metric


def _runs(statuses: Sequence[StudyStatus]) -> Iterator[tuple[str, RunStatus]]:
    return ((status.study_id, run) for status in statuses for run in status.runs)
