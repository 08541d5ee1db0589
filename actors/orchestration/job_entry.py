"""What a Ray job of ours runs: `python -m ...job_entry STUDY --store ROOT`.

Starts the study's detached actor and shows in the job's log how it goes on. Ending this process, or
the job, ends the showing only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sparsing.actors.orchestration.cluster.jobs import read_definition
from sparsing.actors.orchestration.driver import drive
from sparsing.study.errors import SparsingError
from sparsing.study.store.control.journal import Journal
from sparsing.study.store.control.requests import mark_submitted
from sparsing.study.store.study_store import StudyStore


@click.command()
@click.argument("study")
@click.option("--store", "root", required=True)
def main(study: str, root: str) -> None:
    """Bring STUDY to its end on the cluster that this job runs on."""
    try:
        definition = read_definition(Path.cwd())
        store = StudyStore.create(root, definition) if definition else StudyStore.open(root, study)
        mark_submitted(store.path)
        failed = _drive(store)
    except SparsingError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    for run, reason in failed.items():
        click.echo(f"{run} failed: {reason}", err=True)
    sys.exit(4 if failed else 0)


def _drive(store: StudyStore) -> dict[str, str]:
    """`drive`, whose error is also said where `sparsing logs` finds it: nobody reads along."""
    try:
        return drive(store, "auto", metrics_port=0, detached=True)
    except SparsingError as error:
        Journal(store.path).say(f"error: {error}")
        raise


if __name__ == "__main__":
    main()
