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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from sparsing.actors.orchestration.cluster.nodes import Node
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError
from sparsing.study.ray_address import address_alone, check_dashboard, token_problem
from sparsing.study.version import ROOT, VERSION_VARIABLE, code_version

DEFINITION = "study.json"
POLL_SECONDS = 0.5
SETTLE_SECONDS, LONG_AGO_SECONDS = 5.0, 300.0
"""Ray goes on watching a job for some seconds after its end, by its id: a job that takes the id
over meanwhile is called failed when the old one's supervisor is found dead. Clocks may differ by
less than the second."""
START_SECONDS = 60.0
"""A job that was submitted is at work within this time, or it is said that it is not."""
MOST_NODES = 10_000
"""Ray answers with no more."""


def connect_jobs(address: str) -> JobSubmissionClient:
    """A client of the cluster's Jobs API; warns where it is used without a token.

    Raises:
        DefinitionError: that is no dashboard's address.
        NotFoundError: no cluster answers there.
    """
    check_dashboard(address)
    if problem := token_problem(address):
        click.echo(f"warning: {problem}", err=True)
    try:
        with address_alone() as masked:
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
    for name, elsewhere in masked.items():
        if elsewhere != address:
            click.echo(f"warning: {name}={elsewhere} is left aside: --address {address}", err=True)
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
    return client


def nodes_there(address: str) -> list[Node]:
    """The nodes of a cluster that are alive, asked of its dashboard.

    Raises:
        SparsingError: the dashboard cannot say.
    """
    try:
        # A filter of Ray's own makes it miss the dead nodes, and refuse to answer.
        with address_alone():
            found = list_nodes(address, limit=MOST_NODES, detail=True)
    except (RayStateApiException, OSError, RuntimeError, LookupError, TypeError) as error:
        raise SparsingError(
            f"the cluster's dashboard at {address} could not say which nodes it has: "
            f"{_told(error)}; `ray status` on the head tells whether the cluster is well"
        ) from error
    alive = (node for node in found if node.state == "ALIVE")
    return [Node(resources=n.resources_total or {}, labels=n.labels or {}) for n in alive]


def _told(error: Exception) -> str:
    """What an error of Ray's state API says, without Ray's advice on installing it."""
    if isinstance(error, LookupError | TypeError):
        return f"its answer is not in Ray's words ({type(error).__name__}: {error})"
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0].partition(" for url:")[0][:300]


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

    Raises:
        DefinitionError: it is at work there already, in another store.
        SparsingError: the cluster refuses it.

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
        "sparsing.actors.orchestration.job_entry",
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
            job = client.get_job_info(study_id)
            if not job.status.is_terminal():
                _check_store(study_id, (job.metadata or {}).get("store", root), root)
                return False
            client.delete_job(study_id)
    return False


def _check_store(study_id: str, there: str, wanted: str) -> None:
    if there != wanted:
        raise DefinitionError(
            f"--store {wanted}: {study_id} is at work on this cluster in the store {there}; give "
            f"that one, or stop it first: sparsing stop {study_id} --store {there}"
        )


def _wait_while_watched(client: JobSubmissionClient, job_id: str) -> None:
    """Return once Ray does not watch a job any more that has ended, or at once if it has not."""
    job = client.get_job_info(job_id)
    ended_seconds = (job.end_time or math.inf) / 1000
    if job.status.is_terminal() and time.time() - ended_seconds < LONG_AGO_SECONDS:
        time.sleep(SETTLE_SECONDS)


def follow_start(client: JobSubmissionClient, study_id: str, at_work: Callable[[], bool]) -> str:
    """What became of a job that was just submitted, in words.

    Args:
        client: of the cluster.
        study_id: of the study, and the job.
        at_work: whether the store says that a controller works on it; False where it is not seen.

    Raises:
        SparsingError: it failed, for a reason that is said.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        job = client.get_job_info(study_id)
        if job.status == JobStatus.SUCCEEDED:
            return "is at its end: nothing is left to do"
        if job.status.is_terminal():
            said = [line for line in client.get_job_logs(study_id).splitlines() if line.strip()]
            why = said[-1].removeprefix("error: ") if said else job.message
            raise SparsingError(f"{study_id} did not start: {why}")
        if at_work():
            return "is at work"
        time.sleep(POLL_SECONDS)
    return (
        f"is submitted, and no controller was at work within {START_SECONDS:.0f} s: "
        f"sparsing logs {study_id} says why, and sparsing status {study_id} when one is"
    )


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
