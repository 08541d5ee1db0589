"""How a study stands, from its store alone: what `status`, `watch` and the exporter show."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import polars as pl

from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.status.failure import NOTICES
from sparsing.study.status.run_history import changes_of_state
from sparsing.study.status.run_state import RunState
from sparsing.study.store.by_run import ByRun, States
from sparsing.study.store.control.lease_watch import LeaseWatch, Sight
from sparsing.study.store.study_store import StudyStore

STATES = tuple(RunState)
ENDED = tuple(state for state in RunState if state.ended)
"""States after which nothing more comes of a run by itself."""
SPEED_ROWS = 20
"""Speed is the median over this number of the newest steps."""

SILENT_SECONDS = 300.0
"""A run in training that wrote nothing for this time has no speed: it was stopped or killed."""
CLOCK_TOLERANCE_SECONDS = 5.0
"""A row from further in the future was written by a clock that is ahead: its age is unknown."""

Rows = dict[str, dict[str, Any]]
"""One row for each run that has any, by run."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands; None where the store has nothing on it yet."""

    run: Run
    state: str
    """The newest of STATES; `planned` before the first row."""
    reason: str | None
    attempt: int
    """Newest attempt; 0 before the first."""
    device: str | None
    tokens: int
    """Training tokens whose steps are in the store."""
    loss: float | None
    """Of the newest step, nats per token."""
    learning_rate: float | None
    tokens_per_second: float | None
    """While training: median over the newest steps; None after SILENT_SECONDS without a row."""
    eta_seconds: float | None
    """While training: until the last step, at this speed."""
    memory_bytes: int | None
    """While training: peak of shard 0, of its device or resident on a CPU."""
    checkpoints: int
    """Complete ones."""
    checkpoint_age_seconds: float | None
    """Since the newest complete one was saved."""
    activation_ratio: float | None
    """Of the newest checkpoint measured, mean over layers, the mixture."""
    measured_tokens: int | None
    """Training tokens of that checkpoint."""
    stage: str | None
    """Stage of that measurement: `final` where there is one, else `live`."""
    law: str | None
    """Law of the newest fit; None before the first fit."""
    limit: float | None
    """Its limit of the activation ratio; None where it is not identified."""
    limit_low: float | None
    """End of the 95 % interval; None = open."""
    limit_high: float | None
    verdict: str | None
    """On its law: `holds`, `undecided`, `refused` or `cannot say`."""
    verdict_reason: str | None
    """Why, for people."""
    mse: float | None
    """Mean squared residual of that fit, over the points fitted."""
    age_seconds: float | None
    """Age of the run's newest row; None where only a clock that is ahead says when that was."""
    notices: tuple[str, ...]
    """Damaged checkpoints, and replayed steps whose losses differ from the store's, in words."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of the run by itself."""
        return self.state in ENDED

    def as_json(self) -> dict[str, Any]:
        """Plain values, with what was planned beside what is done; None for what is not finite."""
        values = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
            if key != "run"
        }
        planned = {
            "run": self.run.id,
            "tokens_planned": self.run.tokens,
            "checkpoints_planned": len(self.run.checkpoint_steps),
        }
        return planned | values


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """How all runs of a study stand, in the order of the plan."""

    study_id: str
    runs: tuple[RunStatus, ...]
    lease: Sight

    @classmethod
    def read(cls, store: StudyStore) -> StudyStatus:
        """What the store says now; who asks again and again keeps a StatusReader."""
        return StatusReader(store).read()

    @property
    def unattended(self) -> bool:
        """Whether there is something left to do, and no controller goes on with it.

        A study that no controller has ever worked on is planned, and not left alone.
        """
        begun = self.lease.record is not None or self.lease.problem is not None
        return begun and not self.ended and not self.lease.held

    @property
    def states(self) -> dict[str, int]:
        """How many runs are in each of STATES."""
        counts = Counter(run.state for run in self.runs)
        return {state: counts[state] for state in STATES}

    @property
    def ended(self) -> bool:
        """Whether every run is done, failed or stopped."""
        return all(run.ended for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        runs = [run.as_json() for run in self.runs]
        return {
            "study": self.study_id,
            "states": self.states,
            "controller": self.lease.as_json(),
            "runs": runs,
        }

    def summary(self) -> dict[str, Any]:
        """The study in one row of plain values."""
        ages = [run.age_seconds for run in self.runs if run.age_seconds is not None]
        return {
            "study": self.study_id,
            "runs": len(self.runs),
            "states": self.states,
            "tokens": sum(run.tokens for run in self.runs),
            "tokens_planned": sum(run.run.tokens for run in self.runs),
            "age_seconds": min(ages, default=None),
        }


class StatusReader:
    """Reads how a study stands again and again, and from the store only what is new."""

    def __init__(self, store: StudyStore) -> None:
        self._study_id, self._runs = store.study_id, plan_runs(store.study)
        self._lease = LeaseWatch(store.place)
        self._parts = {
            name: ByRun(store, table, partial(read, store)) for name, (table, read) in PARTS.items()
        }

    def read(self, seen: States | None = None) -> StudyStatus:
        """What the store says now; `seen` as in ByRun."""
        # The lease first: who ends gives it up after the last change of a run's state.
        lease = self._lease.look()
        parts = {name: part.now(seen) for name, part in self._parts.items()}
        runs = [
            _run_status(run, {name: rows.get(run.id, {}) for name, rows in parts.items()})
            for run in self._runs
        ]
        return StudyStatus(study_id=self._study_id, runs=tuple(runs), lease=lease)

    def read_certain(self) -> StudyStatus:
        """What the store says, once it is sure whether a controller is at work: after seconds."""
        if not (now := self.read()).ended:
            self._lease.look_until_certain()
            now = self.read()
        return now


def _run_status(run: Run, parts: Rows) -> RunStatus:
    state, step, fit = parts["states"], parts["steps"], parts["fits"]
    ages = [age for row in parts.values() if (age := _age_seconds(row)) is not None]
    age_seconds = min(ages, default=None)
    tokens = step.get("tokens", 0)
    training = state.get("state") == "training" and (age_seconds or 0) < SILENT_SECONDS
    speed = step.get("speed") if training else None
    checkpoints, measured = parts["checkpoints"], parts["measured"]
    return RunStatus(
        run=run,
        state=state.get("state", "planned"),
        reason=state.get("reason"),
        attempt=state.get("attempt", 0),
        device=state.get("device"),
        tokens=tokens,
        loss=step.get("loss"),
        learning_rate=step.get("learning_rate"),
        tokens_per_second=speed,
        eta_seconds=(run.tokens - tokens) / speed if speed else None,
        memory_bytes=step.get("memory_bytes") if training else None,
        checkpoints=checkpoints.get("count", 0),
        checkpoint_age_seconds=_age_seconds(checkpoints),
        activation_ratio=measured.get("activation_ratio"),
        measured_tokens=measured.get("tokens"),
        stage=measured.get("stage"),
        law=fit.get("law"),
        limit=fit.get("limit_activation_ratio"),
        limit_low=fit.get("limit_low"),
        limit_high=fit.get("limit_high"),
        verdict=fit.get("verdict"),
        verdict_reason=fit.get("verdict_reason"),
        mse=fit.get("mse"),
        age_seconds=age_seconds,
        notices=tuple(state.get("notices", ())),
    )


def _age_seconds(row: dict[str, Any]) -> float | None:
    """Age of a row; None without one, and where a clock that is ahead wrote it."""
    if not row:
        return None
    age = (datetime.now(UTC) - row["written_at"]).total_seconds()
    return max(age, 0.0) if age > -CLOCK_TOLERANCE_SECONDS else None


def _by_run(frame: pl.LazyFrame) -> Rows:
    return {row["run"]: row for row in frame.collect().iter_rows(named=True)}


def newest_states(store: StudyStore, runs: list[str] | None = None) -> Rows:
    """The newest change of state of each run, or of `runs`.

    The device is that of the newest row that has one.
    """
    ordered = changes_of_state(store, runs)
    newest = pl.col("state", "reason", "attempt", "written_at").last()
    notices = pl.col("reason").filter(pl.col("failure_kind").is_in(NOTICES)).alias("notices")
    device = pl.col("device").drop_nulls().last()
    return _by_run(ordered.group_by("run").agg(newest, device, notices))


def _steps(store: StudyStore, runs: list[str]) -> Rows:
    ordered = store.scan("steps", runs, newest=True).sort("step")
    newest = pl.col("tokens", "loss", "learning_rate", "memory_bytes", "written_at").last()
    speed = pl.col("tokens_per_second").tail(SPEED_ROWS).median().alias("speed")
    return _by_run(ordered.group_by("run").agg(newest, speed))


def _checkpoints(store: StudyStore, runs: list[str]) -> Rows:
    count = pl.col("step").n_unique().alias("count")
    rows = store.scan("checkpoints", runs)
    return _by_run(rows.group_by("run").agg(count, pl.col("written_at").max()))


def _measured(store: StudyStore, runs: list[str]) -> Rows:
    rows = store.scan("sparsity", runs)
    means = rows.filter(pl.col("layer").is_null(), pl.col("domain").is_null())
    ordered = means.sort(pl.col("stage") == "final", "step", maintain_order=True)
    newest = pl.col("activation_ratio", "stage", "tokens").last()
    return _by_run(ordered.group_by("run").agg(newest, pl.col("written_at").max()))


def _fits(store: StudyStore, runs: list[str]) -> Rows:
    limits = ["limit_activation_ratio", "limit_low", "limit_high"]
    columns = ["law", *limits, "verdict", "verdict_reason", "mse", "written_at"]
    return _by_run(store.scan("fits", runs).group_by("run").agg(pl.col(columns).last()))


PARTS = {
    "states": ("runs", newest_states),
    "steps": ("steps", _steps),
    "checkpoints": ("checkpoints", _checkpoints),
    "measured": ("sparsity", _measured),
    "fits": ("fits", _fits),
}
"""What a status is made of: the table, and how it is read for some runs."""
