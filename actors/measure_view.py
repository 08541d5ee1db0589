"""A measurement as people and programs read it."""

from __future__ import annotations

import math
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.measure import DomainActivity, Measurement
from actors.measure_folders import Model
from actors.measure_precision import PARAMETERS, Measured, Metric
from actors.measure_rows import neuron_rows, sparsity_rows

PLAIN_WIDTH = 200
"""Columns where the output is no terminal."""

MIXTURE = "all"
"""How the mixture of all domains is called in a table."""


def document(models: list[Model], metric: Metric, measured: Measured) -> dict[str, Any]:
    """All about a measurement, for JSON; its rows are those of the tables `sparsity`, `neurons`."""
    name = PARAMETERS[metric.name]
    return {
        "metric": metric.name,
        "parameter": {name: metric.parameter} if name else {},
        "precision": measured.precision,
        "choosing_tokens": int(measured.halves.choose.counts.sum()),
        "reporting_tokens": int(measured.halves.report.counts.sum()),
        "sequence_tokens": measured.halves.report.tokens.shape[1] - 1,
        "models": [
            _model_document(*each) for each in zip(models, measured.measurements, strict=True)
        ],
    }


def _model_document(model: Model, measured: Measurement) -> dict[str, Any]:
    return {
        "path": str(model.path),
        "activation": model.activation,
        "layers": len(measured.rules),
        "d_f": [ffn.w_out.in_features for ffn in model.subject.ffns],
        "precision": model.precision,
        "cett": measured.cett,
        "sparsity": sparsity_rows(measured),
        "neurons": [
            {key: value for key, value in row.items() if key != "frequency"}
            for row in neuron_rows(measured)
        ],
    }


def show(models: list[Model], metric: Metric, measured: Measured) -> None:
    """Print a measurement: a table of domains and one of layers for each model."""
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PLAIN_WIDTH, markup=False, highlight=False)
    for model, one in zip(models, measured.measurements, strict=True):
        d_f = ", ".join(map(str, sorted({ffn.w_out.in_features for ffn in model.subject.ffns})))
        console.print(f"{model.path}", soft_wrap=True)
        console.print(
            f"{len(one.rules)} layers of {d_f} neurons, {model.activation}; {model.precision}"
        )
        console.print(_metric_line(metric, one))
        console.print(_domain_table(one))
        console.print(_layer_table(one))
    halves = measured.halves
    console.print(
        f"{halves.report.counts.sum():,} tokens reported on, {halves.choose.counts.sum():,} others "
        f"chosen on, in sequences of {halves.report.tokens.shape[1] - 1}; "
        f"activation ratio known to ±{100 * measured.precision:.2g} % (95 % interval)"
    )


def _metric_line(metric: Metric, measured: Measurement) -> str:
    name = PARAMETERS[metric.name]
    line = f"metric {metric.name}"
    if name:
        line += f", {name} {metric.parameter:g}{' %' if name == 'p' else ''}"
    return line if measured.cett is None else f"{line}, CETT {measured.cett:.4g}"


def _domain_table(measured: Measurement) -> Table:
    table = _table("domain", "activation ratio", "95 % interval", "dense loss", "sparse loss")
    for title in ("perplexity", "tokens"):
        table.add_column(title, justify="right")
    for name, part in measured.parts.items():
        if name is not None or len(measured.parts) > 2:
            table.add_row(
                MIXTURE if name is None else name,
                percent(part.activation_ratio),
                interval(part.interval),
                f"{part.dense_loss:.4f}",
                f"{part.sparse_loss:.4f}",
                f"{part.ppl_rise_percent:+.2f} %",
                f"{part.tokens:,}",
            )
    return table


def _layer_table(measured: Measurement) -> Table:
    part: DomainActivity = measured.mixture
    dead = [row["dead_ratio"] for row in neuron_rows(measured) if row["domain"] is None]
    table = _table("layer", "activation ratio", "95 % interval", "threshold", "dead neurons")
    rows = zip(part.activation_ratios, part.layer_intervals, measured.thresholds, dead, strict=True)
    for layer, (ratio, bounds, eps, share) in enumerate(rows):
        shown = "" if eps is None else f"{eps:.4g}"
        table.add_row(str(layer), percent(ratio), interval(bounds), shown, percent(share))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None)
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right")
    return table


def percent(share: float) -> str:
    """`12.3 %`, with three digits."""
    digits = 2 if share <= 0 else min(max(0, 1 - math.floor(math.log10(100 * share)) + 1), 4)
    return f"{100 * share:.{digits}f} %"


def interval(bounds: tuple[float, float]) -> str:
    """`12.1 to 12.5 %`."""
    return f"{percent(bounds[0]).removesuffix(' %')} to {percent(bounds[1])}"
