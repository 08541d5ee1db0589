"""What the fits in the store say of each run's newest measurement: the law's series for metrics."""

from __future__ import annotations

import math

import polars as pl

from sparsing.analysis.laws.sparsity import PAPER_LAWS
from sparsing.analysis.refitting.newest import read_curves
from sparsing.study.guarded_json import read_json
from sparsing.study.status.run_metrics import LawPoint
from sparsing.study.store.study_store import StudyStore


def read_law_points(store: StudyStore, runs: list[str]) -> dict[str, LawPoint]:
    """The points of some runs, where they have a fit of the newest fit's law."""
    columns = ["run", "law", "stage", "tokens", "parameters"]
    fits = store.scan("fits", runs).select(columns).collect()
    of_run = {str(run): rows for (run,), rows in fits.group_by(["run"], maintain_order=True)}
    curves = read_curves(store, list(of_run))
    newest = {run: max(curve.tokens) for run, curve in curves.items()}
    return {run: _point(rows, newest[run]) for run, rows in of_run.items() if run in newest}


def _point(fits: pl.DataFrame, tokens: int) -> LawPoint:
    """fits: of one run, oldest first; tokens: of its newest measurement."""
    law, stage = fits["law"][-1], fits["stage"][-1]
    same = fits.filter(pl.col("law") == law, pl.col("stage") == stage)
    earlier = same.filter(pl.col("tokens") < tokens)
    forecast = _value(law, earlier["parameters"][-1], tokens) if len(earlier) else None
    return LawPoint(fitted=_value(law, same["parameters"][-1], tokens), forecast=forecast)


def _value(law: str, parameters: str, tokens: int) -> float | None:
    """A law at a token count; None where its parameters are not finite."""
    form, known = PAPER_LAWS[law], read_json(parameters, "fits.parameters")
    given = {name: known.get(name) for name in form.parameter_names}
    if None in given.values():
        return None
    value = float(form.value(tokens / form.unit, **given))
    return value if math.isfinite(value) else None
