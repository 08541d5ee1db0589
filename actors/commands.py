"""`sparsing run`: train, measure and fit a study on Ray, here or on a cluster."""

from __future__ import annotations

import fcntl
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from study.errors import RunsFailedError, SparsingError
from study.load import load_study
from study.store import StudyStore

TICK_SECONDS = 0.25
REFIT_SECONDS = 1.0


@click.command()
@click.argument("study")
@click.option(
    "--store",
    envvar="SPARSING_STORE",
    default="sparsing-store",
    show_default=True,
    help="Folder of the result store.",
)
@click.option("--address", help="Ray cluster, for example `auto`; default: Ray in this process.")
@click.option(
    "--metrics-port",
    default=9464,
    show_default=True,
    help="Prometheus endpoint on loopback; 0 chooses a free port.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def run(study: str, store: str, address: str | None, metrics_port: int, as_json: bool) -> None:
    """Train, measure and fit STUDY (a YAML file or a preset); end with its report.

    Ctrl-C stops it; the same command again goes on where it stopped.

    \b
    Examples:
      sparsing run quickstart
      sparsing run my-study.yaml --address auto --store /shared/sparsing
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    definition = load_study(study)
    study_store = StudyStore.create(store, definition)
    with only_controller(study_store):
        failed = conduct(study_store, address, metrics_port)
    from analysis.report import write_report

    report = write_report(study_store)
    if as_json:
        click.echo(
            json.dumps({"study": study_store.study_id, "report": str(report), "failed": failed})
        )
    else:
        click.echo(f"report: {report}")
    if failed:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise RunsFailedError(
            f"{len(failed)} runs failed; the same command again tries them again\n{listed}"
        )


@contextmanager
def only_controller(store: StudyStore) -> Iterator[None]:
    """Hold the study's lock on this machine: one controller at a time.

    Raises:
        SparsingError: another `sparsing run` of this study is at work.
    """
    with (store.path / ".controller.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SparsingError(
                f"another `sparsing run` of {store.study_id} is at work; "
                f"see it with: sparsing watch {store.study_id}"
            ) from None
        yield


def conduct(store: StudyStore, address: str | None, metrics_port: int) -> dict[str, str]:
    """Bring the study to its end on Ray, showing progress.

    Returns:
        The runs that failed, with the reason.
    """
    import ray

    from actors.cluster import check_room, connect
    from actors.data.prepare import prepare
    from study.status_commands import live_view

    connect(address)
    try:
        check_room(store.study.resources)
        data = prepare(
            store.study, store.path.parent / "data", lambda line: click.echo(line, err=True)
        )
        conductor = Conductor(store, str(data.path), metrics_port)
        conductor.start()
        try:
            live_view(store, until=lambda: not conductor.is_alive())
        finally:
            conductor.stop()
        return conductor.failed
    finally:
        ray.shutdown()


class Conductor(threading.Thread):
    """Turns the controller's loop beside the live view, and asks for refits."""

    def __init__(self, store: StudyStore, data_path: str, metrics_port: int) -> None:
        super().__init__(name="controller", daemon=True)
        import ray

        from actors.controller import Controller
        from actors.gang import worker_environment
        from actors.laws import LawService

        self.controller = Controller(store, data_path)
        service: Any = ray.remote(LawService).options(
            num_cpus=0, runtime_env=worker_environment(threads=1)
        )
        self._laws = service.remote(str(store.path), metrics_port)
        self._refitting = self._laws.refit.remote()
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self.failed: dict[str, str] = {}

    def run(self) -> None:
        """Tick until every run ended, then refit a last time."""
        import ray

        try:
            refitted = time.monotonic()
            while not self.controller.ended and not self._stopping.is_set():
                self.controller.tick()
                if time.monotonic() - refitted > REFIT_SECONDS and self._refit_is_over():
                    self._refitting = self._laws.refit.remote()
                    refitted = time.monotonic()
                self._stopping.wait(TICK_SECONDS)
            ray.get(self._refitting)
            if not self._stopping.is_set():
                ray.get(self._laws.refit.remote())
            self.failed = self.controller.failed
        except BaseException as error:
            self._error = error

    def _refit_is_over(self) -> bool:
        import ray

        done, _ = ray.wait([self._refitting], timeout=0)
        if done:
            ray.get(done)
        return bool(done)

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
