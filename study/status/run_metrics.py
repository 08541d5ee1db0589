"""The metrics of single runs: how each trains, how sparse it is, and what its law says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sparsing.study.plan.mfu import mfu_ratio
from sparsing.study.status.failure import Kind
from sparsing.study.status.run_history import RunHistory
from sparsing.study.status.study_status import RunStatus, StudyStatus


@dataclass(frozen=True, kw_only=True)
class LawPoint:
    """What a run's laws say of its newest measurement."""

    fitted: float | None
    """Activation ratio by the newest fit at the newest tokens measured."""
    forecast: float | None
    """The same by the newest fit that did not know this measurement."""


@dataclass(frozen=True)
class StudyNow:
    """How the runs of a study stand; what is known of them beside the status, by run."""

    status: StudyStatus
    histories: dict[str, RunHistory]
    laws: dict[str, LawPoint]
    commit_seconds: dict[str, float]
    vocabulary: int
    """Tokens that its models know."""


@dataclass(frozen=True)
class RunNow:
    """How one run stands."""

    status: RunStatus
    history: RunHistory | None
    law: LawPoint | None
    commit_seconds: float | None
    vocabulary: int

    @property
    def training(self) -> bool:
        """Whether it trains, and is heard of."""
        return self.status.tokens_per_second is not None

    def noticed(self, kind: Kind) -> int:
        """How often a notice of this kind was written."""
        return self.history.failures[kind] if self.history else 0

    def mfu(self) -> float | None:
        """Model FLOPs utilization, while it trains and its devices' peak is known."""
        speed, device = self.status.tokens_per_second, self.status.device
        if speed is None or device is None or self.history is None or self.history.shards is None:
            return None
        return mfu_ratio(self.status.run, self.vocabulary, speed, device, self.history.shards)


PER_RUN: tuple[tuple[str, str, Callable[[RunNow], float | None]], ...] = (
    ("run_tokens_total", "Training tokens seen.", lambda run: run.status.tokens),
    ("run_planned_tokens", "Training tokens of the whole run.", lambda run: run.status.run.tokens),
    (
        "run_restarts_total",
        "Attempts after the first.",
        lambda run: max(0, run.status.attempt - 1),
    ),
    (
        "run_checkpoints_damaged_total",
        "Checkpoints that were found damaged and set aside.",
        lambda run: run.noticed(Kind.CHECKPOINT_DAMAGED),
    ),
    (
        "run_replay_differences_total",
        "Attempts whose replayed steps had other losses than the store has.",
        lambda run: run.noticed(Kind.REPLAY_DIFFERS),
    ),
    ("run_age_seconds", "Since its newest row was made.", lambda run: run.status.age_seconds),
    (
        "run_shards",
        "World size while training.",
        lambda run: run.history.shards if run.training and run.history else None,
    ),
    ("run_loss", "Of the newest step, nats per token.", lambda run: run.status.loss),
    (
        "run_learning_rate",
        "While training.",
        lambda run: run.status.learning_rate if run.training else None,
    ),
    (
        "run_tokens_per_second",
        "Of the whole gang, while training.",
        lambda run: run.status.tokens_per_second,
    ),
    (
        "run_mfu_ratio",
        "Model FLOPs over the devices' bf16 peak, while training; absent for unknown devices.",
        RunNow.mfu,
    ),
    (
        "run_memory_bytes",
        "Peak of shard 0 while training: of its GPU, or resident on a CPU.",
        lambda run: run.status.memory_bytes,
    ),
    (
        "store_commit_seconds",
        "From the making of the oldest row of the newest commit to its writing, while training.",
        lambda run: run.commit_seconds if run.training else None,
    ),
    ("run_checkpoints_total", "Complete ones.", lambda run: run.status.checkpoints),
    (
        "run_checkpoint_age_seconds",
        "Since the newest complete checkpoint was saved.",
        lambda run: run.status.checkpoint_age_seconds,
    ),
    (
        "run_measured_tokens",
        "Training tokens of the newest checkpoint measured.",
        lambda run: run.status.measured_tokens,
    ),
    (
        "activation_ratio",
        "Of the newest checkpoint measured.",
        lambda run: run.status.activation_ratio,
    ),
    (
        "law_activation_ratio",
        "Of the newest checkpoint measured, by the newest fit.",
        lambda run: run.law.fitted if run.law else None,
    ),
    (
        "law_forecast_activation_ratio",
        "Of the newest checkpoint measured, by the newest fit that did not know it.",
        lambda run: run.law.forecast if run.law else None,
    ),
    (
        "law_residual",
        "Root mean square over the points of the newest fit.",
        lambda run: None if run.status.mse is None else math.sqrt(run.status.mse),
    ),
)
"""Name, help, and how it is read; None: not exported now."""


def run_metrics(studies: Sequence[StudyNow]) -> Iterator[Metric]:
    """All metrics with the label `run`."""
    runs = [(study.status.study_id, run) for study in studies for run in _runs(study)]
    for name, about, read in PER_RUN:
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        metric = family(f"sparsing_{name}", about, labels=["study", "run"])
        for study_id, run in runs:
            value = read(run)
            if value is not None:
                metric.add_metric([study_id, run.status.run.id], value)
        yield metric
    yield from _states(runs)
    yield _limits(runs)
    yield _verdicts(runs)


def _runs(study: StudyNow) -> Iterator[RunNow]:
    for status in study.status.runs:
        run = status.run.id
        known = (study.histories.get(run), study.laws.get(run), study.commit_seconds.get(run))
        yield RunNow(status, *known, study.vocabulary)


def _states(runs: Sequence[tuple[str, RunNow]]) -> Iterator[Metric]:
    labels = ["study", "run", "state"]
    states = GaugeMetricFamily("sparsing_run_state", "1 for the state it is in.", labels=labels)
    seconds = GaugeMetricFamily(
        "sparsing_run_state_since_timestamp_seconds",
        "When it entered the state it is in, since 1970.",
        labels=labels[:2],
    )
    for study_id, run in runs:
        names = [study_id, run.status.run.id]
        states.add_metric([*names, run.status.state], 1)
        if run.history:
            seconds.add_metric(names, run.history.since.timestamp())
    yield states
    yield seconds


def _limits(runs: Sequence[tuple[str, RunNow]]) -> Metric:
    metric = GaugeMetricFamily(
        "sparsing_law_limit_activation_ratio",
        "Limit of the activation ratio by the newest fit, and its 95 % interval.",
        labels=["study", "run", "bound"],
    )
    for study_id, run in runs:
        status = run.status
        bounds = {"estimate": status.limit, "low": status.limit_low, "high": status.limit_high}
        for bound, value in bounds.items():
            if value is not None:
                metric.add_metric([study_id, status.run.id, bound], value)
    return metric


def _verdicts(runs: Sequence[tuple[str, RunNow]]) -> Metric:
    metric = GaugeMetricFamily(
        "sparsing_law_verdict",
        "1 for the verdict on the run's law by the newest fit: holds, undecided, refused, "
        "cannot say.",
        labels=["study", "run", "verdict"],
    )
    for study_id, run in runs:
        if run.status.verdict is not None:
            metric.add_metric([study_id, run.status.run.id, run.status.verdict], 1)
    return metric
