"""The report's closer views: layers, domains, neurons, and the study's axes of shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sparsing.analysis.figures.curves import colours, label
from sparsing.analysis.figures.data import ReportedRun, StudyData, near_groups
from sparsing.analysis.figures.style import (
    CATEGORIES,
    RAMPS,
    legend_below,
    percent_axis,
    shades,
    token_axis,
)
from sparsing.study.units import count_text

FREQUENCY_BINS = np.geomspace(1e-4, 1, 29)
"""Rarer neurons count in the first bin."""
DASHES = ("-", "--", ":", "-.")


def draw_layers(axes: Axes, data: StudyData, runs: list[ReportedRun]) -> None:
    """Activation ratio of each layer at the first, middle and last checkpoint; mean of seeds."""
    rows = _layers(data, runs).filter(pl.col("domain").is_null())
    tokens = sorted(set(rows["tokens"]))
    chosen = sorted({tokens[0], tokens[len(tokens) // 2], tokens[-1]})
    for at, colour in zip(chosen, shades(runs[0].run.activation, len(chosen)), strict=True):
        part = rows.filter(pl.col("tokens") == at)
        _draw_profile(axes, part, colour, f"{count_text(at)} tokens")
    _finish_layers(axes, label(runs[0]))


def draw_domains(axes: Axes, data: StudyData, runs: list[ReportedRun]) -> None:
    """Activation ratio of each layer at the last checkpoint, by domain; mean of seeds."""
    rows = _layers(data, runs).filter(pl.col("domain").is_not_null())
    last = rows.filter(pl.col("tokens") == pl.col("tokens").max().over("run"))
    for i, domain in enumerate(sorted(set(last["domain"]))):
        colour = CATEGORIES[i % len(CATEGORIES)]
        _draw_profile(axes, last.filter(pl.col("domain") == domain), colour, domain)
    _finish_layers(axes, f"{label(runs[0])}, by domain")


def _layers(data: StudyData, runs: list[ReportedRun]) -> pl.DataFrame:
    return data.layers.filter(pl.col("run").is_in([run.run.id for run in runs]))


def _draw_profile(axes: Axes, rows: pl.DataFrame, colour: str, name: str) -> None:
    for _, run in rows.sort("run", "layer").group_by("run", maintain_order=True):
        axes.plot(run["layer"], run["activation_ratio"], ".", color=colour, ms=4, alpha=0.5)
    mean = rows.group_by("layer").agg(pl.col("activation_ratio").mean()).sort("layer")
    axes.plot(mean["layer"], mean["activation_ratio"], color=colour, lw=1.8, label=name)


def _finish_layers(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("layer")
    axes.set_ylim(bottom=0)
    percent_axis(axes, "activation ratio")
    legend_below(axes)


def draw_frequencies(axes: Axes, data: StudyData) -> None:
    """How often neurons are active at the last checkpoint: share of neurons by frequency."""
    chosen = colours(data)
    centres = np.sqrt(FREQUENCY_BINS[1:] * FREQUENCY_BINS[:-1])
    series = data.series().values()
    for runs in series:
        rows = data.neurons.filter(pl.col("run").is_in([run.run.id for run in runs]))
        if len(rows):
            frequency = rows["frequency"].explode().to_numpy()
            counts, _ = np.histogram(np.clip(frequency, FREQUENCY_BINS[0], 1), FREQUENCY_BINS)
            share, colour = counts / len(frequency), chosen[runs[0].run.id]
            axes.plot(centres, share, color=colour, lw=1.6, label=label(runs[0]))
            axes.fill_between(centres, share, color=colour, alpha=0.2 / len(series), lw=0)
    axes.set_ylim(bottom=0)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_xlabel("share of tokens on which a neuron is active")
    axes.set_title("Neurons by activation frequency")
    percent_axis(axes, "share of neurons")
    legend_below(axes)


def draw_dead(axes: Axes, data: StudyData) -> None:
    """Dead neurons against tokens: active on fewer than 0.1 % of the tokens."""
    chosen = colours(data)
    for run in data.measured:
        rows = data.dead.filter(pl.col("run") == run.run.id)
        if len(rows):
            style: dict[str, Any] = {"marker": "o", "ms": 3.5, "lw": 1.2, "alpha": 0.85}
            style["markevery"] = data.mark_every
            colour = chosen[run.run.id]
            axes.plot(rows["tokens"], rows["dead_ratio"], color=colour, label=label(run), **style)
    axes.set_title("Dead neurons")
    axes.set_ylim(bottom=0)
    token_axis(axes, log=data.log_spaced)
    percent_axis(axes, "share of neurons")
    legend_below(axes)


Axis = Callable[[ReportedRun], float]


def scale_of(run: ReportedRun) -> float:
    """Non-embedding parameters."""
    return float(run.run.parameters)


def ratio_of(run: ReportedRun) -> float:
    """Width-depth ratio, d_h / layers."""
    return run.run.width_depth_ratio


def along(runs: list[ReportedRun], axis: Axis, fixed: Axis) -> list[list[ReportedRun]]:
    """Series of runs of one activation that differ in `axis` and hardly in `fixed`."""
    series = []
    for activation in dict.fromkeys(run.run.activation for run in runs):
        peers = [run for run in runs if run.run.activation == activation]
        for group in near_groups([fixed(run) for run in peers]):
            members = sorted((peers[i] for i in group), key=axis)
            if len(near_groups([axis(run) for run in members])) > 1:
                series.append(members)
    return series


def draw_ratio_along(axes: Axes, series: list[list[ReportedRun]], axis: Axis) -> None:
    """Activation ratio at the last checkpoint, and the law's limit where it is identified."""
    for runs, dashes in zip(series, _dashes(series), strict=True):
        colour = RAMPS[runs[0].run.activation][1]
        points = [(axis(run), run.curve.activation_ratio[-1]) for run in runs if run.curve]
        name = f"{runs[0].name}, last checkpoint"
        _draw_series(axes, points, color=colour, ls=dashes, mfc="none", label=name)
        _draw_limits(axes, runs, axis, colour)
    axes.set_title("Activation ratio")
    axes.set_ylim(bottom=0)
    percent_axis(axes, "activation ratio")
    _finish_along(axes, axis)


