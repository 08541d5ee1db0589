"""The study's actor: holds the lease, prepares data, turns the controller's loop, refits.

It needs nothing but the store's path. Ray starts it again, on another node where its own is lost,
and it finds in the store where the study stands. With `sparsing submit` it is detached: no
driver's and no terminal's death matters to it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sparsing.actors.data.pipeline.progress import StoppedError
from sparsing.actors.data.study_data import RUN as PREPARATION
from sparsing.actors.data.study_data import data_of_study
from sparsing.actors.orchestration.gang import last_line, worker_environment
from sparsing.actors.orchestration.on_ray import controller_on_ray
from sparsing.actors.orchestration.remote_class import remote_class
from sparsing.actors.training.reach import is_cut_off
from sparsing.study.errors import FencedError, SparsingError
from sparsing.study.plan.runs import plan_runs
from sparsing.study.plan.saving import check_room_for_saves
from sparsing.study.store.control.hand_over import GivingWay, acquire_patiently
from sparsing.study.store.control.journal import Journal
from sparsing.study.store.control.lease import Lease, acquire, study_cell
from sparsing.study.store.control.requests import study_is_to_stop
from sparsing.study.store.study_store import StudyStore

WAIT_SECONDS = 0.5
"""The loop looks at whether it is to stop after this time at the latest."""
LAW_SERVICE_RESTARTS = 10
CONTROLLER_RESTARTS = 1000
TRIES = 5
"""After an unexpected error the controller is made anew, from the store, this many times in all."""
PAUSE_SECONDS = 10.0
STOP_SECONDS = 60.0
LINGER_SECONDS = 10.0
"""After its end the actor stays for this time, for those who ask how it ended."""

LawService = remote_class(
    "sparsing.actors.orchestration.law_actor", "LawService", ("url", "refit", "write_report")
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the work of a controller ended."""

    stopped: bool = False
    """By request, before the study's end."""
    failed: dict[str, str] = field(default_factory=dict)
    """Runs that failed, with the reason."""
    error: SparsingError | None = None
    """What ended the work, if it was an error; the study can be resumed."""


