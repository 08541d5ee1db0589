"""A controller without Ray: a test plays gangs, cluster and measurers, and moves the clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stores import tiny_store

from sparsing.actors.orchestration.controller import Controller
from sparsing.actors.orchestration.interfaces import Measured, Wanted
from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.report import ShardReport
from sparsing.actors.training.run_failure import RunFailure
from sparsing.study.errors import FencedError
from sparsing.study.plan.runs import Run
from sparsing.study.store.checkpoint_folders import checkpoint_folder, recovery_folder
from sparsing.study.store.checkpoint_marker import MARKER
from sparsing.study.store.study_store import StudyStore

REPORT = ShardReport(start_step=0, device="CPU, float32, ZeRO 0")


@dataclass
class FakeGang:
    """A gang whose state the test sets."""

    assignment: Assignment
    state: str = "placing"
    report: ShardReport | None = None
    replay_difference: str | None = None
    failure: RunFailure | None = None
    killed: bool = False
    asked_to_save: bool = False
    nodes: list[str] = field(default_factory=lambda: ["node-a"])
    gpus: float = 1.0
    awaited: list[Any] = field(default_factory=list)

    @property
    def placed(self) -> bool:
        return self.state != "placing"

    def poll(self) -> str:
        if self.failure:
            raise self.failure
        return self.state

    def kill(self) -> None:
        self.killed = True

    def save_and_stop(self) -> None:
        self.asked_to_save = True

    def save_point(self, step: int) -> None:
        """A recovery point is complete."""
        folder = recovery_folder(self.assignment.study_path, self.assignment.run.id, step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text("{}")

    def train(self, report: ShardReport = REPORT) -> None:
        """Its shards are ready and train."""
        self.state, self.report = "training", report

    def save(self, step: int) -> None:
        """A checkpoint is complete."""
        folder = checkpoint_folder(self.assignment.study_path, self.assignment.run.id, step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text("{}")

    def end(self) -> None:
        """It trains to the run's end."""
        self.train()
        for step in self.assignment.run.checkpoint_steps:
            self.save(step)
        self.state = "ended"


@dataclass
class FakeCluster:
    """Room for any gang, unless the test says otherwise."""

    shards: int = 1
    grows: bool = False
    lacks: str | None = None
    drained: dict[str, float] = field(default_factory=dict)

    def lack(self) -> str | None:
        return self.lacks

    def world_size(self, run: Run) -> int:
        return self.shards

    def may_grow(self, run: Run, shards: int) -> bool:
        return self.grows

    def draining(self) -> dict[str, float]:
        return self.drained

    def wait(self, awaited: list[Any], timeout_seconds: float) -> None:
        pass


@dataclass
class FakeMeasurers:
    """Measurements end when the test says so."""

    wanted: list[Wanted] = field(default_factory=list)
    results: list[Measured] = field(default_factory=list)
    started: bool = False
    awaited: list[Any] = field(default_factory=list)

    def start(self) -> None:
        self.started = True

    def hand_out(self, wanted: list[Wanted]) -> None:
        self.wanted = list(wanted)

    def collect(self) -> list[Measured]:
        ended, self.results = self.results, []
        return ended

    def stop(self) -> None:
        self.started = False


@dataclass
class FakeLease:
    """Held until the test takes it away."""

    token: int = 1
    lost: bool = False

    def check(self) -> None:
        if self.lost:
            raise FencedError("lost")


class Played:
    """One study of one run, tick by tick."""

    def __init__(self, root: Path, **changes: Any) -> None:
        axes = {"activation": ["relu"], "scale": [{"d_h": 8, "layers": 2}]}
        self.store: StudyStore = tiny_store(root, axes=axes, **changes)
        self.gangs: list[FakeGang] = []
        self.cluster, self.measurers = FakeCluster(), FakeMeasurers()
        self.lease, self.seconds = FakeLease(), 0.0
        self.controller = self.new_controller()

    def new_controller(self) -> Controller:
        return Controller(
            self.store,
            "data",
            self.lease,  # type: ignore[arg-type]
            start_gang=self._start_gang,
            cluster=self.cluster,
            measurers=self.measurers,
            clock=lambda: self.seconds,
        )

    def _start_gang(self, assignment: Assignment) -> FakeGang:
        self.gangs.append(FakeGang(assignment))
        return self.gangs[-1]

    @property
    def gang(self) -> FakeGang:
        """The newest."""
        return self.gangs[-1]

    @property
    def progress(self) -> Any:
        return self.controller.runs[0]

    def tick(self, seconds: float = 1.0) -> str:
        """Time passes, the controller goes on; the run's state."""
        self.seconds += seconds
        self.controller.tick()
        return self.progress.state

    def measured(self, step: int | None = None, failure: RunFailure | None = None) -> None:
        """A measurement has ended."""
        self.measurers.results.append((self.progress, step, failure))

    def rows(self) -> list[dict[str, Any]]:
        """Of the table `runs`, in the order of commits."""
        return self.store.scan("runs").collect().to_dicts()

    def states(self) -> list[str]:
        return [row["state"] for row in self.rows()]
