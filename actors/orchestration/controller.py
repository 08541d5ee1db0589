"""The controller: a loop over the study's runs, each in a state of `orchestration.transitions`.

What survives lives in the store: which checkpoints are complete, which are measured, which
attempt is the newest. A controller that is started again finds all of it there. `tick` goes on
with what is ready and never waits; `wait` returns when there may be more.

It decides nothing by itself: `policy` says what follows from a failure, `cluster` how many shards
there is room for, `measurers` do the measuring, and a gang trains. Each is given to it, so that a
test gives others. `orchestration.on_ray` makes a controller of the connected Ray cluster.

Runs that wait for room ask Ray for it one or two at a time, in the study's order: Ray serves those
who ask in no order, so that studies on one cluster get about equally much of what becomes free.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from sparsing.actors.orchestration.admission import may_start
from sparsing.actors.orchestration.interfaces import Cluster, Measurers, RunningGang
from sparsing.actors.orchestration.measurements import missing_checkpoints, wanted_measurements
from sparsing.actors.orchestration.policy import PastFailure, Restart, decide, replaced_batches
from sparsing.actors.orchestration.progress import (
    Leaving,
    RunProgress,
    in_order,
    recall,
)
from sparsing.actors.orchestration.transitions import StateOwner
from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.run_failure import RunFailure
from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.status.failure import Kind
from sparsing.study.status.run_state import RunState
from sparsing.study.store.checkpoint_folders import (
    checkpoint_folder,
    complete_steps,
    recovery_steps,
    set_aside,
)
from sparsing.study.store.checkpoint_marker import MARKER
from sparsing.study.store.control.lease import Lease
from sparsing.study.store.control.requests import stopped_runs
from sparsing.study.store.study_store import StudyStore

LOOK_SECONDS = 1.0
"""Between looks at what does not report by itself: new checkpoints, requests in the store."""
STOP_NOTICE_SECONDS = 30.0
"""A gang that is to be stopped has this time to save; then it is ended, and what it has trained
since its newest checkpoint is trained again."""
ROOM_SECONDS = 10.0
"""Between looks at whether a waiting run fits on the cluster at all."""


class Controller:
    """Trains and measures the runs of one study.

    Args:
        store: the study's store, on a file system that every node sees.
        data_path: the prepared data, likewise.
        lease: of the study, which is checked before everything that is written or started.
        start_gang: asks for a gang with an assignment.
        cluster: where gangs are placed.
        measurers: measure checkpoints.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: StudyStore,
        data_path: str,
        lease: Lease,
        *,
        start_gang: Callable[[Assignment], RunningGang],
        cluster: Cluster,
        measurers: Measurers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.study: Study = store.study
        self.data_path = data_path
        self.lease = lease
        self.cluster = cluster
        self.measurers = measurers
        self.runs = [recall(store, run) for run in plan_runs(self.study)]
        self._states = StateOwner(store, lease)
        self._start_gang = start_gang
        self._now = clock
        self._queue = in_order(self.study, self.runs)
        self._looked = self._looked_at_room = -math.inf

    @property
    def ended(self) -> bool:
        """Whether every run is done, failed or stopped."""
        return all(p.state.ended for p in self.runs)

    @property
    def failed(self) -> dict[str, str]:
        """Runs that failed, with the reason."""
        return {p.run.id: p.reason or "" for p in self.runs if p.state == RunState.FAILED}

    def tick(self) -> None:
        """Go on with everything that can go on now.

        Raises:
            FencedError: another controller works on the study.
        """
        self.lease.check()
        now = self._now()
        if now - self._looked >= LOOK_SECONDS:
            self._look()
            self._looked = now
        for progress in self.runs:
            if progress.gang:
                self._follow(progress, progress.gang)
        self._admit_next()
        for progress, step, failure in self.measurers.collect():
            self._end_measurement(progress, step, failure)
        self.measurers.hand_out(wanted_measurements(self.runs, self._now()))

    def wait(self, timeout_seconds: float) -> None:
        """Return as soon as `tick` can go on with something, or after this time."""
        awaited = [ref for p in self.runs if p.gang for ref in p.gang.awaited]
        self.cluster.wait([*awaited, *self.measurers.awaited], timeout_seconds)

    def stop_saved(self, reason: str) -> None:
        """Have what trains save, for STOP_NOTICE_SECONDS at most, and end all; runs are stopped."""
        for progress in self.runs:
            if not progress.state.ended:
                self._leave(progress, RunState.STOPPED, reason, STOP_NOTICE_SECONDS)
        while leaving := [p for p in self.runs if p.leaving]:
            for progress in leaving:
                assert progress.gang
                self._follow(progress, progress.gang)
            awaited = [ref for p in leaving if p.gang for ref in p.gang.awaited]
            self.cluster.wait(awaited, LOOK_SECONDS)
        for progress in self.runs:
            if not progress.state.ended:  # its gang was leaving a node
                self._states.enter(progress, RunState.STOPPED, reason)
        self.stop()

    def stop(self) -> None:
        """End all actors; the store holds everything needed to go on."""
        for progress in self.runs:
            self._release(progress)
        self.measurers.stop()

    def _look(self) -> None:
        """What does not report by itself: checkpoints, requests in the store, the cluster."""
        asked = stopped_runs(self.store.path)
        for progress in self.runs:
            if progress.gang:
                self._see_checkpoints(progress)
            if progress.run.id in asked and not progress.state.ended:
                reason = f"by request, attempt {progress.attempt}"
                self._leave(progress, RunState.STOPPED, reason, STOP_NOTICE_SECONDS)
            elif progress.state == RunState.STOPPED and progress.run.id not in asked:
                self._states.enter(progress, RunState.PLANNED, "the request to stop was withdrawn")
        self._leave_drained_nodes()
        waiting = [p for p in self.runs if p.gang and not p.gang.placed]
        if waiting and self._now() - self._looked_at_room >= ROOM_SECONDS:
            self._looked_at_room = self._now()
            lack = self.cluster.lack()
            for progress in waiting:
                if lack != progress.reason:
                    self._states.enter(progress, RunState.WAITING, lack)

    def _see_checkpoints(self, progress: RunProgress) -> None:
        progress.checkpoints = complete_steps(self.store.path, progress.run.id)
        points = recovery_steps(self.store.path, progress.run.id)
        progress.recovery_step = points[-1] if points else 0

    def _leave_drained_nodes(self) -> None:
        """Gangs on nodes that are about to go save, and go on elsewhere."""
        for node, notice_seconds in self.cluster.draining().items():
            for progress in self.runs:
                if progress.gang and node in progress.gang.nodes and not progress.leaving:
                    reason = f"its node {node[:8]} is being drained"
                    self._leave(progress, RunState.PLANNED, reason, notice_seconds)

    def _leave(
        self, progress: RunProgress, state: RunState, reason: str, notice_seconds: float
    ) -> None:
        """End a run's gang, which may save before that, and then enter a state."""
        if progress.leaving:
            return
        if progress.gang and progress.state == RunState.TRAINING:
            deadline = self._now() + notice_seconds
            progress.leaving = Leaving(deadline=deadline, state=state, reason=reason)
            progress.gang.save_and_stop()
        else:
            self._release(progress)
            self._states.enter(progress, state, reason)

    def _has_left(self, progress: RunProgress, leaving: Leaving) -> None:
        self._release(progress)
        self._see_checkpoints(progress)
        self._states.enter(progress, leaving.state, leaving.reason)

    def _release(self, progress: RunProgress) -> None:
        """End a run's gang, where it has one."""
        if progress.gang:
            progress.gang.kill()
            progress.gang = progress.leaving = None

    def _admit_next(self) -> None:
        """Take up planned runs in their order, as far as the study's caps and the queue allow."""
        for progress in self._queue:
            if progress.state != RunState.PLANNED or self._now() < progress.not_before:
                continue
            self._see_checkpoints(progress)
            if progress.trained:
                if progress.final_measured:
                    self._states.enter(progress, RunState.DONE)
                else:
                    self._states.enter(progress, RunState.MEASURING, missing_checkpoints(progress))
            elif may_start(self.study.resources, [p.gang for p in self.runs if p.gang]):
                self._start(progress)
            else:
                return

    def _start(self, progress: RunProgress) -> None:
        """Ask for a gang for a run."""
        self.measurers.start()
        progress.attempt += 1
        progress.checkpoints_at_start = len(progress.checkpoints)
        progress.replay_reported = False
        progress.world_size = self.cluster.world_size(progress.run)
        assignment = Assignment(
            study_path=str(self.store.path),
            data_path=self.data_path,
            run=progress.run,
            attempt=progress.attempt,
            token=self.lease.token,
            world_size=progress.world_size,
            replaced_steps=replaced_batches(progress.failures),
        )
        # In the store first: the fence of the attempt before looks there.
        self._states.enter(progress, RunState.WAITING)
        progress.gang = self._start_gang(assignment)

    def _follow(self, progress: RunProgress, gang: RunningGang) -> None:
        """Follow a gang from its placement to its end."""
        try:
            state = gang.poll()
        except RunFailure as failure:
            if progress.leaving:
                self._has_left(progress, progress.leaving)
                return
            self._release(progress)
            self._fail(progress, failure)
            return
        if gang.report and progress.state == RunState.WAITING:
            self._states.enter(
                progress,
                RunState.TRAINING,
                gang.report.reason,
                failure_kind=Kind.CHECKPOINT_DAMAGED if gang.report.damaged else None,
                device=gang.report.device,
                step=gang.report.start_step,
            )
        if gang.replay_difference and not progress.replay_reported:
            kind, words = Kind.REPLAY_DIFFERS, gang.replay_difference
            self._states.enter(progress, RunState.TRAINING, words, failure_kind=kind)
            progress.replay_reported = True
        if leaving := progress.leaving:
            if state == "ended" or self._now() >= leaving.deadline:
                self._has_left(progress, leaving)
        elif state == "ended":
            self._end_gang(progress)
        elif self._is_to_resize(progress, gang, state):
            self._release(progress)
            shards = gang.assignment.world_size
            reason = f"the cluster has changed: not {shards} shards now"
            self._states.enter(progress, RunState.PLANNED, reason)

    def _end_gang(self, progress: RunProgress) -> None:
        self._release(progress)
        self._see_checkpoints(progress)
        if progress.trained:
            self._states.enter(progress, RunState.MEASURING, missing_checkpoints(progress))
        else:
            what = "its shards ended before the last checkpoint"
            self._fail(progress, RunFailure(what, Kind.SHARD_FAILED))

    def _is_to_resize(self, progress: RunProgress, gang: RunningGang, state: str) -> bool:
        """Whether a gang finds no room any more and goes on smaller, or may grow."""
        shards = gang.assignment.world_size
        if state == "placing":
            return self.cluster.world_size(progress.run) != shards
        if state == "training" and self.cluster.may_grow(progress.run, shards):
            # Just after a checkpoint, so that nothing is trained twice.
            new = len(progress.checkpoints) > progress.checkpoints_at_start
            return new and not progress.trained
        return False

    def _fail(
        self,
        progress: RunProgress,
        failure: RunFailure,
        retry_state: RunState = RunState.PLANNED,
    ) -> None:
        """After a failure, as the policy says: try once more, or give the run up."""
        self._see_checkpoints(progress)
        step = progress.saved_step
        decision = decide(failure, progress.failures, step, self.study.stability)
        if not isinstance(decision, Restart):
            self._release(progress)
            reason = f"{failure}; {decision.why}" if decision.why else str(failure)
            self._states.enter(progress, RunState.FAILED, reason, failure_kind=failure.kind)
            return
        past = PastFailure(kind=failure.kind, checkpoint_step=step, batch_step=decision.batch_step)
        progress.failures.append(past)
        progress.not_before = self._now() + decision.pause_seconds
        when = f" in {decision.pause_seconds:.0f} s" if decision.pause_seconds else ""
        self._states.enter(
            progress,
            retry_state,
            f"once more{when}: {failure}",
            failure_kind=failure.kind,
            replaced_step=decision.batch_step,
        )

    def _end_measurement(
        self, progress: RunProgress, step: int | None, failure: RunFailure | None
    ) -> None:
        """A measurement that failed is made again, or fails its run, as the policy says."""
        if progress.state.ended:
            return
        if failure and failure.damaged:
            self._set_aside(progress, failure, failure.damaged)
        elif failure:
            self._fail(progress, failure, progress.state)
        elif step is None:
            self._states.enter(progress, RunState.DONE)
        else:
            progress.live_measured.add(step)

    def _set_aside(self, progress: RunProgress, failure: RunFailure, folder: Path) -> None:
        """A checkpoint was found damaged when it was to be measured: it is none any more.

        The newest is trained again. Others could be made again only by training everything after
        them again, which is for a person to decide.
        """
        self._see_checkpoints(progress)
        newest = checkpoint_folder(self.store.path, progress.run.id, progress.newest_step)
        if (folder / MARKER).exists():
            failure = RunFailure(f"{failure}; kept as {set_aside(folder).name}", failure.kind)
        self._release(progress)
        if folder.name == newest.name:
            self._fail(progress, failure)
            return
        remedy = (
            "put it back from a copy; or remove the later checkpoints of the run, so that they "
            "are trained again"
        )
        reason = f"{failure}; {remedy}"
        self._states.enter(progress, RunState.FAILED, reason, failure_kind=failure.kind)
