"""`sparsing bench`: our speed as a ratio to a named baseline."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import click

BENCHMARKS = {
    "train": "sparsing.actors.bench.train",
    "metric": "sparsing.actors.bench.metric",
    "interval": "sparsing.actors.bench.interval",
    "fit": "sparsing.analysis.bench.fit",
    "honesty": "sparsing.analysis.bench.honesty",
    "serve": "sparsing.analysis.bench.serve",
    "ffn": "sparsing.actors.bench.ffn",
    "store": "sparsing.study.bench.store",
    "decode": "sparsing.actors.bench.decode",
    "schedule": "sparsing.actors.bench.schedule",
    "data": "sparsing.actors.bench.data",
    "plan": "sparsing.actors.bench.calibrate",
}


@click.command()
@click.argument("name", type=click.Choice([*BENCHMARKS, "gpu"]))
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(1))
@click.option(
    "--calibrate",
    type=click.Path(dir_okay=False),
    help="With `train`: measure this machine's rates instead, and write them for `sparsing plan`.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    default="gpu-results.json",
    show_default=True,
    help="With `gpu`: the file of its results.",
)
@click.option("--dry-run", is_flag=True, help="With `gpu`: every part at toy size, also on a CPU.")
@click.option("--part", "parts", multiple=True, help="With `gpu`: only this part; again for more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(
    name: str,
    repeats: int,
    calibrate: str | None,
    out: str,
    dry_run: bool,
    parts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure NAME against its baselines on this machine.

    \b
    Examples:
      sparsing bench train            a training shard against plain PyTorch and transformers
      sparsing bench metric           CETT-PPL-1% against nested bisection; takes minutes
      sparsing bench interval         how often intervals of activation ratios hold the truth
      sparsing bench fit --json
      sparsing bench honesty          intervals, forecasts and stops on hard curves; takes minutes
      sparsing bench serve            the live page, JSON, /metrics and Arrow; takes minutes
      sparsing bench ffn --repeats 15
      sparsing bench store            appends against MLflow and TensorBoard, queries; takes minutes
      sparsing bench decode           tokens per second, sparse against dense and transformers
      sparsing bench plan             estimates of three sizes against what they take here
      sparsing bench train --calibrate rates.json
      sparsing bench gpu --out results.json   all that needs a GPU, within 8 minutes of one
      sparsing bench data             text to tokens, reads in training order, 64 raylets
      sparsing bench schedule         1,000 runs on 64 simulated nodes; 20 minutes, 16 GB of memory
    """
    from dataclasses import asdict

    from sparsing.study.bench.bench import Case, machine

    if calibrate is not None:
        _calibrate(name, Path(calibrate))
        return
    if name == "gpu":
        _gpu_day(Path(out), dry_run, parts)
        return
    from sparsing.study.display.table import show, table

    cases: list[Case] = importlib.import_module(BENCHMARKS[name]).cases(repeats)
    if as_json:
        rows = [asdict(case) for case in cases]
        click.echo(json.dumps({"benchmark": name, "machine": machine(), "cases": rows}))
        return
    headings = ("case", "ours", "baseline", "baseline's", "ratio", "spread")
    numbers = ("ours", "baseline's", "ratio", "spread")
    shown = table(headings, right=numbers, title=f"bench {name}: {machine()}")
    for case in cases:
        shown.add(
            case.case,
            f"{case.value:.4g} {case.unit}",
            case.baseline,
            f"{case.baseline_value:.4g} {case.unit}",
            f"{case.ratio:.3f}x",
            f"{case.spread:.0%}",
        )
    show(shown)


def _calibrate(name: str, path: Path) -> None:
    """Write this machine's rates."""
    from sparsing.study.plan.rates import write_rates

    if name != "train":
        raise click.UsageError("--calibrate goes with `sparsing bench train`")
    rates = importlib.import_module(BENCHMARKS["plan"]).calibrate()
    write_rates(rates, path)
    click.echo(f"{path}: {rates.device}, {rates.source}")


def _gpu_day(out: Path, dry_run: bool, parts: tuple[str, ...]) -> None:
    """Everything that needs a GPU, part by part."""
    gpu_day = importlib.import_module("sparsing.actors.bench.gpu_day")
    if unknown := set(parts) - set(gpu_day.PARTS):
        named = ", ".join(gpu_day.PARTS)
        raise click.UsageError(f"no part '{min(unknown)}'; parts: {named}")
    gpu_day.run_parts(out, dry=dry_run, names=parts)
