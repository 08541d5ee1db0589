"""Whether all nodes of a cluster are ready for a study: each is asked, and they are compared."""

from __future__ import annotations

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sparsing.actors.orchestration.cluster.node_report import (
    NodeReport,
    make_report,
    marks_folder,
)

ANSWER_SECONDS = 90.0
"""A node that starts a process for us and looks at itself has answered within this time."""
CLOCK_LOOKS = 5
CLOCK_SECONDS = 2.0
"""Clocks that differ by more are said: nothing is decided by them, but logs are hard to read."""
SHARED_MEMORY_BYTES = 10**9
"""NCCL's transport inside a node, and Ray's object store."""


@dataclass(frozen=True, kw_only=True)
class CheckedNode:
    """A node, with what is wrong with it."""

    address: str
    gpus: float
    """That Ray offers there."""
    report: NodeReport | None
    """None where it gave no answer."""
    clock_seconds: float | None
    """Its clock is ahead of this one's by so much."""
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "address": self.address,
            "gpus_offered": self.gpus,
            "clock_seconds": self.clock_seconds,
            "report": self.report.as_json() if self.report else None,
            "problems": list(self.problems),
        }


class Probe:
    """Answers for its node."""

    def report(self, address: str, root: str | None, mark: str) -> NodeReport:
        """How the node is."""
        return make_report(address, root, mark)

    def clock(self) -> float:
        """The node's time, since 1970."""
        return time.time()


def check_cluster(root: str | None) -> list[CheckedNode]:
    """Ask all nodes of the connected cluster that are alive; takes seconds.

    Args:
        root: of the store, as all nodes see it; None: not looked at.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    study = uuid.uuid4().hex[:8]
    marks = {node["NodeID"]: f"{study}-{node['NodeManagerAddress']}" for node in nodes}
    probes = {node["NodeID"]: _probe(node["NodeID"]) for node in nodes}
    try:
        asked = {
            node["NodeID"]: probes[node["NodeID"]].report.remote(
                node["NodeManagerAddress"], root, marks[node["NodeID"]]
            )
            for node in nodes
        }
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_SECONDS)
        # Again, for the marks of those who answered later.
        again = {
            node["NodeID"]: probes[node["NodeID"]].report.remote(
                node["NodeManagerAddress"], root, marks[node["NodeID"]]
            )
            for node in nodes
            if _is_ready(asked[node["NodeID"]])
        }
        found = [
            CheckedNode(
                address=node["NodeManagerAddress"],
                gpus=node["Resources"].get("GPU", 0.0),
                report=_answer(again.get(node["NodeID"])),
                clock_seconds=_clock(probes[node["NodeID"]], again.get(node["NodeID"])),
            )
            for node in nodes
        ]
    finally:
        for probe in probes.values():
            ray.kill(probe, no_restart=True)
        if root is not None:
            shutil.rmtree(marks_folder(Path(root)), ignore_errors=True)
    return judged(found, set(marks.values()) if root is not None else set())


def judged(nodes: Sequence[CheckedNode], marks: set[str]) -> list[CheckedNode]:
    """The nodes with their problems.

    Args:
        nodes: as they answered.
        marks: that all of them should see in the store.
    """
    usual = {
        name: Counter(n.report.versions.get(name, "none") for n in nodes if n.report).most_common(1)
        for name in {name for n in nodes if n.report for name in n.report.versions}
    }
    drivers = Counter(n.report.driver for n in nodes if n.report and n.report.driver)
    answered = {mark for n in nodes if n.report for mark in marks if mark.endswith(f"-{n.address}")}
    return [
        CheckedNode(
            address=node.address,
            gpus=node.gpus,
            report=node.report,
            clock_seconds=node.clock_seconds,
            problems=tuple(
                _problems(
                    node,
                    {name: most[0][0] for name, most in usual.items()},
                    drivers.most_common(1)[0][0] if drivers else None,
                    answered,
                    alone=len(nodes) == 1,
                )
            ),
        )
        for node in nodes
    ]


def _problems(
    node: CheckedNode,
    versions: dict[str, str],
    driver: str | None,
    marks: set[str],
    *,
    alone: bool,
) -> list[str]:
    report = node.report
    if report is None:
        return [f"gave no answer within {ANSWER_SECONDS:.0f} s"]
    found = []
    if report.interface is None:
        found.append(f"none of its interfaces has {node.address}, by which Ray reaches it")
    elif ip_address(node.address).is_loopback and not alone:
        found.append(
            f"Ray reaches it by {node.address}, which is another machine from elsewhere: set "
            "SPARSING_NODE_ADDRESS for start-node.sh"
        )
    if node.clock_seconds is not None and abs(node.clock_seconds) > CLOCK_SECONDS:
        ahead = "ahead" if node.clock_seconds > 0 else "behind"
        found.append(f"its clock is {abs(node.clock_seconds):.0f} s {ahead}: start chrony or ntpd")
    if (report.shared_memory_bytes or 0) < SHARED_MEMORY_BYTES:
        found.append("less than 1 GB free in /dev/shm: NCCL and Ray need it")
    if report.store_problem:
        found.append(f"the store cannot be used from there: {report.store_problem}")
    elif missing := marks - set(report.store_seen):
        others = ", ".join(sorted(mark.partition("-")[2] for mark in missing))
        found.append(
            f"it does not see in the store what {others} wrote: another folder, or a cache"
        )
    for name, usual in sorted(versions.items()):
        if (has := report.versions.get(name, "none")) != usual:
            found.append(f"{name} is {has} there, {usual} on most")
    if report.driver and report.driver != driver:
        found.append(f"NVIDIA's driver is {report.driver} there, {driver} on most")
    if node.gpus > len(report.gpus):
        found.append(f"Ray offers {node.gpus:g} GPUs there, nvidia-smi finds {len(report.gpus)}")
    return found


def _probe(node_id: str) -> Any:
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor: Any = ray.remote(Probe).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote()


def _is_ready(reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])


def _answer(reference: Any) -> NodeReport | None:
    if reference is None:
        return None
    try:
        return ray.get(reference, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError:
        return None


def _clock(probe: Any, answered: Any) -> float | None:
    """How far a node's clock is ahead of ours, by the quickest of some answers."""
    if answered is None:
        return None
    looks = []
    for _ in range(CLOCK_LOOKS):
        before = time.time()
        try:
            there = ray.get(probe.clock.remote(), timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError:
            return None
        after = time.time()
        looks.append((after - before, there - (before + after) / 2))
    return min(looks)[1]
