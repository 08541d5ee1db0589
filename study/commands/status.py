"""The commands that look at a study from its store: `sparsing status`, `sparsing watch`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sparsing.study.commands.on_cluster import address_option, cluster_options, run_elsewhere
from sparsing.study.commands.options import store_option
from sparsing.study.commands.status_view import duration_text, events, status_table
from sparsing.study.errors import RunsFailedError, SparsingError
from sparsing.study.status.study_status import StatusReader, StudyStatus
from sparsing.study.store.study_store import StudyStore, list_studies

PLAIN_WIDTH = 200
"""Columns where the output is no terminal: nothing is cut."""
POLL_SECONDS = 0.05
ROWS_AROUND = 6
"""Lines of the terminal that are not rows of the table."""


@click.command()
@click.argument("study", required=False)
@store_option
@address_option()
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def status(
    study: str | None, root: str, address: str | None, code: str, python: str, as_json: bool
) -> None:
    """Show how the runs of STUDY stand; without STUDY, the studies of the store.

    Reads the store alone, also while the study runs on another machine, or when nothing runs.
    `newest row` is how long ago the run last wrote. Where runs are left and no controller is at
    work on them it says so; to be sure of that takes some seconds. With --address it is read on
    the cluster, for a store that only its nodes see.

    \b
    Examples:
      sparsing status
      sparsing status quickstart
      sparsing status quickstart --json
    """
    if address:
        words = ["status", *([study] if study else []), *(["--json"] if as_json else [])]
        run_elsewhere(words, root, address, code, python)
        return
    if study is None:
        _list_studies(root, as_json)
        return
    now = StatusReader(StudyStore.open(root, study)).read_certain()
    if as_json:
        click.echo(json.dumps(now.as_json(), indent=2))
    else:
        _console(sys.stdout.isatty()).print(status_table(now), highlight=False)


@click.command()
@click.argument("study")
@store_option
@address_option()
@cluster_options
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between looks at the store.",
)
def watch(
    study: str, root: str, address: str | None, code: str, python: str, interval_seconds: float
) -> None:
    """Follow STUDY until all its runs are done or failed; Ctrl-C ends only the watching.

    On a terminal a table that is kept up to date, elsewhere one line for each event. Exit code 4
    when runs failed. With --address it is followed on the cluster, for a store that only its nodes
    see.

    \b
    Example:
      sparsing watch quickstart
    """
    if address:
        words = ["watch", study, "--interval", f"{interval_seconds:g}"]
        run_elsewhere(words, root, address, code, python)
        return
    store = StudyStore.open(root, study)
    last = _show(_until_ended(store, interval_seconds), _console(sys.stdout.isatty()))
    if last.states["failed"]:
        raise RunsFailedError(f"{last.states['failed']} runs failed; see sparsing status {study}")


def live_view(
    store: StudyStore,
    until: Callable[[], bool],
    *,
    console: Console | None = None,
    interval_seconds: float = 1.0,
) -> None:
    """Show a study until `until()` is true, then once more, and return.

    Goes to stderr unless a console is given: a table on a terminal, lines elsewhere.
    """
    looks = _until(store, until, interval_seconds)
    _show(looks, console or _console(sys.stderr.isatty(), stderr=True))


def _console(terminal: bool, stderr: bool = False) -> Console:
    return Console(width=None if terminal else PLAIN_WIDTH, stderr=stderr)


def _until_ended(store: StudyStore, interval_seconds: float) -> Iterator[StudyStatus]:
    reader = StatusReader(store)
    while not (now := reader.read()).ended:
        yield now
        time.sleep(interval_seconds)
    yield now


def _until(
    store: StudyStore, until: Callable[[], bool], interval_seconds: float
) -> Iterator[StudyStatus]:
    reader = StatusReader(store)
    while not until():
        yield reader.read()
        due = time.monotonic() + interval_seconds
        while time.monotonic() < due and not until():
            time.sleep(POLL_SECONDS)
    yield reader.read()


def _show(looks: Iterable[StudyStatus], console: Console) -> StudyStatus:
    """Show each look at a study; returns the last one."""
    now: StudyStatus | None = None
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for now in looks:
                table = status_table(now, max_rows=console.height - ROWS_AROUND)
                live.update(table, refresh=True)
    else:
        before = None
        for now in looks:
            for line in events(before, now):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            before = now
    assert now is not None
    return now


def _list_studies(root: str, as_json: bool) -> None:
    found = [_summary(root, study_id) for study_id in list_studies(root)]
    if as_json:
        click.echo(json.dumps({"store": root, "studies": found}, indent=2))
    elif found:
        _console(sys.stdout.isatty()).print(_studies_table(found), highlight=False)
    else:
        click.echo(f"no studies in {root}; sparsing run quickstart makes one")


def _summary(root: str, study_id: str) -> dict:
    """A study in one row; `error` where it cannot be read, which must not hide the others."""
    try:
        return StudyStatus.read(StudyStore.open(root, study_id)).summary()
    except SparsingError as error:
        return {"study": study_id, "error": str(error)}


def _studies_table(found: list[dict]) -> Table:
    table = Table(box=None)
    for name in ("study", "runs", "tokens done", "newest row"):
        table.add_column(name, justify="left" if name in ("study", "runs") else "right")
    for row in found:
        if "error" in row:
            table.add_row(row["study"], f"[red]{escape(row['error'])}[/]")
            continue
        runs = ", ".join(f"{count} {state}" for state, count in row["states"].items() if count)
        share = f"{row['tokens'] / row['tokens_planned']:.1%}"
        table.add_row(row["study"], runs, share, duration_text(row["age_seconds"]))
    return table
