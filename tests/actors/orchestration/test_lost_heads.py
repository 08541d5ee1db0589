"""Controller, driver or all of the head's processes killed at random: the same command goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from fault_study import assert_same_rows, definition, newest_attempt

from sparsing.study.store.study_store import StudyStore

FAULTS, SEED = 6, 3
PATIENCE_SECONDS = 240.0
ALLOWED_SECONDS = 60.0
"""From the fault, or the next command, until training is further than it was: 30 s and an interval
between checkpoints, and as much again for Ray to start on a busy machine."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Terminal:
    """A study by `sparsing run`, which is given again when it was killed."""

    def __init__(self, folder: Path) -> None:
        self._file, self._root = folder / "faulty.yaml", folder / "store"
        self._file.write_text(yaml.safe_dump(definition(shards=1).model_dump(mode="json")))
        self.output = folder / "output.txt"
        self.start()

    def start(self) -> None:
        """Give the command."""
        words = ["run", str(self._file), "--store", str(self._root), "--metrics-port", "0"]
        with self.output.open("a") as output:
            self.command = subprocess.Popen(
                [sys.executable, "-m", "sparsing", *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Ray's workers, nice to all others by default, hardly get on on a busy machine.
                env=os.environ | {"RAY_worker_niceness": "0"},
            )

    @property
    def store(self) -> StudyStore:
        return StudyStore.open(self._root, "faulty")

    def rows(self) -> int:
        """Steps in the store."""
        return self.store.count_rows("steps") if list(self._root.glob("*/study.yaml")) else 0

    def attempt(self) -> int:
        """The newest that has trained; 0 before the first."""
        return newest_attempt(self.store)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.output.read_text()[-2000:]
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """All that the command has started."""
        return psutil.Process(self.command.pid).children(recursive=True)

    def lose_controller(self) -> None:
        """SIGKILL to the study's actor, which Ray starts again."""
        for process in self.processes():
            if process.name().startswith("ray::StudyActor"):
                process.kill()

    def lose_driver(self) -> None:
        """SIGKILL to the command; all others notice and end."""
        actors = [p for p in self.processes() if p.name().startswith("ray::")]
        self.command.kill()
        self.command.wait()
        psutil.wait_procs(actors, timeout=20)

    def lose_head(self) -> None:
        """SIGKILL to all at once, as when the power fails."""
        processes = self.processes()
        for process in [*processes, psutil.Process(self.command.pid)]:
            process.kill()
        self.command.wait()

    def goes_on(self) -> None:
        """Give the command again, where it has ended."""
        if self.command.poll() is not None:
            self.start()

    def stop(self) -> None:
        if self.command.poll() is None:
            os.killpg(self.command.pid, signal.SIGKILL)


VICTIMS = {
    "controller": Terminal.lose_controller,
    "driver": Terminal.lose_driver,
    "head": Terminal.lose_head,
}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    started = Terminal(tmp_path)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    alone = Terminal(tmp_path_factory.mktemp("undisturbed"))
    assert alone.command.wait(PATIENCE_SECONDS) == 0, alone.output.read_text()
    return alone.store


def test_killed_again_and_again_it_gives_the_same_rows(
    terminal: Terminal, undisturbed: StudyStore
) -> None:
    """Some 50 of 400 steps lie between two faults; the seed replays their order."""
    chance = random.Random(SEED)
    victims = [name for _ in range(FAULTS // 3) for name in chance.sample(list(VICTIMS), 3)]
    for name in victims:
        more = terminal.rows() + chance.randrange(20, 55)
        terminal.until(lambda m=more: terminal.rows() >= m)
        attempt = terminal.attempt()
        VICTIMS[name](terminal)
        began, before = time.monotonic(), terminal.rows()
        terminal.goes_on()
        terminal.until(lambda a=attempt, b=before: terminal.attempt() > a and terminal.rows() > b)
        lost = time.monotonic() - began
        print(f"{name} at step {before}: {lost:.1f} s lost", flush=True)
        assert lost <= ALLOWED_SECONDS, name
    assert terminal.command.wait(PATIENCE_SECONDS) == 0, terminal.output.read_text()
    assert_same_rows(terminal.store, undisturbed, tolerance=1e-4)
    assert terminal.attempt() == FAULTS + 1
