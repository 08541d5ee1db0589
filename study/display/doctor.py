"""How the checks of a machine look."""

from __future__ import annotations

from sparsing.study.display.table import Cell, Column, Table
from sparsing.study.doctor import Check

COLOURS = {"ok": "green", "note": "yellow", "fail": "red"}


def checks_table(found: list[Check]) -> Table:
    """A row for each check, with the remedy of those that failed."""
    table = Table([Column(""), Column(""), Column("", prose=True), Column("", prose=True)])
    for check in found:
        remedy = f"-> {check.remedy}" if check.remedy else ""
        table.add(Cell(check.status, COLOURS[check.status]), check.name, check.found, remedy)
    return table
