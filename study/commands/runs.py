"""The commands about runs and what tells them apart: `sparsing runs`, `diff`, `note`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from sparsing.study.commands.options import store_option
from sparsing.study.errors import DefinitionError

if TYPE_CHECKING:
    from sparsing.study.query.difference import Difference


@click.command()
@click.argument("study")
@store_option
@click.option("--columns", metavar="A,B", help="Only these columns.")
@click.option("--all", "every", is_flag=True, help="All columns, also those alike in all runs.")
@click.option("--where", metavar="SQL", help="Only runs for which this holds.")
@click.option("--sort", metavar="COLUMN", help="By this column, rising; `-COLUMN` is falling.")
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values.")
@click.option("--json", "form", flag_value="json", help="One JSON document, a list of rows.")
def runs(
    study: str,
    root: str,
    columns: str | None,
    every: bool,
    where: str | None,
    sort: str | None,
    form: str | None,
) -> None:
    """Show the runs of STUDY: what tells them apart, and their newest values.

    A row for each run of the table `configurations`, whose columns `sparsing schema --tables`
    explains. On a terminal, of the configuration only the columns in which the runs differ.

    \b
    Examples:
      sparsing runs quickstart
      sparsing runs quickstart --sort -activation_ratio --where "activation = 'relu'"
      sparsing runs quickstart --columns run,seed,loss --csv
    """
    from sparsing.study.display.rows import print_rows
    from sparsing.study.query.runs import chosen_runs
    from sparsing.study.store.study_store import StudyStore

    names = [each.strip() for each in columns.split(",")] if columns else None
    whole = every or form is not None
    print_rows(chosen_runs(StudyStore.open(root, study), names, where, sort, whole=whole), form)


@click.command()
@click.argument("first")
@click.argument("second")
@store_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def diff(first: str, second: str, root: str, as_json: bool) -> None:
    """Show what FIRST and SECOND differ in: two definitions, or two runs.

    Each is a study of the store, a definition file, a preset, or STUDY:RUN. Defaults count: a key
    that one definition leaves out has its default's value.

    \b
    Examples:
      sparsing diff quickstart my-study.yaml
      sparsing diff quickstart:relu-d32x4-wd8-s0 quickstart:silu-d32x4-wd8-s0
    """
    from sparsing.study.query.difference import run_differences, study_differences

    one, two = (each.partition(":") for each in (first, second))
    if bool(one[1]) != bool(two[1]):
        raise DefinitionError(
            f"{first} and {second}: give two studies, or two runs as STUDY:RUN", code="study_or_run"
        )
    if one[1]:
        from sparsing.study.store.study_store import StudyStore

        stores = [(StudyStore.open(root, study), run) for study, _, run in (one, two)]
        found = run_differences(*stores)
    else:
        from sparsing.study.query.definitions import definition_named

        found = study_differences(*(definition_named(root, each) for each in (first, second)))
    if as_json:
        rows = [each._asdict() for each in found]
        click.echo(json.dumps({"first": first, "second": second, "differences": rows}, indent=2))
    elif found:
        _show(first, second, found)
    else:
        click.echo("no difference")


def _show(first: str, second: str, found: list[Difference]) -> None:
    from sparsing.study.display.rows import cell_text
    from sparsing.study.display.table import show, table

    shown = table(("key", first, second))
    for each in found:
        shown.add(each.key, cell_text(each.first), cell_text(each.second))
    show(shown)


@click.command()
@click.argument("study")
@click.argument("run", required=False)
@click.argument("text", required=False)
@store_option
@click.option("--tag", "tags", multiple=True, help="A word to find the run by; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def note(
    study: str,
    run: str | None,
    text: str | None,
    root: str,
    tags: tuple[str, ...],
    as_json: bool,
) -> None:
    """Note TEXT of RUN of STUDY; without TEXT, show what was noted.

    Notes are rows of the table `notes`; the newest is a column of `sparsing runs`.

    \b
    Examples:
      sparsing note quickstart relu-d32x4-wd8-s0 "loss spike at 300" --tag spike
      sparsing note quickstart
      sparsing runs quickstart --where "array_contains(tags, 'spike')"
    """
    from sparsing.study.display.table import Column, Table, show
    from sparsing.study.query.notes import add_note, notes
    from sparsing.study.store.study_store import StudyStore

    store = StudyStore.open(root, study)
    if run and (text is not None or tags):
        add_note(store, run, text or "", tags)
        return
    found = notes(store, run)
    if as_json:
        click.echo(json.dumps({"study": store.study_id, "notes": found}, indent=2, default=str))
        return
    columns = [Column("when"), Column("run"), Column("who"), Column("tags")]
    shown = Table([*columns, Column("note", prose=True)])
    for each in found:
        when = f"{each['written_at']:%Y-%m-%d %H:%M}"
        shown.add(when, each["run"], each["author"] or "", ", ".join(each["tags"]), each["note"])
    if found:
        show(shown)
    else:
        click.echo("nothing was noted")
