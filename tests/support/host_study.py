"""A study on a cluster of hosts, whose hosts are cut off while it goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from fault_study import assert_same_rows, definition, newest_attempt
from hosts import Host
from ray_hosts import PATIENCE_SECONDS, RayHosts

from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.control.lease import holder_of
from sparsing.study.store.study_store import StudyStore

SHARDS = 2


class HostStudy:
    """One study, submitted from the laptop; named after what happens to it.

    Args:
        cluster: at work.
        name: of the study; all are alike but for it.
    """

    def __init__(self, cluster: RayHosts, name: str) -> None:
        self.cluster, self.name = cluster, name
        content = definition(shards=SHARDS).model_dump(mode="json") | {"name": name}
        self.file: Path = cluster.folder / f"{name}.yaml"
        self.file.write_text(yaml.safe_dump(content))

    def submit(self) -> Any:
        """Hand it to the cluster."""
        return self.cluster.sparsing(
            *("submit", str(self.file), "--address", self.cluster.address),
            *("--store", str(self.cluster.store), "--code", "image"),
        )

    @property
    def store(self) -> StudyStore:
        """Its store."""
        return StudyStore.open(self.cluster.store, self.name)

    def rows(self) -> int:
        """Steps in the store."""
        return self.store.count_rows("steps") if self.states() else 0

    def states(self) -> dict[Any, int]:
        """How many runs are in each state; all none before the job has made the store."""
        if not list(self.cluster.store.glob(f"{self.name}-*/study.yaml")):
            return Counter()
        return StudyStatus.read(self.store).states

    def attempt(self) -> int:
        """The newest that has trained."""
        return newest_attempt(self.store)

    def until(self, condition: Callable[[], object], what: str) -> float:
        """Wait; returns the seconds that it took, and says where the study stands otherwise."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > PATIENCE_SECONDS:
                told = self.cluster.sparsing("logs", self.name, "--store", str(self.cluster.store))
                raise AssertionError(f"not within {PATIENCE_SECONDS:g} s: {what}\n{told.stdout}")
            time.sleep(0.5)
        return time.monotonic() - started

    def until_training(self, steps: int = 30) -> None:
        """Until shards have made so many more steps."""
        more = self.rows() + steps
        self.until(lambda: self.rows() >= more, f"{more} steps")

    def until_done(self) -> float:
        """Until its end, by itself."""
        return self.until(lambda: self.states()["done"] == 1, "done")

    def controller_host(self) -> Host:
        """Where its controller is."""
        holder = holder_of(self.store.path)
        assert holder
        return self.cluster.network.hosts[holder.owner.partition(",")[0]]

    def shard_hosts(self) -> list[Host]:
        """Where its shards are."""
        return self.cluster.where("ray::Shard")

    def failures(self) -> list[str]:
        """Kinds of failures in the store."""
        kinds = self.store.scan("runs").select("failure_kind").collect()["failure_kind"]
        return kinds.drop_nulls().to_list()

    def assert_as(self, undisturbed: HostStudy) -> None:
        """Its tables are those of another study."""
        assert_same_rows(self.store, undisturbed.store, tolerance=1e-4)
