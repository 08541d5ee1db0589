"""The commands of a study's life on a cluster: `sparsing submit`, `stop`, `resume`, `logs`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from sparsing.study.commands.on_cluster import address_option, cluster_options, run_elsewhere
from sparsing.study.commands.options import store_option
from sparsing.study.definition.load import load_study
from sparsing.study.errors import NotFoundError, SparsingError
from sparsing.study.plan.runs import find_run, plan_runs
from sparsing.study.status.run_history import changes_of_state
from sparsing.study.store.control.journal import JOURNAL
from sparsing.study.store.control.lease import holder_of
from sparsing.study.store.control.lease_watch import is_held
from sparsing.study.store.control.requests import request_stop, withdraw_stop
from sparsing.study.store.study_store import StudyStore, need_folder

DRIVER_SECONDS = 20.0
"""A job's driver ends so long after its study at most."""
STOP_SECONDS = 60.0


@click.command()
@click.argument("study")
@store_option
@address_option(required=True)
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def submit(study: str, root: str, address: str, code: str, python: str, as_json: bool) -> None:
    """Hand STUDY (a YAML file or a preset) to a Ray cluster, and return at once.

    The cluster goes on when this terminal is closed. A study that is at work there is left to it;
    one that was stopped, or failed, is resumed; of a finished one nothing is trained again. The
    store is a folder that all nodes see, by the path that they see it at.

    \b
    Examples:
      sparsing submit my-study.yaml --address http://head:8265 --store /shared/sparsing
      sparsing submit quickstart --address http://127.0.0.1:8265
    """
    definition = load_study(study)
    plan_runs(definition)
    new = _submit(definition.study_id, root, address, code, python, definition)
    what = "submitted" if new else "at work there already"
    _say(definition.study_id, root, as_json, new, what)


def _submit(
    study_id: str, root: str, address: str, code: str, python: str, definition: Any
) -> bool:
    """Have a study at work on the cluster; False where it was at work there already."""
    from sparsing.actors.orchestration.cluster.jobs import connect_jobs, nodes_there, submit_study
    from sparsing.actors.orchestration.cluster.nodes import check_room

    root = str(need_folder(root))
    client = connect_jobs(address)
    if definition:
        check_room(definition.resources, nodes_there(address))
    hand_over = partial(
        submit_study, client, study_id, root, definition, ship_code=code == "ship", python=python
    )
    path, deadline = Path(root) / study_id, time.monotonic() + DRIVER_SECONDS
    while not (new := hand_over()) and path.exists() and time.monotonic() < deadline:
        if is_held(path):
            break
        time.sleep(1)  # the driver of a study that has just been stopped is about to end
    return new


def _say(study_id: str, root: str, as_json: bool, new: bool, what: str) -> None:
    root = str(need_folder(root))
    if as_json:
        click.echo(json.dumps({"study": study_id, "store": root, "submitted": new}))
        return
    click.echo(study_id)
    click.echo(f"{what}; see it with: sparsing watch {study_id} --store {root}", err=True)


def _resume_there(
    study_id: str, root: str, address: str, code: str, python: str, as_json: bool
) -> None:
    """Resume a study on a cluster, and say what became of it."""
    from sparsing.actors.orchestration.cluster.jobs import connect_jobs, follow_start

    path = need_folder(root) / study_id
    before = holder_of(path) if path.exists() else None
    new = _submit(study_id, root, address, code, python, None)

    def at_work() -> bool:
        now = holder_of(path) if path.exists() else None
        return now is not None and not now.released and now.token > (before.token if before else 0)

    what = (
        follow_start(connect_jobs(address), study_id, at_work)
        if new
        else "is at work there already"
    )
    _say(study_id, root, as_json, new, f"{study_id} {what}")


@click.command()
@click.argument("study")
@click.argument("run", required=False)
@store_option
@address_option()
@cluster_options
def stop(
    study: str, run: str | None, root: str, address: str | None, code: str, python: str
) -> None:
    """Stop STUDY, or one RUN of it; `sparsing resume` goes on from the newest checkpoint.

    The request is written into the store, which the study's controller looks at every second; no
    connection to the cluster is needed. With --address the request is made on the cluster, for a
    store that only its nodes see.

    \b
    Examples:
      sparsing stop quickstart
      sparsing stop quickstart relu-d32x4-wd8-s0
    """
    if address:
        run_elsewhere(["stop", study, *([run] if run else [])], root, address, code, python)
        return
    store = StudyStore.open(root, study)
    if run:
        find_run(plan_runs(store.study), run, store.study_id)
        request_stop(store.path, run)
        click.echo(f"{run} is stopped within seconds, or not started")
    elif is_held(store.path):
        request_stop(store.path)
        _wait_until_released(store)
        click.echo(f"{store.study_id} is stopped; sparsing resume {store.study_id} goes on")
    else:
        click.echo(f"no controller of {store.study_id} is at work: nothing to stop")


