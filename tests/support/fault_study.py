"""A study on a real local cluster of several raylets, whose parts are killed while it goes on."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from sparsing.actors.data.prepare import prepare
from sparsing.actors.orchestration.controller import Controller
from sparsing.actors.orchestration.on_ray import controller_on_ray
from sparsing.actors.orchestration.study_actor import start_law_service
from sparsing.study.definition.load import load_study
from sparsing.study.definition.model import Study
from sparsing.study.store.control.lease import acquire, study_cell
from sparsing.study.store.study_store import StudyStore

TICK_SECONDS = 0.1
PATIENCE_SECONDS = 240.0
HANG_SECONDS = 10.0
STEPS = 800


def definition(**resources: object) -> Study:
    """The quickstart, tiny: one run of `STEPS` steps and 8 checkpoints."""
    quickstart = load_study("quickstart").model_dump()
    changes = {
        "name": "faulty",
        "axes": {"scale": [{"d_h": 16, "layers": 2, "d_f": 40, "heads": 2}]},
        "tokens": STEPS * 2048,
        "optimization": quickstart["optimization"]
        | {"batch_tokens": 2048, "warmup_tokens": 2048 * 10},
        "checkpoints": {"count": 8},
        "measurement": {"pareto": False},
        "resources": {"cpus_per_shard": 1, "hang_seconds": HANG_SECONDS, "measurers": 1}
        | resources,
    }
    data = quickstart["data"] | {"max_bytes": 400_000}
    data["validation"] = {"tokens": 2048}
    return Study.model_validate(quickstart | changes | {"data": data})


@dataclass
class LocalCluster:
    """A head without CPUs, and worker nodes with one each: real raylets on this machine."""

    cluster: Cluster
    workers: list = field(default_factory=list)

    @classmethod
    def start(cls, workers: int) -> LocalCluster:
        """Start head and workers, and connect to them."""
        # Ray's workers are nice to all others by default, and never come to work on a busy machine.
        os.environ |= {"RAY_worker_niceness": "0"}
        arguments = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=arguments)
        ray.init(address=cluster.address, log_to_driver=False)
        local = cls(cluster)
        for _ in range(workers):
            local.add_worker()
        return local

    def add_worker(self) -> None:
        """One more node."""
        node = self.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        self.workers.append(node)

    def kill_worker(self, index: int) -> None:
        """Kill a node's raylet, and with it what runs there."""
        self.cluster.remove_node(self.workers.pop(index), allow_graceful=False)

    def actors(self, name: str) -> list[psutil.Process]:
        """Processes of the actors of a class."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and name in title:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def stop(self) -> None:
        """End everything."""
        ray.shutdown()
        self.cluster.shutdown()


class Playing:
    """A study that goes on, tick by tick, in this process; victims fall on the way.

    Args:
        local: the cluster.
        root: of the store.
        study: the definition, of one run.
    """

    def __init__(self, local: LocalCluster, root: Path, study: Study) -> None:
        self.local = local
        self.store = StudyStore.create(root, study)
        self.data = str(prepare(study, root.parent / "data").path)
        self.orphans: list[Controller] = []
        self.controller = self._next_controller()
        self.laws = None

    def _next_controller(self) -> Controller:
        return controller_on_ray(self.store, self.data, acquire(study_cell(self.store.path)))

    def until(self, condition: Callable[[], bool], what: str) -> float:
        """Tick until a condition holds; returns the seconds that took."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > PATIENCE_SECONDS:
                states = self.store.scan("runs").collect().select("attempt", "state", "reason")
                raise AssertionError(f"not {what} in {PATIENCE_SECONDS} s: {states.rows()}")
            assert not self.controller.failed
            self.controller.tick()
            time.sleep(TICK_SECONDS)
        return time.monotonic() - started

    def until_training(self, steps: int = 1) -> None:
        """Until shards have made so many more steps."""
        rows = self.rows() + steps
        self.until(lambda: self.ended or self.rows() >= rows, "training")

    def world_sizes(self) -> list[int]:
        """Of all attempts that have trained, oldest first."""
        states = self.store.scan("runs").filter(pl.col("state") == "training")
        attempts = states.group_by("attempt").agg(pl.col("world_size").last()).sort("attempt")
        return attempts.collect()["world_size"].to_list()

    def attempt(self) -> int:
        """The newest that has trained; 0 before the first."""
        return newest_attempt(self.store)

    def rows(self) -> int:
        """Steps in the store."""
        return self.store.count_rows("steps")

    @property
    def ended(self) -> bool:
        """Whether the study is at its end."""
        return self.controller.ended

    def finish(self) -> None:
        """To the end, and end all actors."""
        self.until(lambda: self.ended, "ended")
        self.stop()

    def stop(self) -> None:
        """End all actors."""
        for controller in [*self.orphans, self.controller]:
            controller.stop()
        if self.laws is not None:
            ray.kill(self.laws)

    def failures(self) -> list[str]:
        """Kinds of failures in the store."""
        kinds = self.store.scan("runs").select("failure_kind").collect()["failure_kind"]
        return kinds.drop_nulls().to_list()

    def shards(self) -> list[psutil.Process]:
        """Processes of shards, in a stable order; there may be none between two gangs."""
        self.until(lambda: bool(self.local.actors("ShardActor")), "with shards")
        return sorted(self.local.actors("ShardActor"), key=lambda p: p.pid)

    # Victims. Each returns once the damage is done.

    def lose_shard(self, chance: random.Random) -> None:
        """SIGKILL to a shard."""
        chance.choice(self.shards()).kill()

    def stop_shard(self, chance: random.Random) -> None:
        """SIGSTOP to a shard: its peers wait for it."""
        chance.choice(self.shards()).send_signal(signal.SIGSTOP)

    def lose_node(self, chance: random.Random) -> None:
        """Kill a node, and bring another a little later."""
        self.local.kill_worker(chance.randrange(len(self.local.workers)))
        self.until(lambda: "node_lost" in self.failures(), "noticed")
        self.local.add_worker()

    def lose_measurer(self, chance: random.Random) -> None:
        """SIGKILL to the measurer."""
        for process in self.local.actors("Measurer"):
            process.kill()

    def fill_disk(self, chance: random.Random) -> None:
        """From now on the disk takes no more bytes from a shard."""
        chance.choice(self.shards()).rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def lose_laws(self, chance: random.Random) -> None:
        """SIGKILL to the law service, which Ray starts again."""
        if self.laws is None:
            self.laws = start_law_service(self.store, 0)
            ray.get(self.laws.url.remote())
        for process in self.local.actors("LawService"):
            process.kill()

    def lose_controller(self, chance: random.Random) -> None:
        """Another controller takes over; the gang of the first goes on, an orphan."""
        self.orphans.append(self.controller)
        self.controller.lease.release()
        self.controller = self._next_controller()


