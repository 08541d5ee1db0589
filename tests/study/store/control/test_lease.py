"""One controller at a time: leases under stopped, killed and racing processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import lease_holder
import pytest

from sparsing.study.errors import FencedError, SparsingError
from sparsing.study.store.control.lease import (
    Process,
    Record,
    acquire,
    check_token,
    holder_of,
    study_cell,
)
from sparsing.study.store.io.cells import FolderCell

HOLDER = Path(lease_holder.__file__)
SPAN_SECONDS = 0.6


@pytest.fixture
def cell(tmp_path: Path) -> FolderCell:
    return FolderCell(tmp_path / "cell", "lease")


def elsewhere(token: int = 7) -> Record:
    """A holder on a machine of which nothing can be seen from here."""
    process = Process(machine="another", pid=1, started="1")
    return Record(owner="other", holder="x", token=token, seconds=SPAN_SECONDS, process=process)


def test_a_cell_is_replaced_only_by_who_saw_its_newest_version(cell: FolderCell) -> None:
    assert cell.read() is None
    first = cell.write(b"a", None)
    assert cell.write(b"b", None) is None
    second = cell.write(b"c", first)
    assert cell.write(b"d", first) is None
    assert cell.read() == (b"c", second)


def test_who_stood_still_for_many_versions_changes_nothing(cell: FolderCell) -> None:
    old = version = cell.write(b"0", None)
    for number in range(30):
        version = cell.write(str(number).encode(), version)
    assert cell.write(b"from long ago", old) is None
    assert cell.read() == (b"29", version)


def test_of_many_writers_at_once_one_succeeds(cell: FolderCell) -> None:
    version = cell.write(b"start", None)
    start, won = threading.Barrier(8), []

    def write(number: int) -> None:
        start.wait()
        if cell.write(str(number).encode(), version):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = cell.read()
    assert found
    assert won == [int(found[0])]


def test_a_lease_excludes_the_second_and_follows_the_first(cell: FolderCell) -> None:
    lease = acquire(cell, SPAN_SECONDS)
    with pytest.raises(SparsingError, match=f"at work: .*process {os.getpid()}"):
        acquire(cell, SPAN_SECONDS)
    lease.check()
    lease.release()
    with pytest.raises(FencedError):
        lease.check()
    second = acquire(cell, SPAN_SECONDS)
    assert second.token == lease.token + 1
    second.release()


def test_a_silent_holder_elsewhere_is_followed_after_its_span(cell: FolderCell) -> None:
    cell.write(elsewhere().to_bytes(), None)
    started = time.monotonic()
    lease = acquire(cell, SPAN_SECONDS)
    assert time.monotonic() - started >= SPAN_SECONDS
    assert lease.token == 8
    lease.release()


def test_a_holder_elsewhere_that_renews_is_alive(cell: FolderCell) -> None:
    version = cell.write(elsewhere().to_bytes(), None)
    renewed = replace(elsewhere(), renewal=1).to_bytes()
    threading.Timer(SPAN_SECONDS / 3, cell.write, (renewed, version)).start()
    with pytest.raises(SparsingError, match="at work: other"):
        acquire(cell, SPAN_SECONDS)


def test_a_dead_process_of_this_machine_is_followed_at_once(cell: FolderCell) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    dead = replace(Process.this(), pid=child.pid, started="1")
    cell.write(replace(elsewhere(), seconds=3600.0, process=dead).to_bytes(), None)
    lease = acquire(cell, SPAN_SECONDS)
    assert lease.token == 8
    lease.release()


def test_a_damaged_lease_is_said(cell: FolderCell) -> None:
    for content in (b"", b"[]", b"{}", json.dumps(asdict(elsewhere()) | {"process": 3}).encode()):
        found = cell.read()
        cell.write(content, found[1] if found else None)
        with pytest.raises(SparsingError, match="the lease is damaged"):
            acquire(cell)


def test_a_disk_that_refuses_ends_the_lease(cell: FolderCell, tmp_path: Path) -> None:
    lease = acquire(cell, SPAN_SECONDS)
    (tmp_path / "cell").rename(tmp_path / "gone")
    (tmp_path / "cell").write_text("no folder")
    time.sleep(SPAN_SECONDS)
    with pytest.raises(FencedError, match="lost the study's lease"):
        lease.check()


def test_a_token_is_fenced_by_the_next_holder(tmp_path: Path) -> None:
    check_token(tmp_path, 0)
    for token in (1, 2, 3):
        lease = acquire(study_cell(tmp_path), SPAN_SECONDS)
        assert lease.token == token
        check_token(tmp_path, token)
        with pytest.raises(FencedError, match=f"token {token}"):
            check_token(tmp_path, token - 1)
        lease.release()
    holder = holder_of(tmp_path)
    assert holder
    assert holder.released


@pytest.fixture
def start_holder(tmp_path: Path) -> Iterator:
    started: list[subprocess.Popen] = []

    def start(write_seconds: float) -> subprocess.Popen:
        arguments = [tmp_path / "cell", tmp_path / "lines", SPAN_SECONDS, write_seconds]
        process = subprocess.Popen(
            [sys.executable, HOLDER, *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def checked(file: Path) -> list[tuple[float, int]]:
    """Every successful check, by time: (when it began, token of who checked)."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return sorted((float(when), int(token)) for token, when in lines)


def test_a_stopped_holder_notices_and_writes_nothing(start_holder, tmp_path: Path) -> None:
    """Stopped for longer than the lease's span, then woken while the next one writes."""
    for seed in range(3):
        first = start_holder(60)
        token = int(first.stdout.readline().split()[1])
        time.sleep(random.Random(seed).uniform(0.02, SPAN_SECONDS))
        os.kill(first.pid, signal.SIGSTOP)
        second = start_holder(60)
        assert second.stdout.readline() == f"holds {token + 1}\n"
        os.kill(first.pid, signal.SIGCONT)
        assert first.stdout.readline() == f"fenced {token}\n"
        assert first.wait(10) == 0
        second.terminate()
        second.wait()
        tokens = [each for _, each in checked(tmp_path / "lines")]
        assert tokens == sorted(tokens), f"seed {seed}"
        assert tokens[-1] == token + 1


@pytest.mark.slow
def test_under_random_stops_and_kills_tokens_only_grow(start_holder, tmp_path: Path) -> None:
    """Four processes want the lease for a minute; one after another is stopped, woken, killed."""
    chance = random.Random(0)
    holders = [start_holder(3600) for _ in range(4)]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        victim = chance.randrange(4)
        if chance.random() < 0.3:
            holders[victim].kill()
            holders[victim].wait()
        else:
            os.kill(holders[victim].pid, signal.SIGSTOP)
            time.sleep(chance.uniform(0, 3 * SPAN_SECONDS))
            os.kill(holders[victim].pid, signal.SIGCONT)
            time.sleep(chance.uniform(0, SPAN_SECONDS))
        if holders[victim].poll() is not None:
            holders[victim] = start_holder(3600)
    tokens = [token for _, token in checked(tmp_path / "lines")]
    assert tokens == sorted(tokens)
    assert len(set(tokens)) > 3  # however slow the machine is
