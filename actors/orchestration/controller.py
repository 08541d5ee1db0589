"""The controller: a loop over the study's runs, each in an explicit state.

    planned -> waiting -> training -> measuring -> done
                  ^          |
                  +-- failure with progress      -> failed, or stopped

What survives lives in the store: which checkpoints are complete, which are measured, which
attempt is the newest. A controller that is started again finds all of it there. `tick` asks Ray
what is ready, goes on with it, and never waits; `wait` returns when there may be more.

Runs that wait for room ask Ray for it one or two at a time, in the study's order: Ray serves those
who ask in no order, so that studies on one cluster get about equally much of what becomes free.
Measurers have GPUs of their own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import ray

from sparsing.actors.orchestration.cluster.capacity import Room
from sparsing.actors.orchestration.cluster.nodes import cluster_has_gpus, missing, nodes_of_cluster
from sparsing.actors.orchestration.gang import Gang, remove_leftovers
from sparsing.actors.orchestration.measurers import Measurer, Measuring, Wanted
from sparsing.actors.orchestration.policy import (
    PastFailure,
    Restart,
    RunFailure,
    decide,
    replaced_batches,
)
from sparsing.actors.orchestration.progress import RunProgress, in_order, recall
from sparsing.actors.training.assignment import Assignment
from sparsing.study.definition.model import Resources, Study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.status.failure import Kind
from sparsing.study.status.study_status import ENDED
from sparsing.study.store.checkpoint_folders import complete_steps
from sparsing.study.store.control.lease import Lease
from sparsing.study.store.control.requests import stopped_runs
from sparsing.study.store.study_store import StudyStore

log = logging.getLogger("sparsing.controller")

PLACEMENTS_AT_ONCE = 2
"""Gangs that ask for room at the same time: two, so that what becomes free is taken at once."""
LOOK_SECONDS = 1.0
"""Between looks at what does not report by itself: new checkpoints, requests in the store."""
ROOM_SECONDS = 10.0
"""Between looks at whether a waiting run fits on the cluster at all."""


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
        self._gang = gang
        self.room = Room(self.study.resources)
        self.measuring = Measuring(store, data_path, measurer)
        self.runs = [recall(store, run) for run in plan_runs(self.study)]
        self._queue = in_order(self.study, self.runs)
        self._looked = self._looked_at_room = -math.inf
        remove_leftovers(store.path)

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
        for progress, step, failure in self.measuring.collect():
            self._end_measurement(progress, step, failure)
        self.measuring.hand_out(self._wanted_measurements())

    def wait(self, timeout_seconds: float) -> None:
        """Return as soon as `tick` can go on with something, or after so long."""
        awaited = [ref for p in self.runs if p.gang for ref in p.gang.awaited]
        awaited += self.measuring.awaited
        if awaited:
            ray.wait(awaited, timeout=timeout_seconds)
        else:
            time.sleep(timeout_seconds)

    def stop(self) -> None:
        """End all actors; the store holds everything needed to go on."""
        for progress in self.runs:
            self._release(progress)
        self.measuring.stop()

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
        if cluster_has_gpus(nodes_of_cluster()):
            self.measuring.start()
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
        progress.world_size = assignment.world_size
        # In the store first: the fence of the attempt before looks there.
        self._enter(progress, "waiting")
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
            done = progress.checkpoints = complete_steps(self.store.path, progress.run.id)
            if done and done[-1] == progress.run.steps:
                self._enter(progress, "measuring")
            else:
                what = "its shards ended before the last checkpoint"
                self._fail(progress, RunFailure(what, Kind.SHARD_FAILED))
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
    ) -> None:
        """Change a run's state, in the store first."""
        self.lease.check()
        step = progress.checkpoints[-1] if progress.checkpoints else 0
        row = {
            "step": step,
            "tokens": step * progress.run.batch_tokens,
            "state": state,
            "reason": reason,
            "world_size": progress.world_size,
            "failure_kind": failure_kind,
            "replaced_step": replaced_step,
        }
        run, attempt = progress.run.id, progress.attempt
        with self.store.writer("runs", run=run, attempt=attempt, stream="controller") as writer:
            writer.append(writer.next_seq, [row])
        progress.state, progress.reason = state, reason
        log.info("%s: %s%s", run, state, f" ({reason})" if reason else "")

    def _wanted_measurements(self) -> list[Wanted]:
        """What could be measured now."""
        found: list[Wanted] = []
        for progress in self.runs:
            if time.monotonic() < progress.not_before:
                continue
            if progress.state == "training":
                new = [s for s in progress.checkpoints if s not in progress.live_measured]
                found += [(progress, step) for step in new]
            if progress.state == "measuring":
                found.append((progress, None))
        return found

    def _end_measurement(
        self, progress: RunProgress, step: int | None, failure: RunFailure | None
    ) -> None:
        """A measurement that failed is made again, or fails its run, as the policy says."""
        if progress.state in ENDED:
            return
        if failure:
            self._fail(progress, failure, progress.state)
        elif step is None:
            self._enter(progress, "done")
        else:
            progress.live_measured.add(step)
