"""The commands about whole studies: `sparsing list`, `rm`, `init`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from sparsing.study.commands.options import store_option
from sparsing.study.errors import DefinitionError


@click.command("list")
@store_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_command(root: str, as_json: bool) -> None:
    """Show the studies of the store: when they were made, how they stand, how large they are.

    \b
    Examples:
      sparsing list
      sparsing list --store /shared/sparsing --json
    """
    from sparsing.study.query.studies import listed_studies

    found = listed_studies(root)
    if as_json:
        click.echo(json.dumps({"store": root, "studies": found}, indent=2, default=str))
    elif found:
        _show(found)
    else:
        click.echo(f"no studies in {root}; sparsing run quickstart makes one")


def _show(found: list[dict[str, Any]]) -> None:
    from sparsing.study.display.table import Cell, Column, Table, show
    from sparsing.study.units import bytes_text, duration_text

    columns = [Column("study"), Column("made"), Column("runs", prose=True)]
    numbers = [Column(each, right=True) for each in ("tokens done", "newest row", "size")]
    shown = Table([*columns, *numbers])
    for row in found:
        made = "" if row["made_at"] is None else f"{row['made_at']:%Y-%m-%d %H:%M}"
        size = "" if row["bytes"] is None else bytes_text(row["bytes"])
        if "error" in row:
            shown.add(row["study"], made, Cell(row["error"], "red"), "", "", size)
            continue
        runs = ", ".join(f"{count} {state}" for state, count in row["states"].items() if count)
        share = f"{row['tokens'] / row['tokens_planned']:.1%}"
        shown.add(row["study"], made, runs, share, duration_text(row["age_seconds"]), size)
    show(shown)


@click.command()
@click.argument("study")
@store_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(study: str, root: str, yes: bool) -> None:
    """Remove STUDY from the store, checkpoints and all; asks, and says how much it is.

    Refuses while a controller is at work on it. Prepared data, which studies share, stay.

    \b
    Examples:
      sparsing rm quickstart-d6e1dc1d
      sparsing rm quickstart-d6e1dc1d --yes
    """
    from sparsing.study.store.care.removal import folder_bytes, remove_study
    from sparsing.study.store.study_store import StudyStore
    from sparsing.study.units import bytes_text

    folder = StudyStore.open(root, study).path
    size = bytes_text(folder_bytes(folder))
    if not yes:
        if not sys.stdin.isatty():
            raise DefinitionError(f"{folder} has {size}; --yes removes it", code="not_confirmed")
        click.confirm(f"remove {folder}, {size}?", abort=True, err=True)
    remove_study(folder)
    click.echo(f"{folder.name}: {size} removed")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help="Name of the study [the file's].")
@click.option("--activation", "activations", multiple=True, help="Activation function; repeatable.")
@click.option("--scale", "scales", multiple=True, help="Size, as 0.1B or 27M; repeatable.")
@click.option("--seeds", type=click.IntRange(1, 100), help="Seeds of each model.")
@click.option("--tokens-per-parameter", type=float, help="Training tokens per parameter.")
@click.option("--data", metavar="[NAME=]PATH", multiple=True, help="Text to train on; repeatable.")
def init(
    file: Path,
    name: str | None,
    activations: tuple[str, ...],
    scales: tuple[str, ...],
    seeds: int | None,
    tokens_per_parameter: float | None,
    data: tuple[str, ...],
) -> None:
    """Write FILE, a definition with comments, from flags, or from a few questions on a terminal.

    Data are folders or files of .txt, .md, .jsonl or .parquet; without any it is the source code of
    Python's standard library. The definition is checked before it is written.

    \b
    Examples:
      sparsing init my-study.yaml
      sparsing init mine.yaml --activation relu --activation silu --scale 27M --data web=texts/
    """
    from sparsing.study.definition.template import Wishes, written_definition

    asks = sys.stdin.isatty() and not (activations or scales or data or seeds)
    wishes = Wishes(
        name=name or file.stem.lower(),
        activations=activations or _asked(asks, "activation functions", "relu, silu"),
        scales=scales or _asked(asks, "sizes in parameters", "10M"),
        seeds=seeds or int(_asked(asks, "seeds of each model", "1")[0]),
        tokens_per_parameter=tokens_per_parameter
        or float(_asked(asks, "training tokens per parameter", "20")[0]),
        data=data or _asked(asks, "files or folders of text, empty: Python's sources", ""),
    )
    if file.exists():
        raise DefinitionError(f"{file} is there already", code="file_exists", file=str(file))
    file.write_text(written_definition(wishes, file), encoding="utf-8")
    click.echo(f"{file} is written; sparsing plan {file} shows what it costs")


def _asked(asks: bool, what: str, default: str) -> tuple[str, ...]:
    """Words that the user types, or the default where there is nobody to ask."""
    said = click.prompt(what, default=default, err=True) if asks else default
    return tuple(each.strip() for each in said.split(",") if each.strip())
