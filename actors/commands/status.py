"""The commands that look at a study: `sparsing status`, `sparsing watch`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from sparsing.actors.commands.on_cluster import address_option, cluster_options, run_elsewhere
from sparsing.study.commands.options import store_option
from sparsing.study.errors import RunsFailedError, SparsingError


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
    from sparsing.study.display.status import status_table
    from sparsing.study.display.table import show
    from sparsing.study.plan.runs import plan_runs
    from sparsing.study.status.study_status import StatusReader
    from sparsing.study.store.study_store import StudyStore
    from sparsing.study.store.training_data import data_document

    opened = StudyStore.open(root, study)
    now = StatusReader(opened).read_certain()
    if as_json:
        data = data_document(opened.place, plan_runs(opened.study))
        click.echo(json.dumps(now.as_json() | {"data": data}, indent=2))
    else:
        show(status_table(now))


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
    from sparsing.study.display.live import watch_until_ended
    from sparsing.study.store.study_store import StudyStore

    last = watch_until_ended(StudyStore.open(root, study), interval_seconds, sys.stdout)
    if last.states["failed"]:
        raise RunsFailedError(f"{last.states['failed']} runs failed; see sparsing status {study}")


def _list_studies(root: str, as_json: bool) -> None:
    from sparsing.study.display.status import studies_table
    from sparsing.study.display.table import show
    from sparsing.study.store.study_store import list_studies

    found = [_summary(root, study_id) for study_id in list_studies(root)]
    if as_json:
        click.echo(json.dumps({"store": root, "studies": found}, indent=2))
    elif found:
        show(studies_table(found))
    else:
        click.echo(f"no studies in {root}; sparsing run quickstart makes one")


def _summary(root: str, study_id: str) -> dict[str, Any]:
    """A study in one row; `error` where it cannot be read, which must not hide the others."""
    from sparsing.study.status.study_status import StudyStatus
    from sparsing.study.store.study_store import StudyStore

    try:
        return StudyStatus.read(StudyStore.open(root, study_id)).summary()
    except SparsingError as error:
        return {"study": study_id, "error": str(error)}
