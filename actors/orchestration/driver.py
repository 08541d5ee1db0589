"""The driver: starts a study's actor on Ray, or finds it at work, and shows it until its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import ray

from sparsing.actors.orchestration.cluster.nodes import check_room, connect, nodes_of_cluster
from sparsing.actors.orchestration.embedded import embedded_ray
from sparsing.actors.orchestration.gang import last_line
from sparsing.actors.orchestration.interruption import take_signals
from sparsing.actors.orchestration.study_actor import (
    STOP_SECONDS,
    Outcome,
    find_study_actor,
    start_study_actor,
)
from sparsing.analysis.service.web.server import check_address
from sparsing.study.display.live import live_view
from sparsing.study.errors import SparsingError
from sparsing.study.status.run_state import RunState
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.control.journal import Journal
from sparsing.study.store.control.requests import withdraw_stop
from sparsing.study.store.study_store import StudyStore

LOOPBACK = "127.0.0.1"
ANSWER_SECONDS = 2.0
"""An actor whose work has ended says so within this time."""
POLL_SECONDS = 0.2


def drive(
    store: StudyStore, ray_at: str | Path, metrics_port: int, *, detached: bool = False
) -> dict[str, str]:
    """Bring the study to its end on Ray, showing progress on stderr.

    A study that is at work on the cluster is followed. Whoever started it, and not detached, ends
    it when this is interrupted.

    Args:
        store: the study's store.
        ray_at: address of a Ray cluster, or the folder for the files of a Ray in this process.
        metrics_port: of the law service.
        detached: the study goes on when this process ends.

    Returns:
        The runs that failed, with the reason.

    Raises:
        DefinitionError: the cluster has no room for a run, the data are not there, or the
            metrics port is taken.
        SparsingError: Ray, the store or the law service failed, or the study was stopped; it can
            be resumed.
    """
    if isinstance(ray_at, Path):
        check_address(LOOPBACK, metrics_port)
    with embedded_ray(ray_at) if isinstance(ray_at, Path) else connected(ray_at):
        take_signals()  # Ray has taken SIGTERM
        try:
            outcome = _bring_to_its_end(store, metrics_port, detached)
        except ray.exceptions.RayError as error:
            raise SparsingError(f"{last_line(error)}; the same command again goes on") from error
    if outcome.error:
        raise outcome.error
    if outcome.stopped:
        raise SparsingError(f"stopped; sparsing resume {store.study_id} goes on")
    return outcome.failed


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Within it this process is connected to the cluster at `address`; NotFoundError without it."""
    connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def _bring_to_its_end(store: StudyStore, metrics_port: int, detached: bool) -> Outcome:
    actor, ours = _at_work(store), False
    if actor is None:
        check_room(store.study.resources, nodes_of_cluster())
        withdraw_stop(store.path)
        actor = start_study_actor(store.path, metrics_port, detached=detached)
        ours = not detached
    else:
        click.echo(f"{store.study_id} is at work: following it", err=True)
    try:
        return _follow(actor, store)
    except KeyboardInterrupt:
        if ours:
            ray.get(actor.stop.remote(), timeout=STOP_SECONDS)
        raise


def _at_work(store: StudyStore) -> Any | None:
    """The study's actor, unless its work has ended: then it is ended as well."""
    actor = find_study_actor(store.path)
    if actor is None or not ray.wait([actor.outcome.remote()], timeout=ANSWER_SECONDS)[0]:
        return actor
    ray.kill(actor, no_restart=True)
    deadline = time.monotonic() + STOP_SECONDS
    while find_study_actor(store.path) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)  # until its name is free
    return None


def _follow(actor: Any, store: StudyStore) -> Outcome:
    """Show the study until its actor's work has ended."""
    journal = Journal(store.path)
    journal.skip()
    ended = actor.outcome.remote()

    def has_ended() -> bool:
        for line in journal.new_lines():
            click.echo(line.partition(" ")[2], err=True)
        return bool(ray.wait([ended], timeout=0)[0])

    live_view(store, until=has_ended)
    has_ended()
    try:
        return ray.get(ended)
    except ray.exceptions.RayActorError:
        # It ended and is gone: the store knows how.
        now = StudyStatus.read(store)
        if not now.ended:
            raise
        runs = {r.run.id: r.reason or "" for r in now.runs if r.state == RunState.FAILED}
        return Outcome(failed=runs, stopped=bool(now.states[RunState.STOPPED]))
