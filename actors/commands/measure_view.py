"""`sparsing measure` on a terminal: what goes on, and what was measured."""

from __future__ import annotations

import time

import click

from sparsing.actors.measuring.inputs.folders import Model
from sparsing.actors.measuring.pareto import ParetoPoint
from sparsing.actors.measuring.precision import Measured, Metric
from sparsing.actors.measuring.requests.tables import (
    bound_note,
    domain_table,
    layer_table,
    metric_line,
    model_text,
    pareto_table,
    tokens_line,
    zero_note,
)
from sparsing.actors.models.sequences import Sequences
from sparsing.study.display.table import show

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


def show_measured(models: list[Model], metric: Metric, measured: Measured) -> None:
    """Print a measurement: for each model a table of domains and one of layers."""
    for model, one in zip(models, measured.measurements, strict=True):
        click.echo(model_text(model))
        click.echo(metric_line(metric, one))
        if metric.name == "cett_ppl" and (note := bound_note(one.cett, metric.parameter)):
            click.echo(note)
        show(domain_table(one))
        show(layer_table(one))
        if zeros := zero_note(one):
            click.echo(zeros)
    click.echo(tokens_line(measured))


def show_pareto(models: list[Model], curves: list[list[ParetoPoint]], report: Sequences) -> None:
    """Print the Pareto curves of each model, over all domains."""
    for model, points in zip(models, curves, strict=True):
        click.echo(model_text(model))
        show(pareto_table(points))
    click.echo(f"{report.counts.sum():,} tokens in sequences of {report.positions}")