VICTIMS = {
    "shard": Playing.lose_shard,
    "hung": Playing.stop_shard,
    "node": Playing.lose_node,
    "measurer": Playing.lose_measurer,
    "disk": Playing.fill_disk,
    "laws": Playing.lose_laws,
    "controller": Playing.lose_controller,
}


RATIO_TOLERANCE = 0.2
"""Relative, of activation ratios after training that rounded otherwise."""


def newest_attempt(store: StudyStore) -> int:
    """The newest that has trained; 0 before the first."""
    states = store.scan("runs").filter(pl.col("state") == "training")
    return states.select(pl.col("attempt").max()).collect().item() or 0


def assert_same_rows(found: StudyStore, expected: StudyStore, tolerance: float) -> None:
    """Row by row the same steps, checkpoints and final measurements, each once.

    Where every loss is the same to the bit, so is every number of the final measurements.
    """
    ours, theirs = (each.scan("steps").sort("step").collect() for each in (found, expected))
    assert ours.select("run", "step", "tokens").equals(theirs.select("run", "step", "tokens"))
    assert ours["loss"].to_list() == pytest.approx(theirs["loss"].to_list(), rel=tolerance)
    same = ours["loss"].equals(theirs["loss"])
    numbers = ["activation_ratio", "activation_ratio_low", "activation_ratio_high", "cett"]
    sparsity = [
        each.scan("sparsity")
        .filter(pl.col("stage") == "final")
        .sort("run", "step", "domain", "layer")
        .select(numbers)
        .collect()
        for each in (found, expected)
    ]
    for name in numbers:
        ours, theirs = (frame[name].to_list() for frame in sparsity)
        assert ours == (theirs if same else pytest.approx(theirs, rel=RATIO_TOLERANCE)), name
    keys = {
        "checkpoints": ["run", "step", "domain", "path"],
        "sparsity": ["run", "step", "domain", "layer", "stage"],
        "neurons": ["run", "step", "domain", "layer", "stage"],
    }
    for table, columns in keys.items():
        final = [pl.col("stage") == "final"] if "stage" in columns else []
        frames = [
            each.scan(table).filter(*final).select(columns).sort(columns).collect()
            for each in (found, expected)
        ]
        assert frames[0].equals(frames[1]), table
        live = found.scan(table).select(columns).collect()
        assert live.is_unique().all(), table
