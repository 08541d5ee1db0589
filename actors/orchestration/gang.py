"""A gang: all shards of a run in one placement group, all or none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sparsing.actors.orchestration.cluster.nodes import nodes_of_cluster, shard_bundle
from sparsing.actors.orchestration.cluster.reach import out_of_reach
from sparsing.actors.orchestration.heartbeat_watch import HeartbeatWatch, is_ready
from sparsing.actors.orchestration.policy import most_telling
from sparsing.actors.orchestration.remote_class import remote_class
from sparsing.actors.orchestration.watchdog import START_SECONDS
from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.report import ShardReport
from sparsing.actors.training.run_failure import RunFailure, as_failure
from sparsing.study.definition.model import Resources
from sparsing.study.errors import FencedError
from sparsing.study.status.failure import Kind


def worker_environment(threads: int) -> dict[str, Any]:
    """Runtime environment of our actors: thread counts are set before torch is loaded."""
    return {
        "env_vars": {
            "OMP_NUM_THREADS": str(threads),
            "POLARS_MAX_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    }


COLLATERAL_SECONDS = 5.0
"""When a shard fails because its peer is gone, the peer's own end shows within this time."""
OF_LOST_NODES = frozenset({Kind.HUNG, Kind.SHARD_LOST, Kind.SHARD_FAILED})
"""Kinds of failures that the loss of a node looks like."""
NODE_DEATH_SECONDS = 20.0
"""A shard out of reach may have lost its node: Ray knows after this time at the latest."""


class GangState(StrEnum):
    """How far a gang is."""

    PLACING = "placing"
    """It waits for its place on the cluster."""
    STARTING = "starting"
    """Its processes start, meet, and load their checkpoint."""
    TRAINING = "training"
    ENDED = "ended"
    """All shards have trained to the run's end."""


Shard = remote_class(
    "sparsing.actors.training.shard_actor",
    "ShardActor",
    ("rendezvous", "prepare", "train", "heartbeat", "save_and_stop"),
)


