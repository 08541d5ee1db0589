"""Single neurons and single vocabulary tokens: how often they are active."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from sparsing.analysis.figures import curves
from sparsing.analysis.figures.data import ReportedRun, StudyData
from sparsing.analysis.figures.detail import FREQUENCY_BINS
from sparsing.analysis.figures.figure import Draw, Made, MissingFigure
from sparsing.analysis.figures.style import CATEGORIES, QUIET, RAMPS, legend_below, percent_axis

NO_FREQUENCIES = "no activation frequencies of neurons have been measured yet: let the study run"
DASHES = ("-", "--", ":", "-.")
MOST_SERIES = 3
"""Series of runs whose distributions are drawn, at most; of more, one for each activation."""
MOST_TOKENS = 1500
"""Vocabulary tokens that are drawn: those that occur most."""
LEAST_OCCURRENCES = 5
"""Rarer tokens are left out of the scatter: their means are noise."""


def by_domain(data: StudyData) -> Made:
    """Figure 9: distributions on each domain, over all layers."""
    return _distributions(data, single_layers=False)


def by_layer(data: StudyData) -> Made:
    """Figure 16: the same for the first, the middle and the last layer."""
    return _distributions(data, single_layers=True)


def _distributions(data: StudyData, *, single_layers: bool) -> Made:
    rows = _frequencies(data)
    if not len(rows):
        raise MissingFigure(NO_FREQUENCIES)
    parts = []
    panels: list[Draw] = []
    drawn = _drawn_series(data)
    for key, runs in data.series().items():
        mine = rows.filter(pl.col("run").is_in([run.run.id for run in runs]))
        if not len(mine):
            continue
        layers = sorted(set(mine["layer"]))
        chosen = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
        for layer in chosen if single_layers else [None]:
            part = _histograms(mine if layer is None else mine.filter(layer=layer), layer)
            part = part.with_columns(
                activation=pl.lit(runs[0].run.activation), group=pl.lit(runs[0].group)
            )
            parts.append(part)
            if key in drawn:
                panels.append(partial(_draw_histograms, rows=part, run=runs[0], layer=layer))
    notes = []
    if len(drawn) < len(data.series()):
        notes.append("drawn is the largest model of each activation; the data hold all")
    if rows["domain"].drop_nulls().n_unique() < 2:
        notes.append("the study has one domain: more of `data.domains` tells them apart")
    return Made({"": pl.concat(parts)}, panels, tuple(notes))


def _drawn_series(data: StudyData) -> set[tuple[str, str]]:
    """All series where they are few, else that of the largest model of each activation."""
    series = data.series()
    if len(series) <= MOST_SERIES:
        return set(series)
    found = set()
    for activation in data.by_activation():
        mine = [key for key in series if key[0] == activation]
        found.add(max(mine, key=lambda key: series[key][0].run.parameters))
    return found


def _frequencies(data: StudyData) -> pl.DataFrame:
    """Frequencies at each run's newest measured point: run, domain, layer, frequency."""
    last = [(r.run.id, r.curve.stage, r.curve.tokens[-1]) for r in data.measured if r.curve]
    schema = {"run": pl.String, "stage": pl.String, "tokens": pl.Int64}
    wanted = pl.LazyFrame(last, schema=schema, orient="row")
    rows = data.store.scan("neurons").join(wanted, on=list(schema), how="semi")
    unique = rows.select("run", "domain", "layer", "frequency").collect()
    return unique.unique(["run", "domain", "layer"], keep="last", maintain_order=True)


def _histograms(rows: pl.DataFrame, layer: int | None) -> pl.DataFrame:
    """Share of neurons by frequency, of each domain; rarer neurons count in the first bin."""
    found = []
    named = rows.filter(pl.col("domain").is_not_null())
    for (domain,), part in (named if len(named) else rows).group_by("domain", maintain_order=True):
        frequency = part["frequency"].explode().to_numpy()
        counts, _ = np.histogram(np.clip(frequency, FREQUENCY_BINS[0], 1), FREQUENCY_BINS)
        found.append(
            pl.DataFrame(
                {
                    "domain": [str(domain or "mixture")] * len(counts),
                    "frequency_from": FREQUENCY_BINS[:-1],
                    "frequency_to": FREQUENCY_BINS[1:],
                    "share_of_neurons": counts / len(frequency),
                }
            )
        )
    frame = pl.concat(found).sort("domain", "frequency_from")
    return frame.with_columns(layer=pl.lit(layer, pl.Int32))


