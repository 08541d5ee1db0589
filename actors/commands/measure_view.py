"""Measurements and Pareto curves as people and programs read them."""

from __future__ import annotations

import math
import time
from typing import Any

import click

from sparsing.actors.measuring.inputs.folders import Model
from sparsing.actors.measuring.measure import Measurement
from sparsing.actors.measuring.metric_names import PARAMETERS
from sparsing.actors.measuring.pareto import ParetoPoint, pareto_rows
from sparsing.actors.measuring.precision import Measured, Metric
from sparsing.actors.measuring.rows import neuron_rows, sparsity_rows
from sparsing.actors.measuring.search import LOWEST_CETT
from sparsing.actors.measuring.tokens import Sequences
from sparsing.study.display.table import Table, show, table

MIXTURE = "all"
"""How the mixture of all domains is called in a table."""

PROGRESS_SECONDS = 10.0
"""Seconds between lines of progress."""


class Progress:
    """Says on stderr what goes on, and in long parts of it how fast."""

    def __init__(self) -> None:
        self._tokens = 0
        self._started = self._said = 0.0

    def say(self, line: str) -> None:
        """A line of its own."""
        click.echo(line, err=True)

    def forwarded(self, tokens: int) -> None:
        """Count a forward's tokens; now and then say how many there were."""
        now = time.monotonic()
        if not self._tokens:
            self._started = self._said = now
        self._tokens += tokens
        if now - self._said >= PROGRESS_SECONDS:
            self._said = now
            rate = self._tokens / (now - self._started)
            self.say(f"  {self._tokens:,} tokens forwarded, {rate:,.0f} a second")


def measured_document(models: list[Model], metric: Metric, measured: Measured) -> dict[str, Any]:
    """A measurement for JSON; its rows are those of the tables `sparsity` and `neurons`."""
    name = PARAMETERS[metric.name]
    return {
        "metric": metric.name,
        "parameter": {name: metric.parameter} if name else {},
        "precision": measured.precision,
        "choosing_tokens": measured.chosen_tokens,
        "reporting_tokens": int(measured.report.counts.sum()),
        "sequence_tokens": measured.report.positions,
        "models": [
            _about(model)
            | {
                "cett": one.cett,
                "sparsity": sparsity_rows(one),
                "neurons": [
                    {key: value for key, value in row.items() if key != "frequency"}
                    for row in neuron_rows(one)
                ],
            }
            for model, one in zip(models, measured.measurements, strict=True)
        ],
    }


def pareto_document(models: list[Model], curves: list[list[ParetoPoint]]) -> dict[str, Any]:
    """Pareto curves for JSON; their rows are those of the table `pareto`."""
    return {
        "models": [
            _about(model) | {"pareto": pareto_rows(points)}
            for model, points in zip(models, curves, strict=True)
        ]
    }


def show_measured(models: list[Model], metric: Metric, measured: Measured) -> None:
    """Print a measurement: for each model a table of domains and one of layers."""
    for model, one in zip(models, measured.measurements, strict=True):
        _head(model)
        click.echo(_metric_line(metric, one))
        if metric.name == "cett_ppl" and (note := _bound_note(one.cett, metric.parameter)):
            click.echo(note)
        show(domain_table(one))
        show(layer_table(one))
    chosen = f", {measured.chosen_tokens:,} others chosen on" if measured.chosen_tokens else ""
    click.echo(
        f"{measured.report.counts.sum():,} tokens reported on{chosen}, in sequences of "
        f"{measured.report.positions}; activation ratio known to "
        f"±{percent(measured.precision)} of itself (95 % interval)"
    )


def show_pareto(models: list[Model], curves: list[list[ParetoPoint]], report: Sequences) -> None:
    """Print the Pareto curves of each model, over all domains."""
    for model, points in zip(models, curves, strict=True):
        _head(model)
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
        show(shown)
    click.echo(f"{report.counts.sum():,} tokens in sequences of {report.positions}")


def _about(model: Model) -> dict[str, Any]:
    return {
        "path": str(model.path),
        "activation": model.activation,
        "layers": len(model.subject.ffns),
        "d_f": [ffn.w_out.in_features for ffn in model.subject.ffns],
        "stored": model.stored,
        "computed": model.computed,
    }


def _head(model: Model) -> None:
    d_f = ", ".join(map(str, sorted({ffn.w_out.in_features for ffn in model.subject.ffns})))
    click.echo(str(model.path))
    click.echo(
        f"{len(model.subject.ffns)} layers of {d_f} neurons, {model.activation}; "
        f"weights in {model.stored}, computed in {model.computed}"
    )


def _metric_line(metric: Metric, measured: Measurement) -> str:
    name, line = PARAMETERS[metric.name], f"metric {metric.name}"
    if name == "p":
        line += f", p {metric.parameter:g} %"
    elif name in ("k", "eps"):
        line += f", {name} {metric.parameter:g}"
    return line if measured.cett is None else f"{line}, CETT {measured.cett:.4g}"


def _bound_note(cett: float | None, p_percent: float | None) -> str | None:
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
    numbers = ("activation ratio", "95 % interval", "dense loss", "sparse loss")
    headings = (*numbers, "perplexity", "tokens")
    shown = table(("domain", *headings), right=headings)
    for name, part in measured.parts.items():
        if name is not None or len(measured.parts) > 2:
            shown.add(
                MIXTURE if name is None else name,
                percent(part.activation_ratio),
                interval(part.interval),
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
    numbers = ("layer", "activation ratio", "95 % interval", "threshold", "dead neurons")
    shown = table(numbers, right=numbers[1:])
    rows = zip(part.activation_ratios, part.layer_intervals, measured.thresholds, dead, strict=True)
    for layer, (ratio, bounds, eps, share) in enumerate(rows):
        threshold = "" if eps is None else f"{eps:.4g}"
        shown.add(str(layer), percent(ratio), interval(bounds), threshold, percent(share))
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
