"""Prometheus metrics of a study, read from its store at each scrape.

The store is the only state: counters go on where they were when the exporter, the controller or
the machine is started again, and nothing is exported of which the store has no row. What only a
running process knows (model FLOPs utilization, the time of a commit) is therefore not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from wsgiref.simple_server import WSGIServer

import polars as pl
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from study.errors import DefinitionError
from study.plan import plan_runs
from study.status import RunStatus, StudyStatus
from study.store import StudyStore
from study.tables import TABLES

FIT_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
MEASURE_BUCKETS = (0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0)
MEANS = (pl.col("layer").is_null(), pl.col("domain").is_null())
"""The row of the table `sparsity` that stands for a whole measurement."""


def serve_metrics(store: StudyStore, port: int, address: str = "127.0.0.1") -> WSGIServer:
    """Serve `http://address:port/metrics` from a daemon thread.

    Port 0 chooses a free one; the server's `server_port` says which, its `shutdown()` ends it.
    Raises DefinitionError where the port or the address cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(StoreCollector(store))
    try:
        server, _ = start_http_server(port, address, registry)
    except (OSError, OverflowError) as error:
        raise DefinitionError(
            f"metrics cannot be served at {address}:{port}: {error}; another port, or 0 for any "
            "free one, may do"
        ) from error
    return server


class StoreCollector(Collector):
    """Yields the metrics of one study, as its store stands when it is asked."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are those of `collect`, which need not be asked for to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics; labels are `study` and, where it says something, `run`."""
        status = StudyStatus.read(self._store)
        yield _states(status)
        yield from _per_run(status)
        yield _limits(status)
        yield self._row_counts()
        yield self._fit_lag()
        yield self._histogram(
            "sparsing_fit_seconds",
            "Wall time of a fit.",
            self._store.scan("fits").select("fit_seconds"),
            FIT_BUCKETS,
        )
        yield self._histogram(
            "sparsing_measure_seconds",
            "Wall time of the measurement of a checkpoint.",
            self._store.scan("sparsity").filter(*MEANS).select("measure_seconds"),
            MEASURE_BUCKETS,
        )

    def _row_counts(self) -> Metric:
        metric = CounterMetricFamily(
            "sparsing_store_rows", "Rows in the store.", labels=["study", "table"]
        )
        for table in TABLES:
            metric.add_metric([self._store.study_id, table], self._store.count_rows(table))
        return metric

    def _fit_lag(self) -> Metric:
        metric = GaugeMetricFamily(
            "sparsing_fit_lag_seconds",
            "Age of the newest measurement that is in no fit yet; 0 when all are.",
            labels=["study"],
        )
        metric.add_metric([self._store.study_id], fit_lag_seconds(self._store))
        return metric

    def _histogram(
        self, name: str, about: str, column: pl.LazyFrame, buckets: Sequence[float]
    ) -> Metric:
        values = column.collect().to_series().drop_nulls()
        counts = [(repr(end), int((values <= end).sum())) for end in buckets]
        metric = HistogramMetricFamily(name, about, labels=["study"])
        metric.add_metric(
            [self._store.study_id], [*counts, ("+Inf", len(values))], float(values.sum())
        )
        return metric


def fit_lag_seconds(store: StudyStore) -> float:
    """Age of the newest measurement that came after its run's newest fit, the largest of all runs.

    Only measurements that a fit would use count: beyond the warm-up, of runs with two of them.
    """
    warmup = {run.id: run.warmup_steps for run in plan_runs(store.study)}
    after_warmup = pl.col("step") > pl.col("run").replace_strict(
        warmup, default=None, return_dtype=pl.Int64
    )
    measured = (
        store.scan("sparsity")
        .filter(*MEANS, after_warmup)
        .group_by("run")
        .agg(pl.col("written_at").max(), pl.col("tokens").n_unique().alias("points"))
        .filter(pl.col("points") > 1)
    )
    fitted = store.scan("fits").group_by("run").agg(pl.col("written_at").max().alias("fitted_at"))
    waiting = measured.join(fitted, on="run", how="left").filter(
        pl.col("fitted_at").is_null() | (pl.col("fitted_at") < pl.col("written_at"))
    )
    oldest = waiting.select(pl.col("written_at").min()).collect().item()
    return max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0


def _states(status: StudyStatus) -> Metric:
    metric = GaugeMetricFamily("sparsing_runs", "Runs by state.", labels=["study", "state"])
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


def _per_run(status: StudyStatus) -> Iterator[Metric]:
    for name, about, read in PER_RUN:
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        metric = family(f"sparsing_{name}", about, labels=["study", "run"])
        for run in status.runs:
            value = read(run)
            if value is not None:
                metric.add_metric([status.study_id, run.run.id], value)
        yield metric


def _limits(status: StudyStatus) -> Metric:
    metric = GaugeMetricFamily(
        "sparsing_law_limit_activation_ratio",
        "Limit of the activation ratio by the newest fit, and its 95 % interval.",
        labels=["study", "run", "bound"],
    )
    for run in status.runs:
        bounds = {"estimate": run.limit, "low": run.limit_low, "high": run.limit_high}
        for bound, value in bounds.items():
            if value is not None:
                metric.add_metric([status.study_id, run.run.id, bound], value)
    return metric