def _draw_histograms(axes: Axes, rows: pl.DataFrame, run: ReportedRun, layer: int | None) -> None:
    for number, domain in enumerate(sorted(set(rows["domain"]))):
        mine = rows.filter(domain=domain)
        centres = (mine["frequency_from"] * mine["frequency_to"]).sqrt()
        style: dict[str, Any] = {"color": CATEGORIES[number % len(CATEGORIES)], "lw": 1.6}
        dashes = DASHES[number % len(DASHES)]
        axes.plot(centres, mine["share_of_neurons"], label=domain, ls=dashes, **style)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_xlabel("share of tokens on which a neuron is active")
    percent_axis(axes, "share of neurons")
    where = "all layers" if layer is None else f"layer {layer}"
    axes.set_title(f"{curves.label(run)}, {where}")
    legend_below(axes)


def vocabulary(data: StudyData) -> Made:
    """Figure 10: mean activation ratio of each vocabulary token, one scale against another."""
    pairs = list(_pairs(data))
    if not pairs:
        raise MissingFigure(
            "no two measured runs of one activation differ in scale: give several in `axes.scale`"
        )
    parts = []
    panels: list[Draw] = []
    for small, large in pairs:
        both = _of_tokens(data, small).join(_of_tokens(data, large), on="token_id", suffix="_large")
        both = both.filter(pl.min_horizontal("count", "count_large") >= LEAST_OCCURRENCES)
        if len(both):
            both = both.with_columns(run=pl.lit(small.run.id), run_large=pl.lit(large.run.id)).sort(
                "count", descending=True
            )
            parts.append(both)
            panels.append(partial(_draw_tokens, rows=both, small=small, large=large))
    if not parts:
        raise MissingFigure(
            f"no vocabulary token occurs {LEAST_OCCURRENCES} times in the reporting half: give "
            "more of `data.validation.tokens`"
        )
    return Made({"": pl.concat(parts)}, panels)


def _pairs(data: StudyData) -> Sequence[tuple[ReportedRun, ReportedRun]]:
    """The smallest and the largest scale of each activation, of the first seed of each."""
    found = []
    for runs in data.by_activation().values():
        ordered = curves.by_size(runs)
        small, large = ordered[0], ordered[-1]
        peers = [r for r in ordered if r.group == large.group and r.run.seed == small.run.seed]
        if small.run.parameters < large.run.parameters:
            found.append((small, peers[0] if peers else large))
    return found


def _of_tokens(data: StudyData, run: ReportedRun) -> pl.DataFrame:
    """token_id, activation_ratio, count of a run's newest measured point."""
    assert run.curve is not None
    rows = data.store.scan("vocabulary", run.run.id).filter(
        pl.col("stage") == run.curve.stage, pl.col("tokens") == run.curve.tokens[-1]
    )
    columns = ["token_id", "activation_ratio", "count"]
    return rows.select(columns).unique("token_id", keep="last").collect()


def _draw_tokens(axes: Axes, rows: pl.DataFrame, small: ReportedRun, large: ReportedRun) -> None:
    shown = rows.head(MOST_TOKENS)
    colour = RAMPS[small.run.activation][1]
    sizes = 4 + 30 * np.sqrt(shown["count"] / shown["count"].max())
    ratios = shown["activation_ratio"], shown["activation_ratio_large"]
    label = "a vocabulary token, larger where it is more frequent"
    axes.scatter(*ratios, s=sizes, color=colour, alpha=0.35, lw=0, label=label)
    top = 1.05 * max(float(each.max() or 0) for each in ratios)  # type: ignore[arg-type]
    axes.plot([0, top], [0, top], color=QUIET, lw=1, ls=(0, (3, 2)), label="y = x")
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_title(f"{small.name}: mean activation ratio of each token")
    percent_axis(axes, f"activation ratio, {large.run.scale}")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    axes.set_xlabel(f"activation ratio, {small.run.scale}")
    legend_below(axes)
