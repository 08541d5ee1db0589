"""Measurements and Pareto curves as people read them."""

from __future__ import annotations

import math

import numpy as np

from sparsing.actors.measuring.inputs.folders import Model
from sparsing.actors.measuring.measure import Measurement
from sparsing.actors.measuring.metric_names import PARAMETERS
from sparsing.actors.measuring.pareto import ParetoPoint
from sparsing.actors.measuring.precision import Measured, Metric
from sparsing.actors.measuring.rows import neuron_rows
from sparsing.actors.measuring.search import LOWEST_CETT
from sparsing.actors.models.sequences import Sequences
from sparsing.study.display.table import Table, table

MIXTURE = "all"
"""How the mixture of all domains is called in a table."""


def model_text(model: Model) -> str:
    """The model's folder, and below it its layers, neurons and precision."""
    d_f = ", ".join(map(str, sorted({ffn.w_out.in_features for ffn in model.subject.ffns})))
    return (
        f"{model.path}\n{len(model.subject.ffns)} layers of {d_f} neurons, {model.activation}; "
        f"weights in {model.stored}, computed in {model.computed}"
    )


def tokens_line(measured: Measured) -> str:
    """On how many tokens it was measured, and how precisely the ratio is known."""
    chosen = f", {measured.chosen_tokens:,} others chosen on" if measured.chosen_tokens else ""
    return (
        f"{measured.report.counts.sum():,} tokens reported on{chosen}, in sequences of "
        f"{measured.report.positions}{_before(measured.report)}; activation ratio known to "
        f"±{percent(measured.precision)} of itself (95 % interval)"
    )


def pareto_table(points: list[ParetoPoint]) -> Table:
    """A row for each way of choosing weak neurons and its parameter, over all domains."""
    numbers = ("parameter", "activation ratio", "dense loss", "sparse loss", "perplexity")
    shown = table(("metric", *numbers), right=numbers)
    for point in points:
        part = point.mixture
        shown.add(
            point.metric,
            "" if point.parameter is None else f"{point.parameter:.4g}",
            percent(part.activation_ratio),
            f"{part.dense_loss:.4f}",
            f"{part.sparse_loss:.4f}",
            f"{part.ppl_rise_percent:+.2f} %",
        )
    return shown


def metric_line(metric: Metric, measured: Measurement) -> str:
    """`metric cett_ppl, p 1 %, CETT 0.123`."""
    name, line = PARAMETERS[metric.name], f"metric {metric.name}"
    if name == "p":
        line += f", p {metric.parameter:g} %"
    elif name in ("k", "eps"):
        line += f", {name} {metric.parameter:g}"
    return line if measured.cett is None else f"{line}, CETT {measured.cett:.4g}"


def _before(report: Sequences) -> str:
    if not report.prefix:
        return " without BOS"
    ids = ", ".join(map(str, report.prefix))
    return f", each after BOS (id {ids}), which is not measured itself"


def zero_note(measured: Measurement) -> str | None:
    """Which layers put out nothing at all for some tokens."""
    found = [
        f"layer {layer}: {percent(share)}"
        for layer, share in enumerate(measured.mixture.zero_output_ratios)
        if share > 0
    ]
    if not found:
        return None
    return f"tokens whose FFN output is 0, so that their CETT is 0: {', '.join(found)}"


def bound_note(cett: float | None, p_percent: float | None) -> str | None:
    """What to think of a CETT value at an end of its range."""
    if cett is not None and cett >= 1:
        return (
            f"note: even CETT 1 raises perplexity by less than {p_percent:g} % on the choosing "
            "half; is the model trained, and on such text?"
        )
    if cett is not None and cett <= LOWEST_CETT * (1 + 1e-9):
        return (
            f"note: the search ends at CETT {LOWEST_CETT:g}, where next to nothing is left out; "
            f"a rise of {p_percent:g} % lies below it"
        )
    return None


def domain_table(measured: Measurement) -> Table:
    """Activation ratio and losses of each domain and of their mixture."""
    numbers = ("activation ratio", "95 % interval", "dense run", "dense loss", "sparse loss")
    headings = (*numbers, "perplexity", "tokens")
    shown = table(("domain", *headings), right=headings)
    for name, part in measured.parts.items():
        if name is not None or len(measured.parts) > 2:
            shown.add(
                MIXTURE if name is None else name,
                percent(part.activation_ratio),
                interval(part.interval),
                percent(float(np.mean(part.dense_run_ratios))),
                f"{part.dense_loss:.4f}",
                f"{part.sparse_loss:.4f}",
                f"{part.ppl_rise_percent:+.2f} %",
                f"{part.tokens:,}",
            )
    return shown


def layer_table(measured: Measurement) -> Table:
    """Activation ratio, threshold and dead neurons of each layer, over the mixture."""
    part = measured.mixture
    dead = [row["dead_ratio"] for row in neuron_rows(measured) if row["domain"] is None]
    numbers = ("activation ratio", "95 % interval", "dense run", "threshold", "dead neurons")
    shown = table(("layer", *numbers), right=numbers)
    rows = zip(
        part.activation_ratios,
        part.layer_intervals,
        part.dense_run_ratios,
        measured.thresholds,
        dead,
        strict=True,
    )
    for layer, (ratio, bounds, dense, eps, share) in enumerate(rows):
        threshold = "" if eps is None else f"{eps:.4g}"
        cells = (percent(ratio), interval(bounds), percent(dense), threshold, percent(share))
        shown.add(str(layer), *cells)
    return shown


def percent(share: float) -> str:
    """`12.3 %`: three digits, at most four behind the point."""
    if share <= 0:
        return "0 %"
    digits = min(max(0, 2 - math.floor(math.log10(100 * share))), 4)
    return f"{100 * share:.{digits}f} %"


def interval(bounds: tuple[float, float]) -> str:
    """`12.1 to 12.5 %`."""
    return f"{percent(bounds[0]).removesuffix(' %')} to {percent(bounds[1])}"
