"""The commands about a definition: `sparsing plan`, `schema`."""

from __future__ import annotations

import json

import click


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
    from sparsing.study.definition.load import load_study
    from sparsing.study.display.plan import plan_table
    from sparsing.study.display.table import show
    from sparsing.study.plan.runs import plan as make_plan

    made = make_plan(load_study(study), utilization=utilization)
    if as_json:
        click.echo(json.dumps(made.as_json(), indent=2))
    else:
        show(plan_table(made))


@click.command()
def schema() -> None:
    """Print the JSON Schema of a study definition, for editors and programs.

    \b
    Example:
      sparsing schema > study.schema.json
    """
    from sparsing.study.definition.model import Study

    click.echo(json.dumps(Study.model_json_schema(), indent=2))
