"""`sparsing plan`: the runs of a study, what they cost, and what its data give."""

from __future__ import annotations

import json

import click

ACCELERATORS = ("A800", "A100", "H100", "H200")


@click.command()
@click.argument("study")
@click.option(
    "--utilization", default=0.4, show_default=True, help="Share of the peak that is reached."
)
@click.option(
    "--accelerator",
    "kinds",
    multiple=True,
    type=click.Choice(ACCELERATORS),
    help="Estimate time and memory on this kind of GPU; may be given again "
    "[resources.accelerator_type, else all].",
)
@click.option(
    "--gpus", type=click.IntRange(min=1), help="GPUs that the study has [those of one run]."
)
@click.option(
    "--calibration",
    type=click.Path(dir_okay=False),
    help="Estimate by the rates measured in this file, of `sparsing bench train --calibrate`.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def plan(
    study: str,
    utilization: float,
    kinds: tuple[str, ...],
    gpus: int | None,
    calibration: str | None,
    as_json: bool,
) -> None:
    """Show the runs of STUDY and what they cost; changes nothing.

    STUDY is a definition file or the name of a preset. FLOPs are 6 (N + V d_h + L d_h T) D: for
    the layers' parameters, the output head and causal attention. Memory and times are calculated
    from the makers' figures of each GPU, or from rates that were measured.

    \b
    Example:
      sparsing plan sparsing_law --accelerator H100 --gpus 64
      sparsing plan my-study.yaml --calibration rates.json
      sparsing plan my-study.yaml --json
    """
    from pathlib import Path

    from sparsing.actors.data.preflight import forecast
    from sparsing.study.definition.load import load_study, with_places
    from sparsing.study.display.plan import data_table, estimate_table, plan_table
    from sparsing.study.display.table import show
    from sparsing.study.plan.accelerators import ACCELERATORS as FIGURES
    from sparsing.study.plan.estimate import estimate
    from sparsing.study.plan.rates import calculated, read_rates
    from sparsing.study.plan.runs import plan as make_plan

    definition = load_study(study)
    made = make_plan(definition, utilization=utilization)
    wanted = definition.resources.accelerator_type
    kinds = kinds or ((wanted,) if wanted in FIGURES else ACCELERATORS)
    found = forecast(definition)
    rates = [calculated(FIGURES[kind]) for kind in kinds]
    if calibration is not None:
        rates = [read_rates(Path(calibration))]
    estimates = [estimate(definition, each, gpus) for each in rates]
    if as_json:
        document = made.as_json() | {"estimates": [each.as_json() for each in estimates]}
        document["data"] = found.as_json()
        click.echo(json.dumps(document, indent=2))
        return
    show(plan_table(made))
    for each in estimates:
        click.echo()
        show(estimate_table(each))
    click.echo()
    show(data_table(found.as_json()))
    for line in with_places(found.warnings, study):
        click.echo(f"warning: {line}", err=True)
