"""Figures against training tokens: activation ratio with laws, their derivatives, losses."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from sparsing.analysis.figures import curves, detail
from sparsing.analysis.figures.data import ReportedRun, StudyData
from sparsing.analysis.figures.figure import Made, MissingFigure
from sparsing.analysis.figures.style import legend_below

NO_MEASUREMENT = "no checkpoint of this study has been measured yet: let it run further"
LAW_POINTS = 80
STEP = 1.02
"""Factor between the token counts of a difference that stands for a derivative."""


def described(run: ReportedRun) -> dict[str, Any]:
    """What tells a run from others, for the data beside a figure."""
    return {
        "run": run.run.id,
        "activation": run.run.activation,
        "scale": run.run.scale,
        "parameters": run.run.parameters,
        "width_depth_ratio": run.run.width_depth_ratio,
        "seed": run.run.seed,
    }


def points_of(data: StudyData) -> pl.DataFrame:
    """The measured points of all runs: tokens, activation_ratio, half of its 95 % interval."""
    rows = []
    for run in data.measured:
        assert run.curve is not None
        curve = run.curve
        for at in range(len(curve.tokens)):
            rows.append(
                described(run)
                | {
                    "stage": curve.stage,
                    "tokens": curve.tokens[at],
                    "activation_ratio": curve.activation_ratio[at],
                    "half_width_95": curve.half_width[at],
                    "in_warmup": curve.tokens[at] <= run.warmup_tokens,
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None)


def lines_of(data: StudyData) -> pl.DataFrame:
    """The laws of all runs with their 95 % bands, as they are drawn."""
    rows = []
    for run in data.measured:
        for law in run.laws:
            first, last = min(law.row["rows_tokens"]), max(law.row["rows_tokens"])
            tokens = np.geomspace(first, curves.AHEAD * last, LAW_POINTS)
            columns = law.evidence.predict_many(tokens, measurement=False)
            for at, value, low, high in zip(tokens, *columns, strict=True):
                band = {"low": float(low), "high": float(high)} if law.evidence.answers else {}
                rows.append(
                    described(run)
                    | {"tokens": float(at), "activation_ratio": float(value)}
                    | ({"low": None, "high": None} | band)
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def activation(data: StudyData) -> Made:
    """Figure 4."""
    shown = list(data.by_activation().values())
    if not shown:
        raise MissingFigure(NO_MEASUREMENT)
    limits = curves.ratio_limits(shown)
    panels = [
        partial(_draw_activation, data=data, runs=runs, limits=limit)
        for runs, limit in zip(shown, limits, strict=True)
    ]
    return Made({"": points_of(data), "laws": lines_of(data)}, panels)


def _draw_activation(
    axes: Axes, data: StudyData, runs: list[ReportedRun], limits: curves.Limits
) -> None:
    """The report's panel, with the 95 % interval of each point where it is stored."""
    curves.draw_with_legend(axes, data, runs, limits)
    chosen = curves.colours(data)
    for run in runs:
        if run.curve is None or None in run.curve.half_width:
            continue
        style: dict[str, Any] = {"fmt": "none", "elinewidth": 0.8, "alpha": 0.6}
        half_width = np.array(run.curve.half_width, dtype=float)
        points = run.curve.tokens, run.curve.activation_ratio
        axes.errorbar(*points, yerr=half_width, ecolor=chosen[run.run.id], **style)


def coefficients(data: StudyData) -> Made:
    """Table 2."""
    rows = []
    for run in data.measured:
        for law in run.laws:
            row = law.row
            limit = law.evidence.limit()
            found = described(run) | {"law": row["law"], "points": row["points"]}
            for name, value in row["parameters"].items():
                low, high = row["intervals"][name]
                known = row["identified"][name]
                found |= {name: value, f"{name}_low": low, f"{name}_high": high}
                found |= {f"{name}_identified": known}
            found |= {
                "mse": row["mse"],
                "limit_of_all_laws": limit.value,
                "limit_low": limit.low,
                "limit_high": limit.high,
                "verdict": law.evidence.verdict.word,
            }
            rows.append(found)
    if not rows:
        raise MissingFigure("no run has a fitted law yet: two measured points are needed")
    return Made({"": pl.DataFrame(rows, infer_schema_length=None)})


def derivatives(data: StudyData) -> Made:
    """Figure 8."""
    rows = []
    for run in data.measured:
        for law in run.laws:
            first, last = min(law.row["rows_tokens"]), max(law.row["rows_tokens"])
            tokens = np.geomspace(first, last, LAW_POINTS)
            ahead, _, _ = law.evidence.predict_many(tokens * STEP, measurement=False)
            behind, _, _ = law.evidence.predict_many(tokens / STEP, measurement=False)
            slope = (ahead - behind) / (tokens * (STEP - 1 / STEP) / 1e9)
            for at, value in zip(tokens, slope, strict=True):
                rows.append(
                    described(run)
                    | {
                        "tokens": float(at),
                        "tokens_per_parameter": float(at) / run.run.parameters,
                        "derivative_per_billion_tokens": float(value),
                    }
                )
    if not rows:
        raise MissingFigure("no run has a fitted law yet: two measured points are needed")
    frame = pl.DataFrame(rows, infer_schema_length=None)
    panels = [
        partial(_draw_derivatives, data=data, rows=frame, runs=runs)
        for runs in data.by_activation().values()
    ]
    scales = frame["parameters"].n_unique()
    few = "all runs have one scale: more of `axes.scale` shows which scales converge faster"
    return Made({"": frame}, panels, () if scales > 1 else (few,))


def _draw_derivatives(
    axes: Axes, data: StudyData, rows: pl.DataFrame, runs: list[ReportedRun]
) -> None:
    chosen = curves.colours(data)
    for run in runs:
        mine = rows.filter(pl.col("run") == run.run.id)
        if len(mine):
            axes.plot(
                mine["tokens_per_parameter"],
                mine["derivative_per_billion_tokens"],
                color=chosen[run.run.id],
                lw=1.6,
                label=curves.label(run),
            )
    axes.axhline(0, lw=0.8, color="#5b636b")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title(f"{runs[0].name}: how fast sparsity changes")
    axes.set_xlabel("training tokens per parameter")
    axes.set_ylabel("d(activation ratio) / d(billion tokens)")
    legend_below(axes)


def losses(data: StudyData) -> Made:
    """Figure 13."""
    if not len(data.steps):
        raise MissingFigure("no step has been trained yet: let the study run")
    panels: list[Any] = [partial(curves.draw_training_loss, data=data)]
    if len(data.validation):
        panels.append(partial(curves.draw_validation_loss, data=data))
    by_run = {run.run.id: run for run in data.runs}
    names = ["run", "step", "tokens", "loss"]
    steps = data.steps.select(names).filter(pl.col("run").is_in(list(by_run)))
    return Made({"": steps, "validation": data.validation}, panels)


def dead_neurons(data: StudyData) -> Made:
    """Dead neurons, which the paper's repository shows."""
    if not len(data.dead):
        raise MissingFigure("no activation frequencies have been measured yet")
    return Made({"": data.dead}, [partial(detail.draw_dead, data=data)])
