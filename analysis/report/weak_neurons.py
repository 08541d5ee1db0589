"""The report's words and table on which neurons are weak: the way that keeps the fewest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from sparsing.analysis.figures.data import StudyData
from sparsing.analysis.figures.pareto import WAYS, Points, crossing, curves_of, smallest_ratios
from sparsing.analysis.report.tables import ReportTable, percent

RISES = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
"""Perplexity rises in percent at which the ways are compared, besides the study's own."""


def ratios_table(data: StudyData, rows: pl.DataFrame) -> ReportTable:
    """The activation ratio of each run and way at the study's perplexity rise."""
    asked = data.store.study.measurement.p_percent
    cells = []
    for run in data.runs:
        found = smallest_ratios(curves_of(rows, run.run.id), asked)
        if found:
            cells.append((run.run.id, *(percent(found.get(way)) for way in WAYS)))
    heads = (f"activation ratio at a rise of {asked:g} %", *WAYS.values())
    return ReportTable(heads, cells, f"No curve comes below a perplexity rise of {asked:g} %.")


def weak_neurons(data: StudyData, rows: pl.DataFrame) -> str:
    """Which way keeps the fewest neurons, at the study's perplexity rise and at others."""
    asked = data.store.study.measurement.p_percent
    curves = {run: curves_of(rows, run) for run in rows["run"].unique(maintain_order=True)}
    found = [smallest_ratios(each, asked) for each in curves.values()]
    best = Counter(min(each, key=each.__getitem__) for each in found if len(each) > 1)
    if not best:
        return f"No two ways have points at perplexity rises under {asked:g} %."
    winners = [
        f"{WAYS[way]} keeps the fewest neurons in {_of(count, best.total())}"
        for way, count in best.most_common()
    ]
    said = f"At a perplexity rise of {asked:g} %, {' and '.join(winners)}."
    winner = best.most_common(1)[0][0]
    names = {run.run.id: run.name for run in data.runs}
    return f"{said} {_elsewhere(winner, curves, names)}"


def _of(count: int, total: int) -> str:
    if total == 1:
        return "the one run"
    return f"all {total} runs" if count == total else f"{count} of {total} runs"


def _elsewhere(
    winner: str, curves: Mapping[str, Mapping[str, Points]], names: Mapping[str, str]
) -> str:
    """Whether, at other perplexity rises, another way keeps fewer neurons in some run."""
    compared: list[float] = []
    better: dict[tuple[str, str], list[float]] = {}
    for rise in RISES:
        for run, each in curves.items():
            ratios = {way: r for way in each if (r := crossing(each[way], rise)) is not None}
            if winner in ratios and len(ratios) > 1:
                compared.append(rise)
                fewer = [way for way in ratios if ratios[way] < ratios[winner]]
                for way in fewer:
                    better.setdefault((way, names[run]), []).append(rise)
    if not compared:
        return "At other rises they cannot be compared."
    if not better:
        return f"So it is at rises of {_span(compared)}."
    parts = [f"{WAYS[way]} for {name} at {_span(at)}" for (way, name), at in better.items()]
    return f"At other rises some runs keep fewer by another way: {', '.join(parts)}."


def _span(rises: Sequence[float]) -> str:
    return f"{rises[0]:g} %" if rises[0] == rises[-1] else f"{rises[0]:g} to {rises[-1]:g} %"