def _draw_series(axes: Axes, points: list[tuple[float, float]], **style: Any) -> None:
    """Every point, seeds beside each other, and a line through their means."""
    by_x: dict[float, list[float]] = {}
    for x, y in points:
        by_x.setdefault(x, []).append(y)
    means = [sum(values) / len(values) for values in by_x.values()]
    axes.plot(list(by_x), means, lw=1, color=style["color"], ls=style["ls"])
    axes.plot(*zip(*points, strict=True), **style | {"ls": "none"}, marker="o", ms=6)


def _dashes(series: list[list[ReportedRun]]) -> list[str]:
    """A dash pattern for each series: solid for the first of its activation."""
    names = [runs[0].run.activation for runs in series]
    return [DASHES[names[:i].count(name) % len(DASHES)] for i, name in enumerate(names)]


def _draw_limits(axes: Axes, runs: list[ReportedRun], axis: Axis, colour: str) -> None:
    for run in runs:
        for law in run.laws:
            low, value, high = (
                law.row[name] for name in ("limit_low", "limit_activation_ratio", "limit_high")
            )
            if None not in (low, value, high):
                errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
                style: dict[str, Any] = {"fmt": "s", "ms": 5, "capsize": 3, "lw": 1.2}
                name = f"{run.name}, limit with 95 % interval"
                axes.errorbar(axis(run), value, yerr=errors, color=colour, label=name, **style)


def draw_loss_along(
    axes: Axes, data: StudyData, series: list[list[ReportedRun]], axis: Axis
) -> None:
    """Validation loss at the last checkpoint."""
    for runs, dashes in zip(series, _dashes(series), strict=True):
        points = [(axis(run), last[1]) for run in runs if (last := data.last_validation(run))]
        if points:
            colour = RAMPS[runs[0].run.activation][1]
            _draw_series(axes, points, color=colour, ls=dashes, label=runs[0].name)
    axes.set_title("Validation loss")
    axes.set_ylabel("nats per token")
    _finish_along(axes, axis)


def _finish_along(axes: Axes, axis: Axis) -> None:
    axes.set_xscale("log")
    axes.minorticks_off()
    values = sorted(
        {float(x) for line in axes.get_lines() for x in np.atleast_1d(line.get_xdata())}
    )
    axes.set_xticks([values[group[0]] for group in near_groups(values)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
    axes.set_xlabel(
        "non-embedding parameters" if axis is scale_of else "width-depth ratio d_h / layers"
    )
    legend_below(axes)
