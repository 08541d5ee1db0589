"""The report's curves against training tokens: activation ratio with laws, and losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparsing.analysis.figures.data import NAMES, FittedLaw, ReportedRun, StudyData
from sparsing.analysis.figures.style import (
    PAPER,
    QUIET,
    STYLE,
    legend_below,
    percent_axis,
    shades,
    token_axis,
)
from sparsing.analysis.laws.sparsity import Floats
from sparsing.study.definition.values import MAX_COUNT

AHEAD = 1.6
"""Laws are drawn up to this many times the last point."""
LAW_POINTS = 60
MOST_POINTS = 200
"""Most points of a line of training losses."""
SMOOTHED_SHARE = 0.04
"""Training losses are means over this share of the run's steps."""
FLATTENED = 0.2
"""Activations share the axis of ratios unless a curve would then use less than this of it."""
MARKERS = {"final": "o", "live": "D"}

Limits = tuple[float, float]


def colours(data: StudyData) -> dict[str, str]:
    """A colour for each run: its activation's hue, deeper for larger and wider models."""
    found: dict[str, str] = {}
    for activation in dict.fromkeys(run.run.activation for run in data.runs):
        runs = [run for run in data.runs if run.run.activation == activation]
        groups = list(dict.fromkeys(run.group for run in by_size(runs)))
        shade = dict(zip(groups, shades(activation, len(groups)), strict=True))
        found |= {run.run.id: shade[run.group] for run in runs}
    return found


def by_size(runs: list[ReportedRun]) -> list[ReportedRun]:
    """Runs as legends list them: by scale, then by width-depth ratio."""
    least: dict[str, int] = {}
    for run in runs:
        least[run.run.scale] = min(run.run.parameters, least.get(run.run.scale, MAX_COUNT))
    return sorted(runs, key=lambda run: (least[run.run.scale], run.run.d_h / run.run.layers))


def label(run: ReportedRun) -> str:
    """The run without its seed, for people: `ReLU`, `SiLU 0.4B`."""
    return f"{run.name} {run.group}".strip()


def ratio_limits(panels: list[list[ReportedRun]]) -> list[Limits]:
    """Limits of the axis of ratios for each panel: from 0 and common, where nothing gets flat."""
    ends = [_ends(runs) for runs in panels]
    top = max((high for _, high in ends), default=1.0)
    if top > 0 and all(high - low >= FLATTENED * top for low, high in ends):
        return [(0.0, 1.08 * top)] * len(panels)
    rooms = [0.2 * (high - low) or 0.1 * high or 0.01 for low, high in ends]
    return [
        (max(0.0, low - room), high + room) for (low, high), room in zip(ends, rooms, strict=True)
    ]


def _ends(runs: list[ReportedRun]) -> Limits:
    ratios = [ratio for run in runs if run.curve for ratio in run.curve.activation_ratio]
    return min(ratios), max(ratios)


def draw_activation(axes: Axes, data: StudyData, runs: list[ReportedRun], limits: Limits) -> None:
    """Activation ratio against tokens of one activation: every run, its law and its band."""
    chosen = colours(data)
    axes.set_ylim(*limits)
    for run in runs:
        _draw_points(axes, run, chosen[run.run.id], data.mark_every)
        for law in run.laws:
            _draw_law(axes, law, chosen[run.run.id], log=data.log_spaced)
    axes.set_title(NAMES[runs[0].run.activation])
    token_axis(axes, log=data.log_spaced)
    percent_axis(axes, "activation ratio")


def _draw_points(axes: Axes, run: ReportedRun, colour: str, every: int) -> None:
    assert run.curve is not None
    tokens, ratios = np.array(run.curve.tokens), np.array(run.curve.activation_ratio)
    warm = tokens <= run.warmup_tokens
    axes.plot(tokens, ratios, color=colour, lw=0.9, alpha=0.4)
    style = _mark(run.curve.stage, colour)
    axes.plot(tokens[~warm], ratios[~warm], **style, markevery=every)
    axes.plot(tokens[warm], ratios[warm], **style | {"mfc": PAPER})


def _mark(stage: str, colour: str) -> dict[str, Any]:
    return {"ls": "none", "marker": MARKERS[stage], "ms": 4.5, "mec": colour, "color": colour}


