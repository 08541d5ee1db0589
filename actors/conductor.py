"""Bringing a study to its end: Ray, data, the controller's loop, refits, and the live view."""

from __future__ import annotations

import threading
from typing import Any

import click
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster import check_room, connect
from actors.controller import Controller
from actors.data.prepare import prepare
from actors.gang import last_line, worker_environment
from actors.laws import LOOPBACK, LawService
from analysis.server import check_address
from study.errors import SparsingError
from study.plan import plan_runs
from study.status_commands import live_view
from study.store import StudyStore

TICK_SECONDS = 0.25
LAW_SERVICE_RESTARTS = 10


def conduct(store: StudyStore, address: str | None, metrics_port: int) -> dict[str, str]:
    """Bring the study to its end on Ray, showing progress on stderr.

    Returns:
        The runs that failed, with the reason.

    Raises:
        DefinitionError: the cluster has no room for a run, the data are not there, or the
            metrics port is taken.
        SparsingError: Ray, the store or the law service failed; the study can be resumed.
    """
    connect(address)
    try:
        check_room(store.study.resources)
        check_address(LOOPBACK, metrics_port)
        data = prepare(store.study, store.path.parent / "data", _say)
        conductor = Conductor(store, str(data.path), metrics_port)
        conductor.start()
        try:
            live_view(store, until=lambda: not conductor.is_alive())
        finally:
            conductor.stop()
        return conductor.failed
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, SparsingError):
            raise cause from None
        raise SparsingError(f"{last_line(error)}; the same command again goes on") from error
    finally:
        ray.shutdown()


class Conductor(threading.Thread):
    """Turns the controller's loop beside the live view; the law service refits by itself."""

    def __init__(self, store: StudyStore, data_path: str, metrics_port: int) -> None:
        super().__init__(name="controller", daemon=True)
        self._store = store
        self.controller = Controller(store, data_path)
        self._laws = start_law_service(store, metrics_port)
        self._laws_url: Any = self._laws.url.remote()
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self.failed: dict[str, str] = {}

    def run(self) -> None:
        """Tick until every run ended, then refit a last time and seal the tables."""
        try:
            while not self.controller.ended and not self._stopping.is_set():
                self.controller.tick()
                self._say_where_laws_are()
                self._stopping.wait(TICK_SECONDS)
            if not self._stopping.is_set():
                ray.get(self._laws.refit.remote())
                self._seal()
            self.failed = self.controller.failed
        except BaseException as error:
            # Raised again by `stop`, in the thread that shows it.
            self._error = error

    def _seal(self) -> None:
        """Other readers see what is sealed: of an ended run, all."""
        for run in plan_runs(self._store.study):
            try:
                self._store.seal(run.id)
            except BlockingIOError:
                _say(f"{run.id}: others write to it; `sparsing store compact` will seal it")

    def _say_where_laws_are(self) -> None:
        """Once, as soon as the law service has started, which training does not wait for."""
        if self._laws_url and ray.wait([self._laws_url], timeout=0)[0]:
            _say(f"law service: {ray.get(self._laws_url)} (report, JSON, /metrics)")
            self._laws_url = None

    def stop(self) -> None:
        """End the loop and all actors.

        Raises:
            BaseException: what ended the loop, if that was an error.
        """
        self._stopping.set()
        self.join()
        self.controller.stop()
        if self._error:
            raise self._error


def start_law_service(store: StudyStore, metrics_port: int) -> Any:
    """The law service on this node, on whose loopback it serves."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(LawService).options(
        num_cpus=0,
        max_restarts=LAW_SERVICE_RESTARTS,
        max_task_retries=LAW_SERVICE_RESTARTS,
        scheduling_strategy=here,
        runtime_env=worker_environment(threads=1),
    )
    return actor.remote(str(store.path), metrics_port)


def _say(line: str) -> None:
    click.echo(line, err=True)
