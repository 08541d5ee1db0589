"""The controller: a loop over the study's runs, each in an explicit state.

    planned -> waiting -> training -> measuring -> done
                  ^          |
                  +-- failure with progress      -> failed

What survives lives in the store: which checkpoints are complete, which are measured, which
attempt is the newest. A controller that is started again finds all of it there. It never waits:
every `tick` asks Ray what is ready and goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import ray

from actors.checkpoints import complete_steps
from actors.gang import Gang, cluster_has_gpus, worker_environment
from actors.measurer import Measurer
from actors.shard import Assignment
from study.definition import Study
from study.errors import SparsingError
from study.plan import Run, plan_runs
from study.status import ENDED
from study.store import StudyStore

log = logging.getLogger("sparsing.controller")

RESTARTS_WITHOUT_PROGRESS = 2
"""A run that fails more often than this without a new checkpoint in between is failed."""


@dataclass
class RunProgress:
    """A run as the controller sees it."""

    run: Run
    state: str = "planned"
    reason: str | None = None
    attempt: int = 0
    gang: Gang | None = None
    live_measured: set[int] = field(default_factory=set)
    final_measured: bool = False
    failures_without_progress: int = 0
    checkpoints_at_start: int = 0


class Controller:
    """Trains and measures the runs of one study on the connected Ray cluster.

    Args:
        store: the study's store, on a file system that every node sees.
        data_path: the prepared data, likewise.
    """

    def __init__(self, store: StudyStore, data_path: str) -> None:
        self.store = store
        self.study: Study = store.study
        self.data_path = data_path
        self.measurers: list[Any] = []
        self.measuring: dict[Any, tuple[Any, RunProgress, int | None]] = {}
        self.runs = [self._recall(run) for run in plan_runs(self.study)]

    def _recall(self, run: Run) -> RunProgress:
        """A run's progress, from the store alone."""
        states = self.store.scan("runs", run=run.id).sort("written_at").collect()
        measured = (
            self.store.scan("sparsity", run=run.id).select("stage", "step").unique().collect()
        )
        by_stage = {
            stage: set(measured.filter(pl.col("stage") == stage)["step"].to_list())
            for stage in ("live", "final")
        }
        return RunProgress(
            run=run,
            attempt=max(states["attempt"].to_list(), default=0),
            live_measured=by_stage["live"],
            final_measured=by_stage["final"] >= set(run.checkpoint_steps),
        )

    @property
    def ended(self) -> bool:
        """Whether every run is done or failed."""
        return all(p.state in ENDED for p in self.runs)

    @property
    def failed(self) -> dict[str, str]:
        """Runs that failed, with the reason."""
        return {p.run.id: p.reason or "" for p in self.runs if p.state == "failed"}

    def tick(self) -> None:
        """Go on with everything that can go on now."""
        for progress in self.runs:
            if progress.state == "planned":
                self._admit(progress)
            elif progress.state in ("waiting", "training"):
                self._follow(progress)
        self._collect_measurements()
        self._hand_out_measurements()

    def stop(self) -> None:
        """End all actors; the store holds everything needed to go on."""
        for progress in self.runs:
            if progress.gang:
                progress.gang.kill()
                progress.gang = None
        for measurer in self.measurers:
            ray.kill(measurer, no_restart=True)

    def _admit(self, progress: RunProgress) -> None:
        """Take up a planned run, if `parallel_runs` allows one more."""
        trained = complete_steps(self.store.path, progress.run.id)
        if trained and trained[-1] == progress.run.steps:
            self._enter(progress, "done" if progress.final_measured else "measuring")
            return
        limit = self.study.resources.parallel_runs
        if limit and sum(p.gang is not None for p in self.runs) >= limit:
            return
        progress.attempt += 1
        progress.checkpoints_at_start = len(trained)
        assignment = Assignment(
            study_path=str(self.store.path),
            data_path=self.data_path,
            run=progress.run,
            attempt=progress.attempt,
            world_size=self.study.resources.shards,
        )
        progress.gang = Gang(assignment, self.study.resources)
        self._enter(progress, "waiting")

    def _follow(self, progress: RunProgress) -> None:
        """Follow a gang from its placement to its end."""
        assert progress.gang
        try:
            state = progress.gang.poll()
        except ray.exceptions.RayError as error:
            self._fail_attempt(progress, error)
            return
        if state == "training" and progress.state == "waiting":
            # The shard itself writes this state to the store: it knows device and precision.
            progress.state = "training"
        elif state == "ended":
            progress.gang.kill()
            progress.gang = None
            self._enter(progress, "measuring")

    def _fail_attempt(self, progress: RunProgress, error: Exception) -> None:
        """After a failure: start again from the newest checkpoint, or give the run up."""
        assert progress.gang
        progress.gang.kill()
        progress.gang = None
        cause = getattr(error, "cause", None)
        own_fault = isinstance(cause, SparsingError)
        lost = isinstance(error, ray.exceptions.RayActorError)
        what = "a shard was lost" if lost else "a shard failed"
        reason = str(cause) if own_fault else f"{what}: {last_line(error)}"
        made_progress = (
            len(complete_steps(self.store.path, progress.run.id)) > progress.checkpoints_at_start
        )
        failures = 1 if made_progress else progress.failures_without_progress + 1
        progress.failures_without_progress = failures
        if own_fault or failures > RESTARTS_WITHOUT_PROGRESS:
            self._enter(progress, "failed", reason)
        else:
            self._enter(progress, "planned", f"restarting: {reason}")

    def _enter(self, progress: RunProgress, state: str, reason: str | None = None) -> None:
        """Change a run's state, in the store first."""
        done = complete_steps(self.store.path, progress.run.id)
        step = done[-1] if done else 0
        row = {
            "step": step,
            "tokens": step * progress.run.batch_tokens,
            "state": state,
            "reason": reason,
            "world_size": self.study.resources.shards,
        }
        run, attempt = progress.run.id, progress.attempt
        with self.store.writer("runs", run=run, attempt=attempt, stream="controller") as writer:
            writer.append(writer.next_seq, [row])
        progress.state, progress.reason = state, reason
        log.info("%s: %s%s", run, state, f" ({reason})" if reason else "")

    def _open_measurements(self) -> list[tuple[RunProgress, int | None]]:
        """What could be measured now: (run, step), or (run, None) for its final measurement."""
        taken = {(p.run.id, step) for _, p, step in self.measuring.values()}
        found: list[tuple[RunProgress, int | None]] = []
        for progress in self.runs:
            steps = complete_steps(self.store.path, progress.run.id)
            if progress.state == "training":
                found += [(progress, s) for s in steps if s not in progress.live_measured]
            if progress.state == "measuring":
                found.append((progress, None))
        return [(p, s) for p, s in found if (p.run.id, s) not in taken]

    def _hand_out_measurements(self) -> None:
        busy = {measurer for measurer, _, _ in self.measuring.values()}
        for progress, step in self._open_measurements():
            measurer = next((m for m in self.measurers if m not in busy), None)
            if measurer is None and len(self.measurers) < self.study.resources.measurers:
                measurer = self._start_measurer()
            if measurer is None:
                return
            busy.add(measurer)
            if step is None:
                task = measurer.measure_final.remote(progress.run, progress.attempt)
            else:
                task = measurer.measure_live.remote(progress.run, step, progress.attempt)
            self.measuring[task] = (measurer, progress, step)

    def _start_measurer(self) -> Any:
        actor = ray.remote(Measurer).options(
            num_cpus=0,
            num_gpus=1 if cluster_has_gpus() else 0,
            runtime_env=worker_environment(threads=1),
        )
        measurer = actor.remote(str(self.store.path), self.data_path)
        self.measurers.append(measurer)
        return measurer

    def _collect_measurements(self) -> None:
        done, _ = ray.wait(list(self.measuring), num_returns=len(self.measuring), timeout=0)
        for task in done:
            measurer, progress, step = self.measuring.pop(task)
            try:
                ray.get(task)
            except ray.exceptions.RayError as error:
                self._fail_measurement(measurer, progress, error)
                continue
            if step is None:
                self._enter(progress, "done")
            else:
                progress.live_measured.add(step)

    def _fail_measurement(self, measurer: Any, progress: RunProgress, error: Exception) -> None:
        """A measurer that died is replaced; a measurement that raised fails its run."""
        progress.failures_without_progress += 1
        lost = isinstance(error, ray.exceptions.RayActorError)
        if lost:
            self.measurers.remove(measurer)
        if lost and progress.failures_without_progress <= RESTARTS_WITHOUT_PROGRESS:
            log.warning("a measurer was lost and is replaced: %s", last_line(error))
            return
        if progress.gang:
            progress.gang.kill()
            progress.gang = None
        self._enter(progress, "failed", f"measuring failed: {last_line(error)}")


def last_line(error: Exception) -> str:
    """The line of a Ray error that says what happened."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
