"""What Ray makes an actor of: one rank of a gang, from the rendezvous to the end of its run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

import ray

from sparsing.actors.models.device import check_gpus_are_seen
from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.fence import Fence
from sparsing.actors.training.heartbeat import Heartbeat, HeartbeatRecorder
from sparsing.actors.training.orphan import OrphanWatch, StoreSight
from sparsing.actors.training.reach import is_cut_off, node_address, use_interface_of
from sparsing.actors.training.report import ShardReport
from sparsing.actors.training.run_failure import as_failure
from sparsing.actors.training.shard import TrainingShard
from sparsing.actors.training.start import build_shard
from sparsing.study.errors import FencedError
from sparsing.study.store.study_store import StudyStore

Result = TypeVar("Result")


class ShardActor:
    """One rank of a run's gang; it talks to the store and its process group, never to other actors.

    The gang asks rank 0 for a `rendezvous`, tells all ranks to `prepare` with it, and then to
    `train`. Meanwhile another thread answers `heartbeat`.
    """

    def __init__(self, assignment: Assignment, rank: int) -> None:
        self._assignment, self._rank = assignment, rank
        self._address = node_address()
        use_interface_of(self._address)
        self._recorder = HeartbeatRecorder()
        self._shard: TrainingShard | None = None
        store = StudyStore.open(".", assignment.study_path)
        fence = Fence(store, assignment.run.id, assignment.attempt, assignment.token)
        OrphanWatch(StoreSight(store.path, fence), is_cut_off).start()

    def rendezvous(self) -> tuple[str, int]:
        """Address of this node and a free port on it, where the process group meets."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return self._address, probe.getsockname()[1]

    def heartbeat(self) -> Heartbeat:
        """How this shard goes on."""
        return self._recorder.heartbeat()

    def save_and_stop(self) -> None:
        """Have the gang save a recovery point after its next step, and end; asked of rank 0."""
        self._recorder.stop_asked = True

    def prepare(self, address: str, port: int) -> ShardReport:
        """Join the process group and load the newest checkpoint; returns when ready to train.

        Raises:
            RunFailure: whatever went wrong here, with its kind.
            FencedError: a newer attempt has been started.
        """
        self._shard = _with_kind(lambda: self._build(address, port))
        return self._shard.report

    def _build(self, address: str, port: int) -> TrainingShard:
        check_gpus_are_seen(len(ray.get_gpu_ids()))
        return build_shard(self._assignment, self._rank, address, port, self._recorder)

    def train(self) -> Heartbeat:
        """Train the run to its end; returns the last heartbeat once all of it is durable.

        Raises:
            RunFailure: whatever went wrong here, with its kind.
            FencedError: a newer attempt has been started.
        """
        assert self._shard, "prepare comes before train"
        _with_kind(self._shard.train)
        return self._recorder.heartbeat()


def _with_kind(work: Callable[[], Result]) -> Result:
    """Do it; an error of any sort is raised as a failure of a kind."""
    try:
        return work()
    except FencedError:
        raise
    except Exception as error:
        raise as_failure(error) from error
