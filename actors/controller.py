"""The controller: a loop over the study's runs, each in an explicit state.

    planned -> waiting -> training -> measuring -> done
                  ^          |
                  +-- failure with progress      -> failed, or stopped

What survives lives in the store: which checkpoints are complete, which are measured, which
attempt is the newest. A controller that is started again finds all of it there. `tick` asks Ray
what is ready, goes on with it, and never waits; `wait` returns when there may be more.

Runs that wait for room ask Ray for it one or two at a time, so that the studies of a cluster get
what becomes free in turns, and in their order. Measurers have GPUs of their own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import ray

from actors.assignment import Assignment
from actors.checkpoint_folders import complete_steps
from actors.cluster import cluster_has_gpus, missing, nodes_of_cluster, shard_bundle
from actors.failures import past_failures
from actors.gang import Gang, describe, remove_leftovers, worker_environment
from actors.policy import Kind, PastFailure, Restart, RunFailure, decide, replaced_batches
from actors.remote_class import remote_class
from actors.room import Room
from study.definition import Resources, Study
from study.lease import Lease
from study.plan import Run, plan_runs, training_flops
from study.requests import stopped_runs
from study.status import ENDED
from study.store import StudyStore

log = logging.getLogger("sparsing.controller")

AS_MEASURING = {
    Kind.SHARD_LOST: Kind.MEASURER_LOST,
    Kind.SHARD_FAILED: Kind.MEASURING_FAILED,
    Kind.BAD_INPUT: Kind.MEASURING_FAILED,
}
"""Kinds of failures of actors in general, as those of a measurer are called."""
PLACEMENTS_AT_ONCE = 2
"""Gangs that ask for room at the same time: two, so that what becomes free is taken at once."""
LOOK_SECONDS = 1.0
"""Between looks at what does not report by itself: new checkpoints, requests in the store."""
ROOM_SECONDS = 10.0
"""Between looks at whether a waiting run fits on the cluster at all."""

Measurer = remote_class("actors.measurer", "Measurer", ("measure_live", "measure_final", "node"))


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
    checkpoints: list[int] = field(default_factory=list)
    """Steps of the complete ones, as they were seen last."""


class Controller:
    """Trains and measures the runs of one study on the connected Ray cluster.

    Args:
        store: the study's store, on a file system that every node sees.
        data_path: the prepared data, likewise.
        lease: of the study, which is checked before everything that is written or started.
        gang, measurer: what trains and measures; others than ours only to time the controller.
    """

    def __init__(
        self,
        store: StudyStore,
        data_path: str,
        lease: Lease,
        *,
        gang: Callable[[Assignment, Resources], Any] = Gang,
        measurer: type = Measurer,
    ) -> None:
        self.store = store
        self.study: Study = store.study
        self.data_path = data_path
        self.lease = lease
        self._gang, self._measurer = gang, measurer
        self.room = Room(self.study.resources)
        self.measurers: dict[Any, Any] = {}
        """Each with its node's id, to come."""
        self.measuring: dict[Any, tuple[Any, RunProgress, int | None]] = {}
        self.runs = [self._recall(run) for run in plan_runs(self.study)]
        self._queue = _in_order(self.study, self.runs)
        self._looked = self._looked_at_room = -math.inf
        remove_leftovers(store.path)

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
        """Whether every run is done, failed or stopped."""
        return all(p.state in ENDED for p in self.runs)

    @property
    def failed(self) -> dict[str, str]:
        """Runs that failed, with the reason."""
        return {p.run.id: p.reason or "" for p in self.runs if p.state == "failed"}

    def tick(self) -> None:
        """Go on with everything that can go on now.

        Raises:
            FencedError: another controller works on the study.
        """
        self.lease.check()
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._look()
            self._looked = now
        for progress in self.runs:
            if progress.state in ("waiting", "training"):
                self._follow(progress)
        self._admit_next()
        self._collect_measurements()
        self._hand_out_measurements()

    def wait(self, timeout_seconds: float) -> None:
        """Return as soon as `tick` can go on with something, or after so long."""
        awaited = [ref for p in self.runs if p.gang for ref in p.gang.awaited]
        awaited += list(self.measuring)
        if awaited:
            ray.wait(awaited, timeout=timeout_seconds)
        else:
            time.sleep(timeout_seconds)

    def stop(self) -> None:
        """End all actors; the store holds everything needed to go on."""
        for progress in self.runs:
            self._release(progress)
        for measurer in self.measurers:
            ray.kill(measurer, no_restart=True)

    def record_stop(self, reason: str) -> None:
        """Tell the store that what has not ended is stopped."""
        for progress in self.runs:
            if progress.state not in ENDED:
                self._enter(progress, "stopped", reason)

    def _look(self) -> None:
        """What does not report by itself: checkpoints, requests in the store, the cluster."""
        asked = stopped_runs(self.store.path)
        for progress in self.runs:
            if progress.state in ("waiting", "training"):
                progress.checkpoints = complete_steps(self.store.path, progress.run.id)
            if progress.run.id in asked and progress.state not in ENDED:
                self._release(progress)
                self._enter(progress, "stopped", f"by request, attempt {progress.attempt}")
            elif progress.state == "stopped" and progress.run.id not in asked:
                progress.state = "planned"
        waiting = [p for p in self.runs if p.gang and not p.gang.placed]
        if waiting and time.monotonic() - self._looked_at_room >= ROOM_SECONDS:
            self._looked_at_room = time.monotonic()
            lack = missing(self.study.resources, nodes_of_cluster())
            for progress in waiting:
                if lack != progress.reason:
                    self._enter(progress, "waiting", lack)

    def _release(self, progress: RunProgress) -> None:
        """End a run's gang, where it has one."""
        if progress.gang:
            progress.gang.kill()
            progress.gang = None

    def _admit_next(self) -> None:
        """Take up planned runs in their order, as far as the study's caps and the queue allow."""
        for progress in self._queue:
            if progress.state != "planned" or time.monotonic() < progress.not_before:
                continue
            progress.checkpoints = complete_steps(self.store.path, progress.run.id)
            if progress.checkpoints and progress.checkpoints[-1] == progress.run.steps:
                self._enter(progress, "done" if progress.final_measured else "measuring")
            elif self._may_start():
                self._start(progress)
            else:
                return

    def _may_start(self) -> bool:
        limits = self.study.resources
        gangs = [p.gang for p in self.runs if p.gang]
        if sum(not gang.placed for gang in gangs) >= PLACEMENTS_AT_ONCE:
            return False
        if limits.parallel_runs and len(gangs) >= limits.parallel_runs:
            return False
        # All gangs of a study are alike: one more takes what each takes.
        return not (
            limits.max_gpus and gangs and (len(gangs) + 1) * gangs[0].gpus > limits.max_gpus
        )

    def _start(self, progress: RunProgress) -> None:
        """Ask for a gang for a run."""
        if cluster_has_gpus():
            self._start_measurers()
        progress.attempt += 1
        progress.checkpoints_at_start = len(progress.checkpoints)
        assignment = Assignment(
            study_path=str(self.store.path),
            data_path=self.data_path,
            run=progress.run,
            attempt=progress.attempt,
            token=self.lease.token,
            world_size=self.room.world_size(progress.run),
            replaced_steps=replaced_batches(progress.failures),
        )
        # In the store first: the fence of the attempt before looks there.
        self._enter(progress, "waiting", world_size=assignment.world_size)
        progress.gang = self._gang(assignment, self.study.resources)

    def _follow(self, progress: RunProgress) -> None:
        """Follow a gang from its placement to its end."""
        assert progress.gang
        try:
            state = progress.gang.poll()
        except RunFailure as failure:
            self._release(progress)
            self._fail(progress, failure)
            return
        if state == "training" and progress.state == "waiting":
            # The shard itself writes this state to the store: it knows device and precision.
            progress.state = "training"
        elif state == "ended":
            self._release(progress)
            progress.checkpoints = complete_steps(self.store.path, progress.run.id)
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
            done = progress.checkpoints
            # Just after a checkpoint, so that nothing is trained twice.
            resized = len(done) > progress.checkpoints_at_start and done[-1] < progress.run.steps
        else:
            resized = False
        if resized:
            self._release(progress)
            self._enter(progress, "planned", f"the cluster has changed: not {shards} shards now")

    def _fail(
        self, progress: RunProgress, failure: RunFailure, retry_state: str = "planned"
    ) -> None:
        """After a failure, as the policy says: once more, or give the run up."""
        run = progress.run
        done = progress.checkpoints = complete_steps(self.store.path, run.id)
        step = done[-1] if done else 0
        decision = decide(failure, progress.failures, step, self.study.stability)
        if not isinstance(decision, Restart):
            self._release(progress)
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
        self.lease.check()
        step = progress.checkpoints[-1] if progress.checkpoints else 0
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
            if time.monotonic() < progress.not_before:
                continue
            if progress.state == "training":
                new = [s for s in progress.checkpoints if s not in progress.live_measured]
                found += [(progress, step) for step in new]
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

    def _start_measurers(self) -> None:
        """All of them, before the gangs: training must not take the GPUs that they need."""
        while len(self.measurers) < self.study.resources.measurers:
            self._start_measurer()

    def _start_measurer(self) -> Any:
        # A GPU of its own, where one is left beside a gang.
        actor: Any = ray.remote(self._measurer).options(
            num_cpus=0,
            num_gpus=self._measurer_gpus(),
            runtime_env=worker_environment(threads=1),
        )
        measurer: Any = actor.remote(str(self.store.path), self.data_path)
        self.measurers[measurer] = measurer.node.remote()
        return measurer

    def _measurer_gpus(self) -> int:
        nodes = nodes_of_cluster()
        there = sum(node.resources.get("GPU", 0) for node in nodes)
        gang = shard_bundle(self.study.resources, nodes).resources.get("GPU", 0)
        needed = gang * self.study.resources.shards + self.study.resources.measurers
        return 1 if there >= needed else 0

    def _collect_measurements(self) -> None:
        if not self.measuring:
            return
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


def _in_order(study: Study, runs: list[RunProgress]) -> list[RunProgress]:
    """The order in which runs start, as resources.order says."""
    if study.resources.order == "as_defined":
        return runs
    vocabulary = study.data.tokenizer.entries
    return sorted(runs, key=lambda p: -training_flops(p.run, vocabulary))
