"""The measurers of a study: which of them measures what, and how that ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from sparsing.actors.orchestration.cluster.nodes import (
    cluster_has_gpus,
    nodes_of_cluster,
    shard_bundle,
)
from sparsing.actors.orchestration.cluster.reach import out_of_reach
from sparsing.actors.orchestration.gang import describe, last_line, worker_environment
from sparsing.actors.orchestration.interfaces import Measured, Wanted
from sparsing.actors.orchestration.progress import RunProgress
from sparsing.actors.orchestration.remote_class import remote_class
from sparsing.actors.training.run_failure import RunFailure
from sparsing.study.status.failure import Kind
from sparsing.study.store.study_store import StudyStore

Measurer = remote_class(
    "sparsing.actors.measuring.measurer", "Measurer", ("measure_live", "measure_final", "node")
)
AS_MEASURING = {
    Kind.SHARD_LOST: Kind.MEASURER_LOST,
    Kind.SHARD_FAILED: Kind.MEASURING_FAILED,
    Kind.BAD_INPUT: Kind.MEASURING_FAILED,
}
"""Kinds of failures of actors in general, as those of a measurer are called."""
NEVER_RAN = "The actor never ran"
"""Ray's words for an actor that was lost with its node before it had started."""
ASK_SECONDS = 10.0
"""Between questions to a measurer that is at work whether it is still there."""
SILENT_SECONDS = 60.0
"""One that does not answer within this time is lost: its process or its node stands still."""


@dataclass
class _Ears:
    """What is heard of a measurer; all times are of the controller's monotonic clock."""

    node: Any
    """Id of its node, to come: once it is there the measurer has started."""
    asked: Any = None
    heard: float = 0.0

    def listen_anew(self) -> None:
        """It was not asked while it had nothing to do."""
        self.asked, self.heard = None, self.heard and time.monotonic()

    def silent_seconds(self, measurer: Any, now: float) -> float:
        """Since its last answer; asks again when it is time."""
        if not self.heard:
            if not _is_ready(self.node):
                return 0.0  # it waits for its place, or loads torch
            self.heard = now
        if self.asked is not None and _is_ready(self.asked):
            self.heard, self.asked = now, None
        if self.asked is None and now - self.heard >= ASK_SECONDS:
            self.asked = measurer.node.remote()
        return now - self.heard


class MeasurerPool:
    """Hands measurements to measurers, each of which has one at a time; never waits."""

    def __init__(self, store: StudyStore, data_path: str, measurer: type = Measurer) -> None:
        self._store, self._data_path, self._measurer = store, data_path, measurer
        self._resources = store.study.resources
        self._measurers: dict[Any, _Ears] = {}
        self._listened = time.monotonic()
        self._tasks: dict[Any, tuple[Any, RunProgress, int | None]] = {}

    @property
    def awaited(self) -> list[Any]:
        """References of which the next to be ready lets `collect` go on."""
        return list(self._tasks)

    def start(self) -> None:
        """Start all measurers, before the gangs: training must not take the GPUs they need.

        Without GPUs they start when there is something to measure.
        """
        if not cluster_has_gpus(nodes_of_cluster()):
            return
        while len(self._measurers) < self._resources.measurers:
            self._start_one()

    def stop(self) -> None:
        """End all measurers."""
        for measurer in self._measurers:
            ray.kill(measurer, no_restart=True)

    def hand_out(self, wanted: Sequence[Wanted]) -> None:
        """Start as many of these measurements as there are measurers free."""
        taken = {(p.run.id, step) for _, p, step in self._tasks.values()}
        busy = {measurer for measurer, _, _ in self._tasks.values()}
        for progress, step in wanted:
            if (progress.run.id, step) in taken:
                continue
            measurer = next((m for m in self._measurers if m not in busy), None)
            if measurer is None and len(self._measurers) < self._resources.measurers:
                measurer = self._start_one()
            if measurer is None:
                return
            busy.add(measurer)
            self._measurers[measurer].listen_anew()
            if step is None:
                task = measurer.measure_final.remote(progress.run, progress.attempt)
            else:
                task = measurer.measure_live.remote(progress.run, step, progress.attempt)
            self._tasks[task] = (measurer, progress, step)

    def collect(self) -> Iterator[Measured]:
        """Measurements that have ended."""
        if not self._tasks:
            return
        yield from self._silent()
        if not self._tasks:
            return
        done, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        for task in done:
            measurer, progress, step = self._tasks.pop(task)
            try:
                ray.get(task)
            except ray.exceptions.RayError as error:
                yield progress, step, self._failure(measurer, error)
            else:
                yield progress, step, None

    def _silent(self) -> Iterator[Measured]:
        """Measurements whose measurers answer nothing any more; these are given up."""
        now = time.monotonic()
        away_seconds, self._listened = now - self._listened, now
        for task, (measurer, progress, step) in list(self._tasks.items()):
            ears = self._measurers[measurer]
            if away_seconds > ASK_SECONDS:
                ears.listen_anew()  # a controller that was away heard nobody
            silent_seconds = ears.silent_seconds(measurer, now)
            if silent_seconds < SILENT_SECONDS:
                continue
            del self._tasks[task], self._measurers[measurer]
            ray.kill(measurer, no_restart=True)
            kind = Kind.NODE_LOST if out_of_reach([ray.get(ears.node)]) else Kind.MEASURER_LOST
            words = f"measuring: the measurer has given no answer for {silent_seconds:.0f} s"
            yield progress, step, RunFailure(words, kind)

    def _failure(self, measurer: Any, error: ray.exceptions.RayError) -> RunFailure:
        """What happened; a measurer that died is replaced by the next one that is needed."""
        lost = isinstance(error, ray.exceptions.RayActorError)
        node = (self._measurers.pop(measurer) if lost else self._measurers[measurer]).node
        here = None
        if lost:
            with suppress(ray.exceptions.RayError):  # it may have died before it could say
                here = ray.get(node, timeout=0)
        if lost and here is None and NEVER_RAN in str(error):
            # Its node was lost while it started: no fault of the run's.
            return RunFailure(f"measuring: {last_line(error)}", Kind.NODE_LOST)
        failure = describe(error, "the measurer", here)
        kind = AS_MEASURING.get(failure.kind, failure.kind)
        return RunFailure(f"measuring: {failure}", kind, damaged=failure.damaged)

    def _start_one(self) -> Any:
        actor: Any = ray.remote(self._measurer).options(
            num_cpus=0,
            num_gpus=self._gpus(),
            max_concurrency=2,  # the second answers whether it is still there
            runtime_env=worker_environment(threads=1),
        )
        measurer: Any = actor.remote(str(self._store.path), self._data_path)
        self._measurers[measurer] = _Ears(measurer.node.remote())
        return measurer

    def _gpus(self) -> int:
        """Of a measurer: one of its own, where there are enough beside a gang."""
        nodes = nodes_of_cluster()
        there = sum(node.resources.get("GPU", 0) for node in nodes)
        gang = shard_bundle(self._resources, nodes).resources.get("GPU", 0)
        least = self._resources.min_shards or self._resources.shards
        return 1 if there >= gang * least + self._resources.measurers else 0


def _is_ready(reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])
