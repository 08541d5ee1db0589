"""Figures over scales and width-depth ratios: limits, their laws, a forecast that is scored."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from sparsing.analysis.figures import curves
from sparsing.analysis.figures.data import NAMES, StudyData
from sparsing.analysis.figures.figure import Draw, Made, MissingFigure
from sparsing.analysis.figures.over_tokens import described
from sparsing.analysis.figures.style import RAMPS, legend_below, percent_axis
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.forecasting.planned import KINDS, Family, families
from sparsing.analysis.scales.other_quantities import LossPowerLaw
from sparsing.study.errors import SparsingError
from sparsing.study.units import count_text

SCALE, RATIO = KINDS
LOSS_POINTS = 40
"""Means of the training loss, at about equal ratios of tokens, that its law is fitted to."""
LINE_POINTS = 60
MORE_RATIOS = (
    "all runs have one width-depth ratio: give several in `axes.width_depth_ratio` (the paper "
    "has nine at 0.1B)"
)
MORE_SCALES = (
    "all runs have one scale: give several in `axes.scale`, at a similar width-depth ratio"
)
ONE_LAW = "limits of loss are those of one power law with a limit; no other law was compared"


def ratio_limits(data: StudyData) -> pl.DataFrame:
    """Limit of the activation ratio of each run, from all laws, with its 95 % interval."""
    rows = []
    for run in data.measured:
        for law in run.laws:
            limit = law.evidence.limit()
            rows.append(
                described(run)
                | {"value": limit.value, "low": limit.low, "high": limit.high}
                | {"last_measured": run.curve.activation_ratio[-1] if run.curve else None}
            )
    schema = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=schema)


def loss_limits(data: StudyData) -> pl.DataFrame:
    """Limit of the training loss of each run by a power law, nats per token; 95 % interval."""
    rows = []
    for run in data.runs:
        stable = (run.run.steps - run.run.decay_steps) * run.run.batch_tokens
        steps = data.steps.filter(
            pl.col("run") == run.run.id,
            pl.col("tokens") > run.warmup_tokens,
            pl.col("tokens") <= stable,
        )
        fit = _fit_loss(steps)
        if fit is not None:
            low, high = fit.intervals["L0"]
            value = {"value": fit.parameters["L0"], "low": low, "high": high}
            rows.append(described(run) | value | {"last_measured": float(steps["loss"][-1])})
    schema = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=schema)


def _fit_loss(steps: pl.DataFrame) -> Fit | None:
    if len(steps) < 2 * LOSS_POINTS:
        return None
    edges = np.geomspace(steps["tokens"][0], steps["tokens"][-1] + 1, LOSS_POINTS + 1)
    bins = np.searchsorted(edges, steps["tokens"].to_numpy(), side="right")
    means = (
        steps.with_columns(bin=pl.Series(bins))
        .group_by("bin")
        .agg(pl.col("tokens", "loss").mean(), rows=pl.len())
    )
    means = means.sort("bin")
    columns = means["tokens"].to_numpy(), means["loss"].to_numpy()
    try:
        return fit_curve(*columns, law=LossPowerLaw(), drop=0, weights=means["rows"].to_numpy())
    except SparsingError:
        return None


def width_depth(data: StudyData) -> Made:
    """Figure 5."""
    return _along(data, RATIO, ratio_limits(data), "limit of the activation ratio", MORE_RATIOS)


def width_depth_loss(data: StudyData) -> Made:
    """Figure 6."""
    made = _along(data, RATIO, loss_limits(data), "limit of the training loss", MORE_RATIOS)
    return Made(made.data, made.panels, (*made.notes, ONE_LAW))


def scales(data: StudyData) -> Made:
    """Figure 7."""
    return _along(data, SCALE, ratio_limits(data), "limit of the activation ratio", MORE_SCALES)


def loss_limits_over_scales(data: StudyData) -> Made:
    """Figure 14."""
    made = _along(data, SCALE, loss_limits(data), "limit of the training loss", MORE_SCALES)
    return Made(made.data, made.panels, (*made.notes, ONE_LAW))


def _along(data: StudyData, kind: Any, limits: pl.DataFrame, what: str, remedy: str) -> Made:
    """A panel for each activation: limits along scale or width-depth ratio, and their law."""
    runs = [run.run for run in data.runs]
    found = [f for f in families(runs, {}) if f.kind is kind]
    if not found:
        raise MissingFigure(remedy)
    if not len(limits):
        raise MissingFigure(f"no {what} is known yet: let the study run further")
    known = {row["run"]: row["value"] for row in _identified(limits)}
    panels: list[Draw] = []
    lines, notes = [], []
    names = {run.id for family in found for run in family.runs}
    for family in found:
        activation = family.runs[0].activation
        members = {run.id for run in family.runs}
        family = Family(kind, family.runs, {r: v for r, v in known.items() if r in members})
        fit = family.fit() if what.endswith("ratio") else None
        if what.endswith("ratio") and fit is None:
            notes.append(
                f"no law {family.name} is drawn: it needs {kind.fewest} different {kind.plural} "
                f"whose limit is identified, and there are {len(set(family.known))}"
            )
        line = _line(family, fit) if fit else pl.DataFrame()
        if fit:
            lines.append(line.with_columns(activation=pl.lit(activation)))
        rows = limits.filter(pl.col("run").is_in(list(members)))
        panels.append(partial(_draw_limits, rows=rows, kind=kind, fit=fit, line=line, what=what))
    tables = {"": limits.filter(pl.col("run").is_in(list(names)))}
    if lines:
        tables["law"] = pl.concat(lines)
    return Made(tables, panels, tuple(notes))


def _identified(limits: pl.DataFrame) -> list[dict[str, Any]]:
    closed = [pl.col(name).is_not_null() for name in ("value", "low", "high")]
    return limits.filter(*closed).to_dicts()


def _line(family: Family, fit: Fit) -> pl.DataFrame:
    places = family.places
    at = np.geomspace(places[0], places[-1], LINE_POINTS)
    value, low, high = fit.predict_many(at, measurement=False)
    return pl.DataFrame({"place": at, "value": value, "low": low, "high": high})


def _draw_limits(
    axes: Axes, rows: pl.DataFrame, kind: Any, fit: Fit | None, line: pl.DataFrame, what: str
) -> None:
    activation = rows["activation"][0]
    light, plain, deep = RAMPS[activation]
    column = "parameters" if kind is SCALE else "width_depth_ratio"
    name = NAMES[activation]
    axes.set_xscale("log")
    for row in rows.to_dicts():
        if row["value"] is None:
            label = f"{name}: not identified; last measured"
            axes.plot(row[column], row["last_measured"], "x", color=light, ms=7, label=label)
            continue
        open_end = row["low"] is None or row["high"] is None
        style: dict[str, Any] = {"fmt": "o", "ms": 6, "capsize": 3, "lw": 1.2, "color": plain}
        style |= {"mfc": "none"} if open_end else {}
        ends = [row["value"] if row[end] is None else row[end] for end in ("low", "high")]
        errors = [[max(0.0, row["value"] - ends[0])], [max(0.0, ends[1] - row["value"])]]
        label = f"{name}: limit, {'interval open' if open_end else '95 % interval'}"
        axes.errorbar(row[column], row["value"], yerr=errors, label=label, **style)
    if fit is not None:
        axes.plot(
            line["place"], line["value"], color=deep, lw=1.8, label=f"{name}: {fit.form.formula}"
        )
        band = np.clip([line["low"].to_numpy(), line["high"].to_numpy()], *axes.get_ylim())
        axes.fill_between(
            line["place"], *band, color=deep, alpha=0.14, lw=0, label=f"{name}: 95 % band"
        )
        bottleneck = fit.parameters.get("bottleneck")
        if bottleneck is not None and fit.identified["bottleneck"]:
            label = f"{name}: bottleneck at {bottleneck:.3g}"
            axes.axvline(bottleneck, color=deep, lw=1, ls=(0, (3, 2)), label=label)
    _finish(axes, rows, column, what)
    axes.set_title(NAMES[activation])
    legend_below(axes)


def _finish(axes: Axes, rows: pl.DataFrame, column: str, what: str) -> None:
    places = sorted(set(rows[column]))
    axes.minorticks_off()
    axes.set_xticks(_apart(places))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
    parameters = column == "parameters"
    axes.set_xlabel("non-embedding parameters" if parameters else "width-depth ratio d_h / layers")
    if what.endswith("ratio"):
        _from_zero(axes)
        percent_axis(axes, what)
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_ylabel(f"{what}, nats per token")


def _from_zero(axes: Axes) -> None:
    """Limits of y from 0 to above everything that is drawn."""
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])


def _apart(places: list[float]) -> list[float]:
    """Places of ticks that do not touch: each a quarter of an octave after the one before."""
    chosen: list[float] = []
    for place in places:
        if not chosen or place > chosen[-1] * 2**0.4:
            chosen.append(place)
    return chosen


def forecast(data: StudyData) -> Made:
    """Figure 11: the largest run of each activation, foretold from the smaller ones, and scored."""
    limits = ratio_limits(data)
    by_run = {row["run"]: row for row in (limits.to_dicts() if len(limits) else [])}
    rows, panels, notes = [], [], []
    plain = families([run.run for run in data.runs], {})
    for family in (f for f in plain if f.kind is SCALE):
        largest = max(family.runs, key=lambda run: run.parameters)
        smaller = {
            run.id: by_run[run.id]["value"]
            for run in family.runs
            if run.parameters < largest.parameters
            and run.id in by_run
            and None not in (by_run[run.id][end] for end in ("value", "low", "high"))
        }
        fit = Family(SCALE, family.runs, smaller).fit()
        if fit is None:
            there = len({SCALE.place(run) for run in family.runs if run.id in smaller})
            notes.append(
                f"{family.name}: a forecast needs {SCALE.fewest} smaller scales whose limit is "
                f"identified; there are {there}"
            )
            continue
        value, low, high = (float(column[0]) for column in fit.predict_many([largest.parameters]))
        own = by_run.get(largest.id, {})
        rows.append(
            {
                "activation": largest.activation,
                "run": largest.id,
                "parameters": largest.parameters,
                "forecast": value,
                "low": low,
                "high": high,
                "limit": own.get("value"),
                "limit_low": own.get("low"),
                "limit_high": own.get("high"),
                "last_measured": own.get("last_measured"),
                "inside": None if own.get("value") is None else low <= own["value"] <= high,
            }
        )
        panels.append(partial(_draw_forecast, data=data, row=rows[-1]))
    if not rows:
        raise MissingFigure(
            "no run can be foretold from smaller ones: "
            + ("; ".join(notes) or MORE_SCALES)
            + "; give at least four of `axes.scale`, and enough tokens for limits"
        )
    return Made({"": pl.DataFrame(rows)}, panels, tuple(notes))


def _draw_forecast(axes: Axes, data: StudyData, row: dict[str, Any]) -> None:
    (run,) = [run for run in data.runs if run.run.id == row["run"]]
    colour = curves.colours(data)[run.run.id]
    deep = RAMPS[run.run.activation][2]
    if run.curve is not None:
        label = f"{curves.label(run)}, measured"
        axes.plot(run.curve.tokens, run.curve.activation_ratio, "o-", color=colour, label=label)
    axes.axhline(
        row["forecast"], color=deep, lw=1.6, label=f"{run.name}: limit foretold by smaller runs"
    )
    axes.axhspan(
        row["low"], row["high"], color=deep, alpha=0.14, lw=0, label=f"{run.name}: 95 % interval"
    )
    if row["limit"] is not None:
        axes.axhline(
            row["limit"], color=colour, lw=1.4, ls=(0, (3, 2)), label=f"{run.name}: its own limit"
        )
    _from_zero(axes)
    curves.token_axis(axes, log=data.log_spaced)
    percent_axis(axes, "activation ratio")
    score = {True: "inside the interval", False: "outside the interval", None: "not known yet"}
    axes.set_title(f"{run.name}: its own limit is {score[row['inside']]}")
    legend_below(axes)