class Gang:
    """The shards of one attempt of a run; no call of it waits."""

    def __init__(
        self, assignment: Assignment, resources: Resources, shard_class: type = Shard
    ) -> None:
        self.assignment = assignment
        self.resources = resources
        self.report: ShardReport | None = None
        """Of shard 0, once all are ready to train."""
        self.replay_difference: str | None = None
        """The first step that was trained again with another loss, in words."""
        self._shard_class = shard_class
        self._bundle = shard_bundle(resources, nodes_of_cluster())
        shards = assignment.world_size
        self._group: PlacementGroup = placement_group(
            [self._bundle.resources] * shards,
            strategy=resources.placement,
            name=_name(assignment),
            bundle_label_selector=[self._bundle.labels] * shards if self._bundle.labels else None,
        )
        self._placed = self._group.ready()
        self._shards: list[Any] = []
        self._rendezvous: Any = None
        self._started = 0.0
        self._tasks: list[Any] = []
        """One of each shard: `prepare`, then `train`."""
        self._running: list[Any] = []
        """Those of them that have not ended."""
        self._nodes: list[str] = []
        self._failed_since: float | None = None
        self._unreachable = False
        self._heartbeats: HeartbeatWatch | None = None

    @property
    def gpus(self) -> float:
        """What it occupies, or waits for."""
        return self._bundle.resources.get("GPU", 0) * self.assignment.world_size

    @property
    def placed(self) -> bool:
        """Whether it has its place, as `poll` found last."""
        return bool(self._shards)

    @property
    def awaited(self) -> list[Any]:
        """References of which the next to be ready lets `poll` go on."""
        if not self._shards:
            return [self._placed]
        return self._running if self._tasks else [self._rendezvous]

    def poll(self) -> GangState:
        """Go on where possible; how far the gang is.

        Raises:
            RunFailure: a shard died or raised, the gang hangs, or a node is out of reach.
            FencedError: a newer attempt has been started.
        """
        try:
            return self._poll()
        except RunFailure as failure:
            raise self._by_its_node(failure) from None

    def _by_its_node(self, failure: RunFailure) -> RunFailure:
        """A failure, or that a node was lost, where one is out of reach: its shards cannot help it.

        Ray finds out a minute later, or never, if the node comes back before.
        """
        if failure.kind not in OF_LOST_NODES:
            return failure
        lost = set(out_of_reach(self._nodes))
        ranks = [rank for rank, node in enumerate(self._nodes) if node in lost]
        if not ranks:
            return failure
        return RunFailure(
            f"the node of shard {ranks[0]} is out of reach ({failure})", Kind.NODE_LOST
        )

    def _poll(self) -> GangState:
        if not self._shards:
            if not is_ready(self._placed):
                return GangState.PLACING
            self._start()
            self._started = time.monotonic()
        if not self._tasks:
            return self._poll_rendezvous()
        done, self._running = ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        failures = [failure for task in done if (failure := self._failure_of(task))]
        if failures:
            self._judge(failures, waiting=bool(self._running))
        elif not self._running:
            if self.report:
                self.replay_difference = ray.get(self._tasks[0]).replay_difference
                return GangState.ENDED
            self.report = ray.get(self._tasks[0])
            self._tasks = self._running = [shard.train.remote() for shard in self._shards]
        else:
            assert self._heartbeats
            heartbeat = self._heartbeats.look()
            self.replay_difference = heartbeat.replay_difference
        return GangState.TRAINING if self.report else GangState.STARTING

    def _poll_rendezvous(self) -> GangState:
        if not is_ready(self._rendezvous):
            if time.monotonic() - self._started > START_SECONDS:
                raise RunFailure(f"shard 0 did not start in {START_SECONDS:.0f} s", Kind.HUNG)
            return GangState.STARTING
        try:
            address, port = ray.get(self._rendezvous)
        except ray.exceptions.RayError as error:
            raise self._describe(error, rank=0) from None
        self._tasks = self._running = [s.prepare.remote(address, port) for s in self._shards]
        self._heartbeats = HeartbeatWatch(self._shards[0], self.resources.hang_seconds)
        return GangState.STARTING

    def _failure_of(self, task: Any) -> RunFailure | None:
        try:
            ray.get(task)
        except ray.exceptions.RayError as error:
            self._unreachable |= isinstance(error, ray.exceptions.ActorUnavailableError)
            return self._describe(error, rank=self._tasks.index(task))
        return None

    def _judge(self, failures: list[RunFailure], waiting: bool) -> None:
        """Raise the failure that explains the others; give the others some time to show it."""
        now = time.monotonic()
        self._failed_since = self._failed_since or now
        told = most_telling(failures)
        patience_seconds = 0.0
        if told.kind == Kind.SHARD_FAILED and waiting:
            patience_seconds = COLLATERAL_SECONDS
        elif told.kind == Kind.SHARD_LOST and self._unreachable:
            patience_seconds = NODE_DEATH_SECONDS
        if now - self._failed_since >= patience_seconds:
            raise told

    def _describe(self, error: ray.exceptions.RayError, rank: int) -> RunFailure:
        return describe(error, f"shard {rank}", self._nodes[rank])

    def _start(self) -> None:
        actor: Any = ray.remote(self._shard_class)
        bundle = self._bundle.resources
        assignment = self.assignment
        places = placement_group_table(self._group)["bundles_to_node_id"]
        self._nodes = [places[rank] for rank in range(assignment.world_size)]
        for rank in range(assignment.world_size):
            options = actor.options(
                name=f"{_name(assignment)}/shard-{rank}",
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                max_concurrency=2,  # the second answers while the first trains
                runtime_env=worker_environment(self.resources.threads_per_shard),
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=rank
                ),
            )
            self._shards.append(options.remote(assignment, rank))
        self._rendezvous = self._shards[0].rendezvous.remote()

    def save_and_stop(self) -> None:
        """Have it save a recovery point after its next step, and end; returns at once."""
        self._shards[0].save_and_stop.remote()

    @property
    def nodes(self) -> Sequence[str]:
        """Ids of the nodes of its shards, by rank; empty before it has its place."""
        return self._nodes

    def kill(self) -> None:
        """End all shards at once and give their place back."""
        for shard in self._shards:
            ray.kill(shard, no_restart=True)
        remove_placement_group(self._group)


def describe(error: ray.exceptions.RayError, who: str, node: str | None) -> RunFailure:
    """A Ray error as a failure of a kind.

    Args:
        error: of an actor's task.
        who: the actor, for people.
        node: id of the node where it was; None where that is not known.

    Raises:
        FencedError: that is what the actor raised.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, FencedError):
        raise cause from None
    if isinstance(cause, Exception):
        return as_failure(cause)
    if isinstance(error, ray.exceptions.RayActorError):
        alive = {each["NodeID"] for each in ray.nodes() if each["Alive"]}
        if error.preempted or (node is not None and node not in alive):
            return RunFailure(f"the node of {who} was lost", Kind.NODE_LOST)
        return RunFailure(f"{who} was lost: {last_line(error)}", Kind.SHARD_LOST)
    return RunFailure(f"{who} failed: {last_line(error)}", Kind.SHARD_FAILED)


def last_line(error: Exception) -> str:
    """The line of a Ray error that says what happened."""
    # Ray guesses at causes, at length.
    told = str(error).partition(" Some common causes")[0]
    lines = [line for line in told.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def remove_leftovers(study_path: Path) -> None:
    """Give back the places of gangs whose controller died.

    Ray ends the shards of a dead controller by itself; their place it keeps where it is going to
    start that controller again.
    """
    for group in placement_group_table().values():
        name = group.get("name") or ""
        if name.startswith(f"{study_path}/") and group["state"] != "REMOVED":
            remove_placement_group(get_placement_group(name))


def _name(assignment: Assignment) -> str:
    """Of the gang in Ray; with the token, for two controllers may give the same attempt."""
    run, attempt = assignment.run.id, assignment.attempt
    return f"{assignment.study_path}/{run}/{attempt}/{assignment.token}"
