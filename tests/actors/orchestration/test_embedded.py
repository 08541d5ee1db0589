"""A study on this machine: refused where it cannot start, private, and ended by any signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from fault_study import definition
from stores import tiny_store

from sparsing.actors.orchestration.embedded import private_folder, refuse_if_at_work
from sparsing.actors.orchestration.interruption import hangup_blocked, interruptible
from sparsing.study.errors import DefinitionError, SparsingError
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.control.lease import acquire, study_cell
from sparsing.study.store.study_store import StudyStore

PATIENCE_SECONDS = 200.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_interrupt(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def told() -> None:
        with interruptible():
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        told()
    assert signal.getsignal(number) == before


def test_what_is_started_meanwhile_outlives_the_terminal() -> None:
    sleep = [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"]
    with hangup_blocked():
        blocked = subprocess.Popen(sleep, stdout=subprocess.PIPE)
    usual = subprocess.Popen(sleep, stdout=subprocess.PIPE)
    for each in (blocked, usual):
        assert each.stdout
        assert each.stdout.readline()
        each.send_signal(signal.SIGHUP)
    assert usual.wait(30) == -signal.SIGHUP
    assert blocked.poll() is None
    blocked.kill()
    blocked.wait()


def test_other_threads_are_left_alone() -> None:
    def work() -> None:
        with interruptible():
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_ray_s_files_are_private_and_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "token").stat().st_mode & 0o777 == 0o600
        assert len((folder / "token").read_text()) == 64
    assert not folder.exists()


def test_a_path_too_long_for_sockets_is_refused_with_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(DefinitionError, match="RAY_TMPDIR=/tmp"), private_folder():
        pass
    assert list(long.iterdir()) == []


def test_a_study_at_work_is_refused_at_once(tmp_path: Path) -> None:
    store = tiny_store(tmp_path)
    refuse_if_at_work(store)
    lease = acquire(study_cell(store.path))
    try:
        with pytest.raises(SparsingError, match="at work already"):
            refuse_if_at_work(store)
    finally:
        lease.release()
    refuse_if_at_work(store)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["start", "training"])
def test_a_command_that_is_told_to_end_stops_the_study(
    tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    """The whole process group gets the signal, as of a terminal that is closed."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(definition().model_dump(mode="json")))
    words = ["run", str(tmp_path / "study.yaml"), "--store", str(tmp_path), "--metrics-port", "0"]
    with (tmp_path / "output").open("w") as output:
        command = subprocess.Popen(
            [sys.executable, "-m", "sparsing", *words],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=os.environ | {"RAY_worker_niceness": "0"},
        )
    said = lambda: (tmp_path / "output").read_text()  # noqa: E731
    if moment == "training":
        until(lambda: "training" in said(), said)
    else:
        until(lambda: bool(list(tmp_path.glob("*/study.yaml"))), said)
    children = psutil.Process(command.pid).children(recursive=True)
    if number == signal.SIGHUP:
        os.killpg(command.pid, number)
    else:
        command.send_signal(number)
    assert command.wait(PATIENCE_SECONDS) == 130, said()
    assert "Traceback" not in said()
    assert psutil.wait_procs(children, 30)[1] == []
    states = StudyStatus.read(StudyStore.open(tmp_path, "faulty")).states
    assert states["stopped" if moment == "training" else "planned"] == 1


def until(condition: Callable[[], bool], said: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.1)