def _wait_until_released(store: StudyStore) -> None:
    """Until the controller that was asked has stopped everything, and let the study go."""
    deadline = time.monotonic() + STOP_SECONDS
    while (holder := holder_of(store.path)) and not holder.released:
        if time.monotonic() > deadline:
            raise SparsingError(
                f"asked {holder.owner} to stop {store.study_id}; it has not within "
                f"{STOP_SECONDS:g} s, and will as soon as it looks"
            )
        time.sleep(0.2)


@click.command()
@click.argument("study")
@click.argument("run", required=False)
@store_option
@address_option()
@cluster_options
@click.option(
    "--metrics-port",
    default=9464,
    show_default=True,
    help="Law service on loopback, without --address; 0 chooses a free port.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def resume(
    study: str,
    run: str | None,
    root: str,
    address: str | None,
    code: str,
    python: str,
    metrics_port: int,
    as_json: bool,
) -> None:
    """Go on with STUDY from its store, whatever ended it; needs no definition file.

    Here, as `sparsing run` does, or on the cluster at --address, as `sparsing submit` does. With
    RUN, takes back `sparsing stop` of that run: a controller at work then goes on with it.

    \b
    Examples:
      sparsing resume quickstart
      sparsing resume quickstart --address http://head:8265 --store /shared/sparsing
    """
    try:
        store = StudyStore.open(root, study)
    except NotFoundError:
        if not address or run:
            raise
        _resume_there(study, root, address, code, python, as_json)
        return
    if run:
        find_run(plan_runs(store.study), run, store.study_id)
        withdraw_stop(store.path, run)
        if is_held(store.path):
            click.echo(f"{store.study_id} is at work, and goes on with {run}")
            return
    if address:
        _resume_there(store.study_id, str(store.path.parent), address, code, python, as_json)
    else:
        from sparsing.actors.commands.run import run_here

        run_here(store, None, metrics_port, as_json)


@click.command()
@click.argument("study")
@click.argument("run", required=False)
@store_option
@address_option()
@cluster_options
def logs(
    study: str, run: str | None, root: str, address: str | None, code: str, python: str
) -> None:
    """Show what happened to STUDY, or one RUN: changes of state with reasons, controllers' words.

    Reads the store alone; with --address it is read on the cluster, for a store that only its nodes
    see. What the processes themselves print is in Ray's dashboard and `ray logs`.

    \b
    Examples:
      sparsing logs quickstart
      sparsing logs quickstart relu-d32x4-wd8-s0
    """
    if address:
        run_elsewhere(["logs", study, *([run] if run else [])], root, address, code, python)
        return
    store = StudyStore.open(root, study)
    if run:
        find_run(plan_runs(store.study), run, store.study_id)
    lines = [*_changes(store, run), *([] if run else _said(store))]
    for _, line in sorted(lines, key=itemgetter(0)):
        click.echo(line)
    holder = holder_of(store.path)
    if holder and not run:
        ended = ", which has ended" if holder.released or holder.process.gone else ""
        click.echo(f"newest controller: {holder.owner}, token {holder.token}{ended}")


def _changes(store: StudyStore, run: str | None) -> Iterator[tuple[str, str]]:
    """A line for each change of state, each run's in their order, and the time to sort it by.

    The line says the time of the machine that wrote the row. It is sorted by that time only as
    far as the run's other rows allow it: a shard's clock may be ahead or behind.
    """
    columns = ["run", "written_at", "attempt", "state", "reason", "device"]
    by_run = changes_of_state(store, run, columns).collect().partition_by("run")
    for rows in by_run:
        changes = list(rows.iter_rows(named=True))
        for row, when in zip(changes, _times_in_order(changes), strict=True):
            said = f"{row['run']}: {row['state']}, attempt {row['attempt']}"
            reason = f": {row['reason']}" if row["reason"] else ""
            yield _time_text(when), f"{_time_text(row['written_at'])} {said}{reason}"


def _times_in_order(changes: list[dict[str, Any]]) -> Iterator[datetime]:
    """Times of a run's rows that never decrease; a shard's is not after the next controller's."""
    times = [row["written_at"] for row in changes]
    for i in range(len(times) - 2, -1, -1):
        if changes[i]["device"] is not None:
            times[i] = min(times[i], times[i + 1])
    return accumulate(times, max)


def _time_text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds")


def _said(store: StudyStore) -> Iterator[tuple[str, str]]:
    """What the controllers said, with its time."""
    file = store.path / JOURNAL
    for line in file.read_text("utf-8", "replace").splitlines() if file.exists() else []:
        yield line.partition(" ")[0], line
