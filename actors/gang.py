"""A gang: all shards of a run in one placement group, all or none."""

from __future__ import annotations

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

from actors.assignment import Assignment
from actors.cluster import nodes_of_cluster, shard_bundle
from actors.remote_class import remote_class
from study.definition import Resources


def worker_environment(threads: int) -> dict[str, Any]:
    """Runtime environment of our actors: thread counts are set before torch is loaded."""
    return {
        "env_vars": {
            "OMP_NUM_THREADS": str(threads),
            "POLARS_MAX_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    }


TrainingShard = remote_class("actors.shard", "TrainingShard", ("meeting_point", "train"))


class Gang:
    """The shards of one attempt of a run; no call of it waits."""

    def __init__(
        self, assignment: Assignment, resources: Resources, shard_class: type = TrainingShard
    ) -> None:
        self.assignment = assignment
        self.resources = resources
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
        self._meeting_point: Any = None
        self._training: list[Any] = []
        self._running: list[Any] = []

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
        return self._running if self._training else [self._meeting_point]

    def poll(self) -> str:
        """Go on where possible; the gang's state: placing, starting, training or ended.

        Raises:
            ray.exceptions.RayError: a shard died, or raised (then with its error as the cause).
        """
        if not self._shards:
            if not _is_ready(self._placed):
                return "placing"
            self._start()
        if not self._training:
            if not _is_ready(self._meeting_point):
                return "starting"
            address, port = ray.get(self._meeting_point)
            self._training = [shard.train.remote(address, port) for shard in self._shards]
            self._running = self._training
        done, self._running = ray.wait(self._running, num_returns=len(self._running), timeout=0)
        ray.get(done)
        return "training" if self._running else "ended"

    def _start(self) -> None:
        actor: Any = ray.remote(self._shard_class)
        bundle = self._bundle.resources
        assignment = self.assignment
        for rank in range(assignment.world_size):
            options = actor.options(
                name=f"{_name(assignment)}/shard-{rank}",
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                runtime_env=worker_environment(self.resources.threads_per_shard),
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=rank
                ),
            )
            self._shards.append(options.remote(assignment, rank))
        self._meeting_point = self._shards[0].meeting_point.remote()

    def kill(self) -> None:
        """End all shards at once and give their place back."""
        for shard in self._shards:
            ray.kill(shard, no_restart=True)
        remove_placement_group(self._group)


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


def _is_ready(reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])
