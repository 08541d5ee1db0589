"""What the controller asks of its parts; on Ray they are those of `orchestration.on_ray`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.report import ShardReport
from sparsing.actors.training.run_failure import RunFailure
from sparsing.study.plan.runs import Run

if TYPE_CHECKING:
    from sparsing.actors.orchestration.progress import RunProgress

Wanted = tuple["RunProgress", int | None]
"""A run, and the step of its checkpoint to be measured; None for its final measurement."""
Measured = tuple["RunProgress", int | None, RunFailure | None]
"""The same after it has ended, with the failure if it was one."""


class Cluster(Protocol):
    """What the controller asks of the cluster (`orchestration.on_ray.RayCluster`)."""

    def lack(self) -> str | None:
        """What the cluster lacks for one run, were it empty, in words; None where a run fits."""

    def world_size(self, run: Run) -> int:
        """Shards of the run's next attempt."""

    def may_grow(self, run: Run, shards: int) -> bool:
        """Whether a run that trains with `shards` shards would be given more now."""

    def draining(self) -> dict[str, float]:
        """Ids of nodes that are about to go, with the seconds until then."""

    def wait(self, awaited: list[Any], timeout_seconds: float) -> None:
        """Return when one of them is ready, or after the time."""


class Measurers(Protocol):
    """Who measures checkpoints (`orchestration.measurers.MeasurerPool`)."""

    @property
    def awaited(self) -> list[Any]:
        """What to wait for."""

    def start(self) -> None:
        """Before the first gang asks for room."""

    def hand_out(self, wanted: Sequence[Wanted]) -> None:
        """Start as many of these measurements as there is room for."""

    def collect(self) -> Iterable[Measured]:
        """Measurements that have ended."""

    def stop(self) -> None:
        """End all of it."""


class RunningGang(Protocol):
    """What the controller asks of a gang (`orchestration.gang.Gang`)."""

    assignment: Assignment
    report: ShardReport | None
    replay_difference: str | None

    @property
    def gpus(self) -> float:
        """What it occupies, or waits for."""

    @property
    def placed(self) -> bool:
        """Whether it has its place."""

    @property
    def awaited(self) -> list[Any]:
        """What to wait for."""

    def poll(self) -> str:
        """How far it is: a GangState."""

    @property
    def nodes(self) -> Sequence[str]:
        """Ids of the nodes where it is."""

    def save_and_stop(self) -> None:
        """Have it save a recovery point after its next step, and end."""

    def kill(self) -> None:
        """End it."""
