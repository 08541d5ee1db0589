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
import time
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import ray

from actors.checkpoints import complete_steps
from actors.failures import past_failures
from actors.gang import Gang, cluster_has_gpus, describe, worker_environment
from actors.measurer import Measurer
from actors.policy import Kind, PastFailure, Restart, RunFailure, decide, replaced_batches
from actors.room import Room
from actors.shard import Assignment
from study.definition import Study
from study.plan import Run, plan_runs
from study.status import ENDED
from study.store import StudyStore

log = logging.getLogger("sparsing.controller")


AS_MEASURING = {
    Kind.SHARD_LOST: Kind.MEASURER_LOST,
    Kind.SHARD_FAILED: Kind.MEASURING_FAILED,
    Kind.BAD_INPUT: Kind.MEASURING_FAILED,
}
"""Kinds of failures of actors in general, as those of a measurer are called."""


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
    failures: list[PastFailure] = field(default_factory=list)
    not_before: float = 0.0
    """Monotonic time of this process until which nothing is started for the run."""
    checkpoints_at_start: int = 0
    """Complete ones when the newest attempt began."""


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
        self.room = Room(self.study.resources)
        self.measurers: dict[Any, Any] = {}
        """Each with its node's id, to come."""
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
            failures=past_failures(self.store, run.id),
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
        if time.monotonic() < progress.not_before:
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
            world_size=self.room.world_size(progress.run),
            replaced_steps=replaced_batches(progress.failures),
        )
        # In the store first: the fence of the attempt before looks there.
        self._enter(progress, "waiting", world_size=assignment.world_size)
        progress.gang = Gang(assignment, self.study.resources)

    def _follow(self, progress: RunProgress) -> None:
        """Follow a gang from its placement to its end."""
        assert progress.gang
        try:
            state = progress.gang.poll()
        except RunFailure as failure:
            self._end_attempt(progress)
            self._fail(progress, failure)
            return
        if state == "training" and progress.state == "waiting":
            # The shard itself writes this state to the store: it knows device and precision.
            progress.state = "training"
        elif state == "ended":
            self._end_attempt(progress)
            self._enter(progress, "measuring")
        else:
            self._resize(progress, state)

    def _resize(self, progress: RunProgress, state: str) -> None:
        """Let a gang that finds no room any more go on smaller, and one that may grow, larger."""
        assert progress.gang
        shards = progress.gang.assignment.world_size
        if state == "placing":
            resized = self.room.world_size(progress.run) != shards
        elif state == "training" and self.room.may_grow(progress.run, shards):
            done = complete_steps(self.store.path, progress.run.id)
            # Just after a checkpoint, so that nothing is trained twice.
            resized = len(done) > progress.checkpoints_at_start and done[-1] < progress.run.steps
        else:
            resized = False
        if resized:
            self._end_attempt(progress)
            self._enter(progress, "planned", f"the cluster has changed: not {shards} shards now")

    def _end_attempt(self, progress: RunProgress) -> None:
        if progress.gang:
            progress.gang.kill()
        progress.gang = None

    def _fail(
        self, progress: RunProgress, failure: RunFailure, retry_state: str = "planned"
    ) -> None:
        """After a failure, as the policy says: once more, or give the run up."""
        run = progress.run
        done = complete_steps(self.store.path, run.id)
        step = done[-1] if done else 0
        decision = decide(failure, progress.failures, step, self.study.stability)
        if not isinstance(decision, Restart):
            self._end_attempt(progress)
            reason = f"{failure}; {decision.why}" if decision.why else str(failure)
            self._enter(progress, "failed", reason, failure.kind)
            return
        past = PastFailure(kind=failure.kind, checkpoint_step=step, batch_step=decision.batch_step)
        progress.failures.append(past)
        progress.not_before = time.monotonic() + decision.pause_seconds
        when = f" in {decision.pause_seconds:.0f} s" if decision.pause_seconds else ""
        self._enter(
            progress,
            retry_state,
            f"once more{when}: {failure}",
            failure.kind,
            replaced_step=decision.batch_step,
        )

    def _enter(
        self,
        progress: RunProgress,
        state: str,
        reason: str | None = None,
        failure_kind: Kind | None = None,
        *,
        replaced_step: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Change a run's state, in the store first."""
        done = complete_steps(self.store.path, progress.run.id)
        step = done[-1] if done else 0
        row = {
            "step": step,
            "tokens": step * progress.run.batch_tokens,
            "state": state,
            "reason": reason,
            "world_size": world_size,
            "failure_kind": failure_kind,
            "replaced_step": replaced_step,
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
            if time.monotonic() < progress.not_before:
                continue
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
        measurer: Any = actor.remote(str(self.store.path), self.data_path)
        self.measurers[measurer] = measurer.node.remote()
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

    def _fail_measurement(
        self, measurer: Any, progress: RunProgress, error: ray.exceptions.RayError
    ) -> None:
        """A measurer that died is replaced; a measurement that raised fails its run."""
        lost = isinstance(error, ray.exceptions.RayActorError)
        node = self.measurers.pop(measurer) if lost else self.measurers[measurer]
        here = ray.get(node) if ray.wait([node], timeout=0)[0] and lost else None
        failure = describe(error, "the measurer", here)
        kind = AS_MEASURING.get(failure.kind, failure.kind)
        self._fail(progress, RunFailure(f"measuring: {failure}", kind), progress.state)