class StudyActor:
    """Brings one study to its end; the actor's class.

    Args:
        study_path: the study's folder.
        metrics_port: of its law service, on loopback.
        waits: for its lease, where another controller is at work; so does one that Ray has started
            again. Others are refused.
    """

    def __init__(self, study_path: str, metrics_port: int, waits: bool = False) -> None:
        self._store = StudyStore.open(".", study_path)
        self._metrics_port = metrics_port
        context = ray.get_runtime_context()
        self._id = context.get_actor_id() or ""
        self._waits = waits or context.was_current_actor_reconstructed
        self._journal = Journal(self._store.path)
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._outcome = Outcome()
        threading.Thread(target=self._work, name="controller", daemon=True).start()

    def outcome(self) -> Outcome:
        """How the work ended; returns when it has."""
        self._ended.wait()
        return self._outcome

    def stop(self) -> None:
        """End all actors of the study, and return when its state is in the store."""
        self._stopping.set()
        self._ended.wait(STOP_SECONDS)

    def _work(self) -> None:
        tries = 0
        while tries < TRIES:
            self._outcome, expected = self._try()
            if self._outcome.error:
                self._journal.say(f"the controller ended: {self._outcome.error}")
            if expected or self._stopping.wait(PAUSE_SECONDS):
                break
            # What fails because the cluster is out of reach is tried until it is there again.
            tries += not is_cut_off()
        self._ended.set()
        threading.Event().wait(LINGER_SECONDS)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _try(self) -> tuple[Outcome, bool]:
        """Work until the work ends; how it did, and whether that is an end to expect."""
        try:
            return self._work_alone(), True
        except FencedError as error:
            if self._waits:
                self._end_this_life(str(error))
            return Outcome(error=error), True
        except SparsingError as error:
            return Outcome(error=error), True
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, SparsingError):
                return Outcome(error=cause), True
            return Outcome(error=SparsingError(last_line(error))), False
        except Exception as error:
            self._journal.say(traceback.format_exc())
            return Outcome(error=SparsingError(f"{type(error).__name__}: {error}")), False

    def _work_alone(self) -> Outcome:
        path, say = self._store.path, self._journal.say
        if self._waits:
            lease = acquire_patiently(path, self._id, say, self._stopping.is_set)
        else:
            lease = acquire(study_cell(path))
        try:
            with GivingWay(path, lease, self._id, is_cut_off, self._end_this_life):
                return self._control(lease)
        finally:
            lease.release()

    def _end_this_life(self, why: str) -> None:
        """End this process at once; where the actor is still wanted, Ray starts it again."""
        with suppress(OSError):
            self._journal.say(f"this controller ends: {why}")
        os._exit(1)

    def _control(self, lease: Lease) -> Outcome:
        say = self._journal.say
        check_room_for_saves(self._store.study, self._store.path)
        try:
            data = data_of_study(self._store, say, stopping=self._is_to_stop)
        except StoppedError:
            return Outcome(stopped=True)
        controller = controller_on_ray(self._store, str(data.path), lease)
        laws = start_law_service(self._store, self._metrics_port)
        url: Any = laws.url.remote()
        try:
            while not (controller.ended or self._is_to_stop()):
                controller.tick()
                if url and ray.wait([url], timeout=0)[0]:
                    say(f"law service: {ray.get(url)} (report, JSON, /metrics)")
                    url = None
                controller.wait(WAIT_SECONDS)
            if self._is_to_stop():
                controller.stop_saved("sparsing resume goes on")
                return Outcome(stopped=True)
            ray.get(laws.refit.remote())
            self._seal()
            ray.get(laws.write_report.remote())
            return Outcome(failed=controller.failed)
        finally:
            controller.stop()
            ray.kill(laws, no_restart=True)

    def _is_to_stop(self) -> bool:
        return self._stopping.is_set() or study_is_to_stop(self._store.path)

    def _seal(self) -> None:
        """Other readers see what is sealed: of an ended run, all."""
        for run in [PREPARATION, *(run.id for run in plan_runs(self._store.study))]:
            try:
                self._store.seal(run)
            except BlockingIOError:
                self._journal.say(f"{run}: others write to it; `sparsing store compact` seals it")


def actor_name(study_path: Path) -> str:
    """Of a study's actor; with the path, for a cluster may see several stores."""
    return f"study {study_path.name} {hashlib.sha256(str(study_path).encode()).hexdigest()[:8]}"


def find_study_actor(study_path: Path) -> Any | None:
    """The actor that works on a study on the connected cluster; None where there is none."""
    try:
        return ray.get_actor(actor_name(study_path))
    except ValueError:
        return None


def start_study_actor(study_path: Path, metrics_port: int, *, detached: bool) -> Any:
    """Start the study's actor, or get it where it is at work; ends with the driver, or detached."""
    actor: Any = ray.remote(StudyActor).options(
        name=actor_name(study_path),
        get_if_exists=True,
        lifetime="detached" if detached else None,
        num_cpus=0,
        max_restarts=CONTROLLER_RESTARTS,
        max_task_retries=-1,
        max_concurrency=8,
        runtime_env=worker_environment(threads=1),
    )
    return actor.remote(str(study_path), metrics_port, detached)


def start_law_service(store: StudyStore, metrics_port: int) -> Any:
    """The law service on the controller's node, on whose loopback it serves."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(LawService).options(
        num_cpus=0,
        max_restarts=LAW_SERVICE_RESTARTS,
        max_task_retries=LAW_SERVICE_RESTARTS,
        scheduling_strategy=here,
        runtime_env=worker_environment(threads=1),
    )
    return actor.remote(str(store.path), metrics_port)