def _draw_law(axes: Axes, law: FittedLaw, colour: str, *, log: bool) -> None:
    first, last = min(law.row["rows_tokens"]), max(law.row["rows_tokens"])
    spread = np.geomspace if log else np.linspace
    inside, beyond = spread(first, last, LAW_POINTS), spread(last, AHEAD * last, LAW_POINTS // 4)
    for tokens, style in ((inside, "-"), (beyond, (0, (3, 2)))):
        value, low, high = law.evidence.predict_many(tokens, measurement=False)
        axes.plot(tokens, value, color=colour, lw=1.8, ls=style)
        if law.evidence.answers:
            bounds = np.clip([low, high], *axes.get_ylim())
            axes.fill_between(tokens, *bounds, color=colour, alpha=0.14, lw=0)


def marks(data: StudyData, runs: list[ReportedRun]) -> list[Artist]:
    """What the marks of these runs' panels mean: groups in their colours, the rest in grey."""
    chosen = colours(data)
    stages = {r.curve.stage for r in runs if r.curve and r.curve.tokens[-1] > r.warmup_tokens}
    groups = {run.group: chosen[run.run.id] for run in by_size(runs) if run.group}
    found: list[Artist] = [Line2D([], [], color=c, lw=3, label=g) for g, c in groups.items()]
    found += [
        Line2D([], [], **_mark(stage, QUIET), label=f"measured ({stage} CETT)")
        for stage in sorted(stages)
    ]
    early = [r.curve.stage for r in runs if r.curve and r.curve.tokens[0] <= r.warmup_tokens]
    if early:
        style = _mark(early[0], QUIET) | {"mfc": PAPER}
        found.append(Line2D([], [], **style, label="in the warm-up, not fitted"))
    if any(run.laws for run in runs):
        found.append(Line2D([], [], color=QUIET, lw=1.8, label="laws by weight, dashed ahead"))
        found.append(Patch(color=QUIET, alpha=0.2, lw=0, label="95 % band of the laws"))
    return found


def draw_with_legend(axes: Axes, data: StudyData, runs: list[ReportedRun], limits: Limits) -> None:
    """One activation's panel with what its marks mean."""
    draw_activation(axes, data, runs, limits)
    legend_below(axes, marks(data, runs))


def main_figure_of(data: StudyData) -> Figure:
    """Activation ratio against tokens, a panel for each activation, side by side."""
    panels = list(data.by_activation().values())
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4 * max(1, len(panels)), 4.0), layout="constrained")
        if not panels:
            figure.text(0.5, 0.5, "Nothing has been measured yet.", ha="center")
            return figure
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, runs, limits in zip(row, panels, ratio_limits(panels), strict=True):
            draw_activation(axes, data, runs, limits)
        legend_below(row[0], marks(data, data.measured))
    return figure


def draw_training_loss(axes: Axes, data: StudyData) -> None:
    """Training loss of every run, smoothed."""
    chosen = colours(data)
    for run in data.runs:
        rows = data.steps.filter(pl.col("run") == run.run.id)
        if len(rows):
            tokens, loss = _smoothed(rows, log=data.log_spaced)
            axes.plot(tokens, loss, color=chosen[run.run.id], lw=1.2, alpha=0.8, label=label(run))
    _finish_loss(axes, data, "Training loss, smoothed")


def draw_validation_loss(axes: Axes, data: StudyData) -> None:
    """Dense validation loss at each checkpoint."""
    chosen = colours(data)
    style: dict[str, Any] = {"marker": "o", "ms": 3.5, "lw": 1.2, "alpha": 0.8}
    style["markevery"] = data.mark_every
    for run in data.runs:
        rows = data.validation.filter(pl.col("run") == run.run.id)
        if len(rows):
            colour = chosen[run.run.id]
            axes.plot(rows["tokens"], rows["loss"], color=colour, label=label(run), **style)
    _finish_loss(axes, data, "Validation loss, dense model")


def _smoothed(rows: pl.DataFrame, *, log: bool) -> tuple[Floats, Floats]:
    """Tokens and running means of the loss, at no more than `MOST_POINTS` steps."""
    window = max(1, round(SMOOTHED_SHARE * len(rows)))
    loss = rows["loss"].rolling_mean(window, min_samples=1, center=True).to_numpy()
    spread = np.geomspace if log else np.linspace
    chosen = np.unique(spread(1, len(rows), MOST_POINTS).astype(int)) - 1
    return rows["tokens"].to_numpy().astype(float)[chosen], loss[chosen]


def _finish_loss(axes: Axes, data: StudyData, title: str) -> None:
    axes.set_title(title)
    ends = [run.run.batch_tokens * np.array(run.run.checkpoint_steps) for run in data.runs]
    first, last = min(each[0] for each in ends), max(each[-1] for each in ends)
    axes.set_xlim((first / 2, last * 1.15) if data.log_spaced else (0, last * 1.02))
    token_axis(axes, log=data.log_spaced)
    axes.set_ylabel("nats per token")
    _fit_y(axes, first / 2)
    legend_below(axes)


def _fit_y(axes: Axes, first: float) -> None:
    """Limits of y from what is drawn from `first` tokens on, without the steep start."""
    lines = [np.array(line.get_data(), dtype=float) for line in axes.get_lines()]
    seen = np.concatenate([y[x >= first] for x, y in lines])
    if len(seen):
        room = 0.06 * (seen.max() - seen.min()) or 0.1
        axes.set_ylim(seen.min() - room, seen.max() + room)
