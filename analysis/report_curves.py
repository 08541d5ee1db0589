"""The report's curves against training tokens: activation ratio with laws, and losses."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.laws import Floats
from analysis.report_data import NAMES, FittedLaw, ReportedRun, StudyData
from analysis.report_style import PAPER, STYLE, legend_below, percent_axis, shades, token_axis

AHEAD = 1.6
"""Laws are drawn up to this many times the last point."""
LAW_POINTS = 60
MOST_POINTS = 200
"""A line of training losses has at most so many points; each is a mean over its steps."""
MARKERS = {"final": "o", "live": "D"}


def colours(runs: list[ReportedRun]) -> dict[str, str]:
    """A colour for each group of the runs of one activation, darker for more parameters."""
    order = {r.group: (r.run.parameters, r.run.d_h / r.run.layers) for r in runs}
    groups = sorted(order, key=order.__getitem__)
    return dict(zip(groups, shades(runs[0].run.activation, len(groups)), strict=True))


def draw_activation(axes: Axes, data: StudyData, runs: list[ReportedRun]) -> None:
    """Activation ratio against tokens of one activation: every run, its law and its band."""
    chosen = colours(runs)
    for run in runs:
        _draw_points(axes, run, chosen[run.group])
    axes.set_ylim(*_limits(axes))
    for run in runs:
        for law in run.laws:
            _draw_law(axes, law, chosen[run.group], log=data.log_spaced)
    for group, colour in chosen.items():
        if group:
            axes.plot([], [], color=colour, lw=3, label=group)
    axes.set_title(NAMES[runs[0].run.activation])
    token_axis(axes, log=data.log_spaced)
    percent_axis(axes, "activation ratio")


def _draw_points(axes: Axes, run: ReportedRun, colour: str) -> None:
    assert run.curve is not None
    tokens, ratios = np.array(run.curve.tokens), np.array(run.curve.activation_ratio)
    marker = MARKERS[run.curve.stage]
    axes.plot(tokens, ratios, color=colour, lw=0.9, alpha=0.4)
    style = {"ls": "none", "marker": marker, "ms": 5, "mec": colour, "mew": 1.1, "color": colour}
    warm = tokens <= run.warmup_tokens
    if warm.any():
        label = "in the warm-up, not fitted"
        axes.plot(tokens[warm], ratios[warm], **style | {"mfc": PAPER}, label=label)
    if not warm.all():
        label = f"measured ({run.curve.stage} CETT)"
        axes.plot(tokens[~warm], ratios[~warm], **style, label=label)


def _limits(axes: Axes) -> tuple[float, float]:
    """Limits of y that the points ask for, so that a wide band does not press them flat."""
    low, high = axes.get_ylim()
    room = 0.15 * (high - low)
    return max(0.0, low - room), high + room


def _draw_law(axes: Axes, law: FittedLaw, colour: str, *, log: bool) -> None:
    first, last = min(law.row["rows_tokens"]), max(law.row["rows_tokens"])
    spread = np.geomspace if log else np.linspace
    inside, beyond = spread(first, last, LAW_POINTS), spread(last, AHEAD * last, LAW_POINTS // 4)
    for tokens, style, label in ((inside, "-", "law"), (beyond, (0, (4, 2)), "law, extrapolated")):
        value, low, high = law.fit.predict_many(tokens, measurement=False)
        axes.plot(tokens, value, color=colour, lw=2, ls=style, label=label)
        if law.fit.region(law.fit.level) is not None:
            low, high = (_within(axes, bound) for bound in (low, high))
            band = f"{law.fit.level:.0%} band of the law".replace("%", " %")
            axes.fill_between(tokens, low, high, color=colour, alpha=0.14, lw=0, label=band)


def _within(axes: Axes, values: Floats) -> Floats:
    low, high = axes.get_ylim()
    return np.clip(values, low, high)


def draw_training_loss(axes: Axes, data: StudyData) -> None:
    """Training loss of every run, smoothed: means over equal stretches of its steps."""
    for run, colour in coloured(list(data.runs)):
        rows = data.steps.filter(pl.col("run") == run.run.id)
        if len(rows):
            tokens, loss = _smoothed(rows, log=data.log_spaced)
            axes.plot(tokens, loss, color=colour, lw=1.2, alpha=0.8, label=label(run))
    _finish_loss(axes, data, "training loss, smoothed")


def draw_validation_loss(axes: Axes, data: StudyData) -> None:
    """Dense validation loss at each checkpoint."""
    for run, colour in coloured(list(data.runs)):
        rows = data.validation.filter(pl.col("run") == run.run.id)
        if len(rows):
            style = {"marker": "o", "ms": 3.5, "lw": 1.2, "alpha": 0.8}
            axes.plot(rows["tokens"], rows["loss"], color=colour, **style, label=label(run))
    _finish_loss(axes, data, "validation loss, dense")


def coloured(runs: list[ReportedRun]) -> list[tuple[ReportedRun, str]]:
    by_activation: dict[str, list[ReportedRun]] = {}
    for run in runs:
        by_activation.setdefault(run.run.activation, []).append(run)
    chosen = {name: colours(each) for name, each in by_activation.items()}
    return [(run, chosen[run.run.activation][run.group]) for run in runs]


def label(run: ReportedRun) -> str:
    return f"{run.name} {run.group}".strip()


def _smoothed(rows: pl.DataFrame, *, log: bool) -> tuple[Floats, Floats]:
    tokens, loss = rows["tokens"].to_numpy().astype(float), rows["loss"].to_numpy()
    spread = np.geomspace if log else np.linspace
    edges = spread(tokens[0], tokens[-1], min(MOST_POINTS, max(2, len(tokens) // 8)))
    place = np.searchsorted(edges, tokens)
    used, place = np.unique(place, return_inverse=True)
    counts = np.bincount(place)
    return np.bincount(place, tokens) / counts, np.bincount(place, loss) / counts


def _finish_loss(axes: Axes, data: StudyData, title: str) -> None:
    axes.set_title(title.capitalize())
    first = min((r.run.checkpoint_steps[0] * r.run.batch_tokens for r in data.runs), default=1)
    token_axis(axes, log=data.log_spaced)
    if data.log_spaced:
        axes.set_xlim(left=first / 4)
    axes.set_ylabel("loss in nats per token")
    _fit_y(axes)


def _fit_y(axes: Axes) -> None:
    """Limits of y from what lies inside the limits of x."""
    left, right = axes.get_xlim()
    seen = [
        y
        for line in axes.get_lines()
        for x, y in zip(*map(np.asarray, line.get_data()), strict=True)
        if left <= x <= right
    ]
    if seen:
        room = 0.06 * (max(seen) - min(seen)) or 0.1
        axes.set_ylim(min(seen) - room, max(seen) + room)


def draw_with_legend(axes: Axes, data: StudyData, runs: list[ReportedRun]) -> None:
    """One activation's panel with what its marks mean."""
    draw_activation(axes, data, runs)
    legend_below(axes)


def main_figure_of(data: StudyData) -> Figure:
    """Activation ratio against tokens, a panel for each activation, side by side."""
    with rc_context(STYLE):
        panels = data.by_activation()
        figure = Figure(figsize=(5.4 * max(1, len(panels)), 4.2), layout="constrained")
        for axes, runs in zip(
            figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels.values()
        ):
            draw_activation(axes, data, runs)
        legend_below(figure.axes[0], columns=6)
    return figure
