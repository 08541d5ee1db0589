"""The commands about a definition and this machine: `sparsing plan`, `schema`, `doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparsing.study.definition.load import load_study
from sparsing.study.definition.model import Study
from sparsing.study.doctor import Check, checks
from sparsing.study.errors import SparsingError
from sparsing.study.plan.runs import Plan
from sparsing.study.plan.runs import plan as make_plan
from sparsing.study.units import bytes_text, count_text, hours_text

MINIMUM_WIDTH = 120
"""Columns of output at least; a narrower terminal breaks lines, which reads better than cells."""
HEADINGS = (
    *("d_h x layers", "parameters", "+ embedding", "tokens", "batch", "steps"),
    *("FLOPs", "GPU time", "checkpoints", "tables"),
)


@click.command()
@click.argument("study")
@click.option(
    "--utilization", default=0.4, show_default=True, help="Share of the peak that is reached."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def plan(study: str, utilization: float, as_json: bool) -> None:
    """Show the runs of STUDY and what they cost; changes nothing.

    STUDY is a definition file or the name of a preset. FLOPs are 6 (N + V d_h + L d_h T) D: for
    the layers' parameters, the output head and causal attention.

    \b
    Example:
      sparsing plan sparsing_law --utilization 0.5
      sparsing plan my-study.yaml --json
    """
    made = make_plan(load_study(study), utilization=utilization)
    if as_json:
        click.echo(json.dumps(made.as_json(), indent=2))
    else:
        _show(made)


def _show(made: Plan) -> None:
    console = _console()
    table = Table(title=f"study {made.study_id}", title_justify="left", box=None)
    table.add_column("run", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for cost in made.costs:
        run = cost.run
        table.add_row(
            run.id,
            f"{run.d_h} x {run.layers}",
            count_text(run.parameters),
            count_text(cost.embedding_parameters),
            count_text(run.tokens),
            count_text(run.batch_tokens),
            str(run.steps),
            f"{cost.flops:.3g}",
            hours_text(cost.gpu_hours),
            f"{len(run.checkpoint_steps)}: {bytes_text(cost.checkpoint_bytes)}",
            bytes_text(cost.table_bytes),
        )
    console.print(table)
    console.print(_summary(made), highlight=False)


def _summary(made: Plan) -> str:
    total = made.total
    runs = "1 run" if len(made.costs) == 1 else f"{len(made.costs)} runs"
    return (
        f"\n{runs}, {count_text(total['tokens'])} tokens, "
        f"{total['flops']:.3g} FLOPs: {hours_text(total['gpu_hours'])} of one A800 at "
        f"{made.utilization:.0%} of its peak; checkpoints {bytes_text(total['checkpoint_bytes'])}, "
        f"tables about {bytes_text(total['table_bytes'])}"
    )


@click.command()
def schema() -> None:
    """Print the JSON Schema of a study definition, for editors and programs.

    \b
    Example:
      sparsing schema > study.schema.json
    """
    click.echo(json.dumps(Study.model_json_schema(), indent=2))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--address", help="Also whether a Ray cluster there is safe to use.")
def doctor(as_json: bool, address: str | None) -> None:
    """Check whether a study can run on this machine, and say what to do where not.

    Exit code 0 when it can, 1 when not.

    \b
    Example:
      sparsing doctor
      sparsing doctor --address http://head:8265
    """
    found = checks(address)
    failed = [check for check in found if check.status == "fail"]
    if as_json:
        rows = [asdict(check) for check in found]
        click.echo(json.dumps({"ready": not failed, "checks": rows}, indent=2))
    else:
        _show_checks(found)
    if failed:
        names = ", ".join(check.name for check in failed)
        raise SparsingError(f"a study cannot run here yet: see {names} above")


def _show_checks(found: list[Check]) -> None:
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fail": "[red]fail[/]"}
    table = Table(box=None, show_header=False)
    for check in found:
        remedy = f"-> {check.remedy}" if check.remedy else ""
        table.add_row(marks[check.status], check.name, escape(check.found), escape(remedy))
    _console().print(table, highlight=False)


def _console() -> Console:
    """Standard output, wide enough for a table."""
    console = Console()
    console.width = max(console.width, MINIMUM_WIDTH)
    return console
