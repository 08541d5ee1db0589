"""`sparsing bench`: our speed as a ratio to a named baseline, measured in the same run.

A benchmark is a module with `cases(repeats) -> list[Case]`. Ratios are over 1 when ours is
better; each is the median over interleaved repeats, so that a busy machine disturbs both sides.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click
from rich.console import Console
from rich.table import Table

BENCHMARKS = {
    "train": "sparsing.actors.bench.train",
    "metric": "sparsing.actors.bench.metric",
    "interval": "sparsing.actors.bench.interval",
    "fit": "sparsing.analysis.bench.fit",
    "serve": "sparsing.analysis.bench.serve",
    "ffn": "sparsing.actors.bench.ffn",
    "store": "sparsing.study.bench.store",
    "decode": "sparsing.actors.bench.decode",
    "schedule": "sparsing.actors.bench.schedule",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One figure and what it is compared with."""

    case: str
    value: float
    """Median of ours."""
    unit: str
    baseline: str
    """Name of what ours is compared with."""
    baseline_value: float
    ratio: float
    """Median over repeats; over 1 when ours is better."""
    better: str
    """`higher` or `lower`: which way the values are better."""
    repeats: int
    spread: float
    """Of the ratio: (maximum - minimum) / median."""


def compare(
    case: str,
    ours: Callable[[], float],
    baseline: Callable[[], float],
    *,
    baseline_name: str,
    unit: str,
    better: str,
    repeats: int,
) -> Case:
    """Measure both sides in turn, `repeats` times after one warm-up each."""
    ours(), baseline()
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            theirs, mine = baseline(), ours()
        else:
            mine, theirs = ours(), baseline()
        pairs.append((mine, theirs))
    ratios = [_ratio(mine, theirs, better) for mine, theirs in pairs]
    ratio = statistics.median(ratios)
    return Case(
        case=case,
        value=statistics.median(m for m, _ in pairs),
        unit=unit,
        baseline=baseline_name,
        baseline_value=statistics.median(t for _, t in pairs),
        ratio=ratio,
        better=better,
        repeats=repeats,
        spread=(max(ratios) - min(ratios)) / ratio,
    )


def measured_once(
    case: str,
    value: float,
    baseline_value: float,
    *,
    baseline_name: str,
    unit: str,
    better: str,
    repeats: int = 1,
    spread: float = 0.0,
) -> Case:
    """A case of two figures that are there already; the baseline may be a bar."""
    return Case(
        case=case,
        value=value,
        unit=unit,
        baseline=baseline_name,
        baseline_value=baseline_value,
        ratio=_ratio(value, baseline_value, better),
        better=better,
        repeats=repeats,
        spread=spread,
    )


def _ratio(value: float, baseline_value: float, better: str) -> float:
    return value / baseline_value if better == "higher" else baseline_value / value


def machine() -> str:
    """Processor, cores and Python of this machine, in words."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            names = (line.partition(":")[2].strip() for line in lines if "model name" in line)
            model = next(names, model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


@click.command()
@click.argument("name", type=click.Choice(list(BENCHMARKS)))
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(name: str, repeats: int, as_json: bool) -> None:
    """Measure NAME against its baselines on this machine.

    \b
    Examples:
      sparsing bench train            a training shard against plain PyTorch and transformers
      sparsing bench metric           CETT-PPL-1% against nested bisection; takes minutes
      sparsing bench interval         how often intervals of activation ratios hold the truth
      sparsing bench fit --json
      sparsing bench serve            the live page, JSON, /metrics and Arrow; takes minutes
      sparsing bench ffn --repeats 15
      sparsing bench store            appends against MLflow and TensorBoard, queries; takes minutes
      sparsing bench decode           tokens per second, sparse against dense and transformers
      sparsing bench schedule         1,000 runs on 64 simulated nodes; 20 minutes, 16 GB of memory
    """
    cases: list[Case] = importlib.import_module(BENCHMARKS[name]).cases(repeats)
    if as_json:
        rows = [asdict(case) for case in cases]
        click.echo(json.dumps({"benchmark": name, "machine": machine(), "cases": rows}))
        return
    table = Table(title=f"bench {name}: {machine()}", box=None, title_justify="left")
    for heading in ("case", "ours", "baseline", "", "ratio", "spread"):
        table.add_column(heading, justify="left" if heading in ("case", "baseline") else "right")
    for case in cases:
        table.add_row(
            case.case,
            f"{case.value:.4g} {case.unit}",
            case.baseline,
            f"{case.baseline_value:.4g} {case.unit}",
            f"{case.ratio:.3f}x",
            f"{case.spread:.0%}",
        )
    Console(width=None if Console().is_terminal else 140).print(table)
