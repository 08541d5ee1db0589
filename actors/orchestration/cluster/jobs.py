"""A study as a Ray job: its definition and our code travel, its actor stays when the job's driver
dies.

The job's id is the study's: Ray refuses an id that is in use, so that of two submissions at once
one starts the study and the other finds it at work.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_nodes

from sparsing.actors.orchestration.cluster.nodes import Node
from sparsing.study.definition.model import Study
from sparsing.study.errors import NotFoundError, SparsingError
from sparsing.study.ray_address import token_problem
from sparsing.study.version import ROOT, VERSION_VARIABLE, code_version

DEFINITION = "study.json"
POLL_SECONDS = 0.5
SETTLE_SECONDS, LONG_AGO_SECONDS = 5.0, 300.0
"""Ray goes on watching a job for some seconds after its end, by its id: a job that takes the id
over meanwhile is called failed when the old one's supervisor is found dead. Clocks may differ by
less than the second."""
MOST_NODES = 10_000
"""Ray answers with no more."""


def connect_jobs(address: str) -> JobSubmissionClient:
    """A client of the cluster's Jobs API; warns where it is used without a token.

    Raises:
        NotFoundError: no cluster answers there.
    """
    if problem := token_problem(address):
        click.echo(f"warning: {problem}", err=True)
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise NotFoundError(
            f"no Ray dashboard at '{address}': {error}; it is the head's port 8265 where the "
            "cluster was started with ray[default]"
        ) from None
    except AuthenticationError:
        raise SparsingError(
            f"the cluster at {address} wants its token: set RAY_AUTH_MODE=token, and put the token "
            "into ~/.ray/auth_token, RAY_AUTH_TOKEN or the file that RAY_AUTH_TOKEN_PATH names"
        ) from None
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
    return client


def nodes_there(address: str) -> list[Node]:
    """The nodes of a cluster that are alive, asked of its dashboard."""
    found = list_nodes(address, filters=[("state", "=", "ALIVE")], limit=MOST_NODES, detail=True)
    return [Node(resources=n.resources_total or {}, labels=n.labels or {}) for n in found]


def submit_study(
    client: JobSubmissionClient,
    study_id: str,
    root: str,
    definition: Study | None,
    *,
    ship_code: bool,
    python: str,
) -> bool:
    """Have a study brought to its end on the cluster; False where it is at work there already.

    Args:
        client: of the cluster.
        study_id: of the study.
        root: of the store, as the cluster's nodes see it.
        definition: None where the store has it.
        ship_code: bring our packages; else the nodes have them.
        python: of the nodes.
    """
    words = [
        python,
        "-m",
        "sparsing.actors.orchestration.cluster.job_entry",
        study_id,
        "--store",
        root,
    ]
    with tempfile.TemporaryDirectory(prefix="sparsing-submit-") as folder:
        if definition:
            (Path(folder) / DEFINITION).write_text(definition.model_dump_json())
        else:
            (Path(folder) / "README").write_text("the store has the study's definition\n")
        environment = _environment(folder, ship_code)
        for _ in range(2):
            try:
                client.submit_job(
                    entrypoint=shlex.join(words),
                    submission_id=study_id,
                    runtime_env=environment,
                    metadata={"study": study_id, "store": root},
                )
                return True
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise SparsingError(f"the cluster refuses the study: {error}") from error
            _wait_while_watched(client, study_id)
            if not client.get_job_status(study_id).is_terminal():
                return False
            client.delete_job(study_id)
    return False


def _wait_while_watched(client: JobSubmissionClient, job_id: str) -> None:
    """Return once Ray does not watch a job any more that has ended, or at once if it has not."""
    job = client.get_job_info(job_id)
    ended_seconds = (job.end_time or math.inf) / 1000
    if job.status.is_terminal() and time.time() - ended_seconds < LONG_AGO_SECONDS:
        time.sleep(SETTLE_SECONDS)


def run_there(
    client: JobSubmissionClient, arguments: list[str], *, ship_code: bool, python: str
) -> None:
    """Run a command of ours on the cluster, which sees the store, and print what it prints.

    Raises:
        SparsingError: it failed.
    """
    words = shlex.join([python, "-m", "sparsing", *arguments])
    with tempfile.TemporaryDirectory(prefix="sparsing-command-") as folder:
        (Path(folder) / "README").write_text("a command of sparsing\n")
        job = client.submit_job(entrypoint=words, runtime_env=_environment(folder, ship_code))
    status, shown = JobStatus.PENDING, 0
    try:
        while not status.is_terminal():
            time.sleep(POLL_SECONDS)
            status = client.get_job_status(job)
            # Ray's own words come first, and end with the command.
            told = client.get_job_logs(job).partition(f"{words}\n")[2]
            click.echo(told[shown:], nl=False)
            shown = len(told)
    finally:
        if not status.is_terminal():
            client.stop_job(job)
    client.delete_job(job)
    if status != JobStatus.SUCCEEDED:
        raise SparsingError(f"sparsing {' '.join(arguments)} failed on the cluster, see above")


def _environment(folder: str, ship_code: bool) -> dict[str, Any]:
    environment: dict[str, Any] = {"working_dir": folder, "excludes": ["__pycache__"]}
    if ship_code:
        environment["py_modules"] = [str(ROOT)]
        environment["env_vars"] = {VERSION_VARIABLE: code_version()}
    return environment


def read_definition(folder: Path) -> Study | None:
    """The definition that travelled with a job; None where it was left in the store."""
    file = folder / DEFINITION
    return Study.model_validate(json.loads(file.read_text())) if file.exists() else None
