"""`sparsing figures`: every figure and table of the paper from a study's store."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sparsing.study.commands.options import store_option

FORMATS = ("svg", "pdf", "png", "csv", "parquet")


@click.command()
@click.argument("study")
@store_option
@click.option("--only", default="", help="Some of them, with commas: 4,7,table2.")
@click.option(
    "--format",
    "formats",
    default="svg,png,csv,parquet",
    show_default=True,
    help="Of svg, pdf, png, csv, parquet.",
)
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Default: figures-STUDY.")
@click.option(
    "--size",
    type=click.Choice(["talk", "column"]),
    default="talk",
    show_default=True,
    help="A page at 16:9, or a column of a paper.",
)
@click.option("--dark", is_flag=True, help="Light lines on a dark ground.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def figures(
    study: str,
    root: str,
    only: str,
    formats: str,
    folder: Path | None,
    size: str,
    dark: bool,
    as_json: bool,
) -> None:
    """Draw every figure and table of the paper from the runs of STUDY.

    Each has the numbers that it shows beside it, as CSV and Parquet. Of what the study does not
    hold a line says what is missing, and what to add to the definition.

    \b
    Examples:
      sparsing figures quickstart
      sparsing figures quickstart --only 4,table2 --format pdf,csv --size column
    """
    wanted = [each.strip().lower() for each in formats.split(",") if each.strip()]
    if unknown := [each for each in wanted if each not in FORMATS]:
        raise click.UsageError(f"--format {unknown[0]}: there are {', '.join(FORMATS)}")
    from sparsing.analysis.figures.write import Outcome, write_figures
    from sparsing.study.store.study_store import StudyStore

    def told(outcome: Outcome) -> None:
        if as_json:
            return
        if outcome.missing:
            click.echo(f"{outcome.figure.name} is missing: {outcome.missing}")
            return
        names = ", ".join(file.name for file in outcome.files)
        click.echo(f"{outcome.figure.name}, {outcome.figure.title}: {names}")
        for note in outcome.notes:
            click.echo(f"  note: {note}")

    store = StudyStore.open(root, study)
    folder = folder or Path(f"figures-{store.study_id}")
    theme = "dark" if dark else "light"
    found = write_figures(
        store, folder, only=only.split(","), formats=wanted, size=size, theme=theme, told=told
    )
    made = [outcome for outcome in found if not outcome.missing]
    if as_json:
        each = [outcome.as_json() for outcome in found]
        click.echo(json.dumps({"study": store.study_id, "folder": str(folder), "figures": each}))
    else:
        click.echo(f"{len(made)} of {len(found)} in {folder}")
