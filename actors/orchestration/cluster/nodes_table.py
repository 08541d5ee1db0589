"""How the nodes of a cluster look, as `sparsing doctor --cluster` found them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sparsing.actors.orchestration.cluster.cluster_check import CheckedNode
from sparsing.study.display.table import Cell, Column, Table

GIGABYTE = 10**9


def nodes_table(nodes: Sequence[CheckedNode]) -> Table:
    """A row for each node; what is wrong with them below."""
    table = Table(
        [
            Column(""),
            Column("address"),
            Column("host"),
            Column("interface"),
            Column("clock", right=True),
            Column("/dev/shm", right=True),
            Column("store"),
            Column("GPUs", prose=True),
            Column("driver"),
            Column("versions", prose=True),
        ]
    )
    for node in nodes:
        state = Cell("fail", "red") if node.problems else Cell("ok", "green")
        table.add(state, node.address, *_cells(node))
        table.notes += [f"{node.address}: {problem}" for problem in node.problems]
    return table


def _cells(node: CheckedNode) -> list[str]:
    report = node.report
    if report is None:
        return ["", "", "", "", "", "", "", ""]
    clock, memory = node.clock_seconds, report.shared_memory_bytes
    gpus = ", ".join(f"{count} x {name}" for name, count in Counter(report.gpus).items())
    return [
        report.host,
        report.interface or "none",
        "" if clock is None else f"{clock:+.3f} s",
        "" if memory is None else f"{memory / GIGABYTE:.1f} GB",
        "no" if report.store_problem else "writable",
        gpus or "none",
        report.driver or "",
        ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    ]
