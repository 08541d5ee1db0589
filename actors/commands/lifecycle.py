"""The commands of a study's life on a cluster: `sparsing submit`, `stop`, `resume`, `logs`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from sparsing.actors.commands.on_cluster import address_option, cluster_options, run_elsewhere
from sparsing.study.commands.options import store_option
from sparsing.study.errors import NotFoundError

if TYPE_CHECKING:
    from sparsing.actors.orchestration.cluster.submission import Submission


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
    from sparsing.actors.orchestration.cluster.submission import hand_over
    from sparsing.study.definition.load import load_study

    ship = code == "ship"
    done = hand_over(load_study(study), root, address, ship_code=ship, python=python)
    _say(done, as_json, "submitted" if done.submitted else "at work there already")


def _say(done: Submission, as_json: bool, what: str) -> None:
    if as_json:
        click.echo(json.dumps(done.as_dict()))
        return
    click.echo(done.study_id)
    click.echo(f"{what}; see it with: sparsing watch {done.study_id} --store {done.root}", err=True)


def _resume_there(
    study_id: str, root: str, address: str, code: str, python: str, as_json: bool
) -> None:
    """Resume a study on a cluster, and say what became of it."""
    from sparsing.actors.orchestration.cluster.submission import resume_there

    done, what = resume_there(study_id, root, address, ship_code=code == "ship", python=python)
    _say(done, as_json, f"{study_id} {what}")


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
    from sparsing.study.store.study_store import StudyStore

    store = StudyStore.open(root, study)
    if run:
        from sparsing.study.plan.runs import find_run, plan_runs
        from sparsing.study.store.control.requests import request_stop

        find_run(plan_runs(store.study), run, store.study_id)
        request_stop(store.path, run)
        click.echo(f"{run} is stopped within seconds, or not started")
        return
    from sparsing.study.store.control.stopping import stop_study

    if stop_study(store.path):
        click.echo(f"{store.study_id} is stopped; sparsing resume {store.study_id} goes on")
    else:
        click.echo(f"no controller of {store.study_id} is at work: nothing to stop")


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
    from sparsing.study.store.study_store import StudyStore

    try:
        store = StudyStore.open(root, study)
    except NotFoundError:
        if not address or run:
            raise
        _resume_there(study, root, address, code, python, as_json)
        return
    if run:
        from sparsing.study.plan.runs import find_run, plan_runs
        from sparsing.study.store.control.lease_watch import is_held
        from sparsing.study.store.control.requests import withdraw_stop

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
    from sparsing.study.status.history import history
    from sparsing.study.store.study_store import StudyStore

    for line in history(StudyStore.open(root, study), run):
        click.echo(line)
