"""What is found wrong with the nodes of a cluster, by what they say of themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from sparsing.actors.orchestration.cluster.cluster_check import CheckedNode, judged
from sparsing.actors.orchestration.cluster.node_report import NodeReport, make_report
from sparsing.actors.orchestration.cluster.nodes_table import nodes_table
from sparsing.actors.training.reach import interface_of

REPORT = NodeReport(
    host="h",
    address="10.0.0.1",
    interface="eth0",
    host_address="127.0.1.1",
    shared_memory_bytes=10**10,
    store_problem=None,
    store_seen=("m-10.0.0.1", "m-10.0.0.2", "m-10.0.0.3"),
    versions={"ray": "2.60.0", "torch": "2.13.0"},
    gpus=("A800",) * 8,
    driver="570.1",
)
MARKS = set(REPORT.store_seen)


def nodes(**changes: object) -> list[CheckedNode]:
    """Three alike, but for the second's report."""
    made = []
    for number in (1, 2, 3):
        address = f"10.0.0.{number}"
        report = replace(REPORT, address=address, **(changes if number == 2 else {}))
        made.append(CheckedNode(address=address, gpus=8, report=report, clock_seconds=0.01))
    return made


def test_nodes_that_are_alike_and_well_have_no_problem() -> None:
    assert [node.problems for node in judged(nodes(), MARKS)] == [(), (), ()]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interface": None}, "none of its interfaces has 10.0.0.2"),
        ({"shared_memory_bytes": 64 * 2**20}, "/dev/shm"),
        ({"store_problem": "[Errno 30] Read-only file system"}, "Read-only"),
        ({"store_seen": ("m-10.0.0.2",)}, "10.0.0.1, 10.0.0.3"),
        ({"versions": {"ray": "2.59.0", "torch": "2.13.0"}}, "ray is 2.59.0 there, 2.60.0"),
        ({"versions": {"ray": "2.60.0"}}, "torch is none there"),
        ({"driver": "550.9"}, "550.9 there, 570.1"),
        ({"gpus": ("A800",) * 7}, "offers 8 GPUs there, nvidia-smi finds 7"),
    ],
)
def test_one_that_differs_is_named_and_the_others_are_not(
    changes: dict[str, object], words: str
) -> None:
    first, second, third = judged(nodes(**changes), MARKS)
    assert (first.problems, third.problems) == ((), ())
    (problem,) = second.problems
    assert words in problem


def test_clocks_silence_and_loopback_are_said() -> None:
    ahead = replace(nodes()[0], clock_seconds=3600.0)
    silent = replace(nodes()[1], report=None, clock_seconds=None)
    loopback = replace(nodes()[2], address="127.0.1.1")
    found = judged([ahead, silent, loopback], set())
    assert [len(node.problems) for node in found] == [1, 1, 1]
    for node, word in zip(found, ("3600 s ahead", "no answer", "127.0.1.1"), strict=True):
        assert word in node.problems[0]


def test_the_table_has_a_row_for_each_and_says_what_is_wrong() -> None:
    silent = replace(nodes()[2], report=None, clock_seconds=None)
    found = judged([*nodes(interface=None)[:2], silent], set())
    text = str(nodes_table(found))
    rows = [line for line in text.splitlines() if line.startswith(("ok", "fail"))]
    assert [row.split()[:2] for row in rows] == [
        ["ok", "10.0.0.1"],
        ["fail", "10.0.0.2"],
        ["fail", "10.0.0.3"],
    ]
    assert "8 x A800" in rows[0]
    assert "10.0.0.2: none of its interfaces" in text
    assert "10.0.0.3: gave no answer" in text


def test_a_node_says_what_it_is(tmp_path: Path) -> None:
    address = get_node_ip_address()
    report = make_report(address, str(tmp_path / "store"), "mark")
    assert report.interface == interface_of(address) is not None
    assert report.store_problem is None
    assert report.store_seen == ("mark",)
    assert report.versions["ray"]
    assert report.shared_memory_bytes
    (tmp_path / "file").touch()
    assert make_report(address, str(tmp_path / "file"), "mark").store_problem
    assert make_report(address, None, "mark").store_seen == ()
