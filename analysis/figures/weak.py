"""Which neurons are weak: perplexity against activation ratio, and both against CETT."""

from __future__ import annotations

from functools import partial

from sparsing.analysis.figures import pareto
from sparsing.analysis.figures.data import StudyData
from sparsing.analysis.figures.figure import Made, MissingFigure

NO_PARETO = (
    "no Pareto curve is in the store: it is measured when a run has ended, with "
    "`measurement: {pareto: true}`"
)


def perplexity(data: StudyData) -> Made:
    """Figure 2."""
    rows = pareto.read_pareto(data)
    asked = data.store.study.measurement.p_percent
    panels = []
    for runs in data.series().values():
        mine = [run for run in runs if run.run.id in set(rows["run"])]
        if mine:
            panels.append(partial(pareto.draw_pareto, rows=rows, runs=mine, asked=asked))
    if not panels:
        raise MissingFigure(NO_PARETO)
    return Made({"": rows}, panels)


def against_cett(data: StudyData) -> Made:
    """Figure 15."""
    rows = pareto.read_pareto(data)
    if not len(rows):
        raise MissingFigure(NO_PARETO)
    panels = [
        partial(pareto.draw_rise_at_cett, data=data, rows=rows),
        partial(pareto.draw_ratio_at_cett, data=data, rows=rows),
    ]
    return Made({"": rows.filter(metric="cett")}, panels)
