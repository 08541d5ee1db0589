"""`sparsing bench schedule`: what the controller of a large study leaves idle, and costs.

A study of `RUNS` runs on a Ray cluster of `NODES` raylets on this machine, each of which says that
it has `GPUS` GPUs: real placement groups, the real controller, its store. Only the shards are not:
they sleep, write rows and a checkpoint's marker, all in one actor; and nothing is measured. A run
takes a minute at most here, hours in a study, so that the idle share is an upper bound by far.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from sparsing.actors.orchestration.gang import Gang
from sparsing.actors.orchestration.on_ray import controller_on_ray
from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.heartbeat import Heartbeat, HeartbeatRecorder
from sparsing.actors.training.report import ShardReport
from sparsing.study.bench.bench import Case, measured_once
from sparsing.study.bench.made_rows import SEQUENCE_TOKENS, bench_study, step_rows
from sparsing.study.definition.model import Resources, Study
from sparsing.study.errors import SparsingError
from sparsing.study.plan.runs import Run
from sparsing.study.store.checkpoint_folders import checkpoint_folder
from sparsing.study.store.checkpoint_marker import MARKER
from sparsing.study.store.control.lease import acquire, study_cell
from sparsing.study.store.study_store import StudyStore

NODES, GPUS = 64, 8
RUNS = 1000
RUN_SECONDS = (30.0, 60.0)
ROW_SECONDS = 1.0
WAIT_SECONDS = 0.5
IDLE_BAR_PERCENT, CPU_BAR_PERCENT, MEMORY_BAR_BYTES = 2.0, 10.0, 500e6
OBJECT_STORE_BYTES = 80 * 2**20


class Seats:
    """All shards there are: they sleep, and write what a shard writes."""

    def __init__(self, study_path: str) -> None:
        self._store = StudyStore.open(".", study_path)
        self._recorders: dict[str, HeartbeatRecorder] = {}
        self._spans: list[tuple[float, float]] = []

    async def rendezvous(self) -> tuple[str, int]:
        """Where the gang would meet."""
        return "127.0.0.1", 0

    async def heartbeat(self, run: str) -> Heartbeat:
        """Of the run's shard 0."""
        return self._recorders[run].heartbeat()

    async def prepare(self, run: str) -> ShardReport:
        """Ready at once."""
        self._recorders[run] = HeartbeatRecorder()
        return ShardReport(start_step=0, device="none")

    async def train(self, assignment: Assignment, rank: int, seconds: float) -> Heartbeat | None:
        """Sleep for a run's time; rank 0 writes its rows, and the marker of its checkpoint."""
        if rank:
            await asyncio.sleep(seconds)
            return None
        run, began = assignment.run, time.monotonic()
        with self._store.writer("steps", run=run.id, attempt=assignment.attempt) as writer:
            for step in range(1, int(seconds / ROW_SECONDS) + 1):
                await asyncio.sleep(began + step * ROW_SECONDS - time.monotonic())
                writer.append(step, step_rows(step, 1))
                self._recorders[run.id].stepped()
            await asyncio.sleep(began + seconds - time.monotonic())
        folder = checkpoint_folder(self._store.path, run.id, run.steps)
        folder.mkdir(parents=True)
        (folder / MARKER).write_text("{}")
        self._spans.append((began, time.monotonic()))
        return self._recorders[run.id].heartbeat()

    async def spans(self) -> list[tuple[float, float]]:
        """Monotonic times of this machine between which each run trained."""
        return self._spans


class IdleMeasurer:
    """Finds every run measured already."""

    def __init__(self, study_path: str, data_path: str) -> None:
        pass

    def node(self) -> str:
        """Id of the Ray node where it is."""
        return ray.get_runtime_context().get_node_id()

    def measure_live(self, run: Run, step: int, attempt: int) -> None:
        """Nothing."""

    def measure_final(self, run: Run, attempt: int) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Call:
    """An actor's method with its first arguments, called as a shard's own method is."""

    method: Any
    arguments: tuple[Any, ...]

    def remote(self, *_: Any) -> Any:
        """What Ray's `remote` returns."""
        return self.method.remote(*self.arguments)


class Seat:
    """One shard of a simulated gang."""

    def __init__(self, seats: Any, assignment: Assignment, rank: int) -> None:
        seconds = random.Random(assignment.run.id).uniform(*RUN_SECONDS)
        self.rendezvous = Call(seats.rendezvous, ())
        self.prepare = Call(seats.prepare, (assignment.run.id,))
        self.train = Call(seats.train, (assignment, rank, seconds))
        self.heartbeat = Call(seats.heartbeat, (assignment.run.id,))


