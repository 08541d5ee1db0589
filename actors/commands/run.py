"""`sparsing run`: train, measure and fit a study on Ray, here or on a cluster."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import click

from sparsing.study.commands.options import store_option
from sparsing.study.errors import RunsFailedError

if TYPE_CHECKING:
    from sparsing.study.store.study_store import StudyStore


@click.command()
@click.argument("study")
@store_option
@click.option("--address", help="Ray cluster, for example `auto`; default: Ray in this process.")
@click.option(
    "--metrics-port",
    default=9464,
    show_default=True,
    help="Law service on loopback: /metrics, JSON, report; 0 chooses a free port.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def run(study: str, root: str, address: str | None, metrics_port: int, as_json: bool) -> None:
    """Train, measure and fit STUDY (a YAML file or a preset); end with its report.

    Ctrl-C stops it; the same command again goes on where it stopped.

    \b
    Examples:
      sparsing run quickstart
      sparsing run my-study.yaml --address auto --store /shared/sparsing
    """
    from sparsing.actors.data.study_data import create_store
    from sparsing.study.definition.load import load_study
    from sparsing.study.store.study_store import need_folder

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    definition = load_study(study)
    run_here(create_store(need_folder(root), definition), address, metrics_port, as_json)


def run_here(store: StudyStore, address: str | None, metrics_port: int, as_json: bool) -> None:
    """Bring a study to its end, shown on this terminal, and say where its report is.

    Raises:
        RunsFailedError: some of its runs failed.
    """
    from sparsing.actors.orchestration.running import run_study

    failed = run_study(store, address, metrics_port)
    report = store.path / "report.html"
    if as_json:
        outcome = {"study": store.study_id, "report": str(report), "failed": failed}
        click.echo(json.dumps(outcome))
    else:
        click.echo(f"report: {report}")
    if failed:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise RunsFailedError(
            f"{len(failed)} runs failed; the same command again tries them again\n{listed}"
        )
