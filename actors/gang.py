"""A gang: all shards of a run in one placement group, all or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.shard import Assignment, TrainingShard
from study.definition import Resources


def cluster_has_gpus() -> bool:
    """Whether any node of the connected cluster offers a GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0


def shard_bundle(resources: Resources) -> dict[str, float]:
    """What one shard occupies, in Ray's resource names."""
    gpus = resources.gpus_per_shard
    if gpus is None:
        gpus = 1 if cluster_has_gpus() else 0
    bundle: dict[str, float] = {"CPU": resources.cpus_per_shard}
    if gpus:
        bundle["GPU"] = gpus
    if resources.accelerator_type:
        bundle[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    return bundle


def worker_environment(threads: int) -> dict[str, Any]:
    """Runtime environment of our actors: thread counts are set before torch is loaded."""
    return {
        "env_vars": {
            "OMP_NUM_THREADS": str(threads),
            "POLARS_MAX_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    }


class Gang:
    """The shards of one attempt of a run; no call of it waits."""

    def __init__(self, assignment: Assignment, resources: Resources) -> None:
        self.assignment = assignment
        self.resources = resources
        bundles = [shard_bundle(resources)] * assignment.world_size
        self._group: PlacementGroup = placement_group(bundles, strategy=resources.placement)
        self._placed = self._group.ready()
        self._shards: list[Any] = []
        self._meeting_point: Any = None
        self._training: list[Any] = []

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
        done, running = ray.wait(self._training, num_returns=len(self._training), timeout=0)
        ray.get(done)
        return "training" if running else "ended"

    def _start(self) -> None:
        actor = ray.remote(TrainingShard)
        bundle = shard_bundle(self.resources)
        assignment = self.assignment
        for rank in range(assignment.world_size):
            options = actor.options(
                name=f"{Path(assignment.study_path).name}/{assignment.run.id}"
                f"/{assignment.attempt}/shard-{rank}",
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


def _is_ready(reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])