class SimulatedGang(Gang):
    """A gang with a real place on the cluster, and seats in place of processes."""

    def __init__(self, seats: Any, assignment: Assignment, resources: Resources) -> None:
        super().__init__(assignment, resources)
        self._seats = seats

    def _start(self) -> None:
        world_size = self.assignment.world_size
        self._shards = [Seat(self._seats, self.assignment, rank) for rank in range(world_size)]
        self._nodes = [""] * world_size
        self._rendezvous = self._shards[0].rendezvous.remote()

    def kill(self) -> None:
        """Give its place back."""
        self._shards = []
        super().kill()


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """What a study's scheduling took."""

    spans: list[tuple[float, float]]
    began: float
    ended: float
    cpu_seconds: float
    memory_bytes: int

    @property
    def filled(self) -> float:
        """When every node had its first run."""
        return sorted(began for began, _ in self.spans)[NODES - 1]

    @property
    def idle_percent(self) -> float:
        """Of the nodes' time between `filled` and the last start; then packing leaves room."""
        last = max(began for began, _ in self.spans)
        held = sum(max(0.0, min(b, last) - max(a, self.filled)) for a, b in self.spans)
        return 100 * (1 - held / (NODES * (last - self.filled)))


def schedule() -> Scheduled:
    """A study from its first run to its last, on a cluster of its own."""
    with tempfile.TemporaryDirectory(prefix="sparsing-bench-") as folder, _cluster():
        store = StudyStore.create(Path(folder), _study())
        actor: Any = ray.remote(Seats).options(
            num_cpus=0, max_concurrency=4 * NODES * GPUS, resources={"head": 1}
        )
        seats = actor.remote(str(store.path))
        ray.get(seats.spans.remote())
        began, cpu_seconds = time.monotonic(), time.process_time()
        controller = controller_on_ray(
            store,
            folder,
            acquire(study_cell(store.path)),
            start_gang=lambda each: SimulatedGang(seats, each, store.study.resources),
            measurer=IdleMeasurer,
        )
        while not controller.ended:
            controller.tick()
            controller.wait(WAIT_SECONDS)
        controller.stop()
        if controller.failed:
            raise SparsingError(f"runs failed: {controller.failed}")
        return Scheduled(
            spans=ray.get(seats.spans.remote()),
            began=began,
            ended=time.monotonic(),
            cpu_seconds=time.process_time() - cpu_seconds,
            memory_bytes=psutil.Process().memory_info().rss,
        )


def _study() -> Study:
    """Runs whose gang takes a whole node each."""
    changes = {
        "resources": {"shards": GPUS, "cpus_per_shard": 0.1},
        "optimization": {"batch_tokens": SEQUENCE_TOKENS * GPUS},
    }
    return Study.model_validate(bench_study(RUNS).model_dump() | changes)


@contextmanager
def _cluster() -> Iterator[None]:
    """A head with room for a measurer, and the nodes."""
    os.environ |= {"RAY_worker_niceness": "0"}
    shared = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    head = {"num_cpus": 2, "num_gpus": 1, "resources": {"head": 1}}
    cluster = Cluster(initialize_head=True, head_node_args=shared | head)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        for _ in range(NODES):
            cluster.add_node(wait=False, num_cpus=GPUS, num_gpus=GPUS, **shared)
        cluster.wait_for_nodes(timeout=600)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def cases(repeats: int) -> list[Case]:
    """Idle share, time to fill the cluster, and what the controller takes; once."""
    found = schedule()
    share = 100 * found.cpu_seconds / (found.ended - found.began)
    what = f"{RUNS} runs on {NODES} nodes"
    return [
        _case(f"idle while runs wait, {what}", found.idle_percent, "%", IDLE_BAR_PERCENT),
        _case("controller's processor", share, "% of a core", CPU_BAR_PERCENT),
        _case("controller's memory", found.memory_bytes / 1e6, "MB", MEMORY_BAR_BYTES / 1e6),
        _case(f"until {NODES} nodes train", found.filled - found.began, "s", min(RUN_SECONDS)),
    ]


def _case(name: str, value: float, unit: str, bar: float) -> Case:
    return measured_once(name, value, bar, baseline_name="the bar", unit=unit, better="lower")
