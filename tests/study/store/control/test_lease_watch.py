"""Whether a controller is at work, by looks at its lease alone."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sparsing.study.errors import SparsingError
from sparsing.study.store.control import lease_watch
from sparsing.study.store.control.lease import Process, Record, acquire, study_cell
from sparsing.study.store.control.lease_watch import LeaseWatch, is_held

ELSEWHERE = Record(
    owner="host-7, process 1",
    holder="x",
    token=3,
    seconds=15.0,
    process=Process(machine="another", pid=1, started="1"),
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The watcher's clock, which stands still unless it is moved."""
    now = [100.0]
    monkeypatch.setattr(lease_watch, "now_seconds", lambda: now[0])
    return now


def write(path: Path, record: Record) -> None:
    cell = study_cell(path)
    found = cell.read()
    assert cell.write(record.to_bytes(), found[1] if found else None)


def test_without_a_lease_nobody_is_at_work(tmp_path: Path) -> None:
    sight = LeaseWatch(tmp_path).look()
    assert (sight.record, sight.held, sight.certain) == (None, False, True)


def test_a_lease_that_stays_as_it_is_is_held_no_more(tmp_path: Path, clock: list[float]) -> None:
    write(tmp_path, ELSEWHERE)
    watch = LeaseWatch(tmp_path)
    first = watch.look()
    assert (first.held, first.certain, first.age_seconds) == (True, False, 0.0)
    clock[0] += 14.9
    assert watch.look().held
    clock[0] += 0.2
    later = watch.look()
    assert (later.held, later.certain) == (False, True)
    assert later.age_seconds == pytest.approx(15.1)
    write(tmp_path, replace(ELSEWHERE, renewal=1))
    again = watch.look()
    assert (again.held, again.certain, again.age_seconds) == (True, True, 0.0)


def test_one_that_was_given_back_or_whose_process_is_gone_is_not_held(tmp_path: Path) -> None:
    lease = acquire(study_cell(tmp_path))
    watch = LeaseWatch(tmp_path)
    assert watch.look().held
    lease.release()
    assert not watch.look().held
    gone = replace(Process.this(), pid=2**22 - 1, started="1")
    write(tmp_path, replace(ELSEWHERE, process=gone))
    assert not watch.look().held


@pytest.mark.parametrize(("file_age_seconds", "waits"), [(3.0, False), (60.0, True), (-60.0, True)])
def test_a_fresh_file_is_a_sign_and_a_wrong_clock_is_none(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch, file_age_seconds, waits
) -> None:
    write(tmp_path, ELSEWHERE)
    written = time.time() - file_age_seconds
    (file,) = (tmp_path / ".controller").iterdir()
    os.utime(file, (written, written))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(lease_watch.time, "sleep", sleep)
    sight = LeaseWatch(tmp_path).look_until_certain()
    assert bool(slept) == waits
    assert sight.held != waits


def test_a_damaged_lease_is_said(tmp_path: Path) -> None:
    study_cell(tmp_path).write(b"{}", None)
    sight = LeaseWatch(tmp_path).look()
    assert not sight.held
    assert sight.problem
    assert "damaged" in sight.problem
    with pytest.raises(SparsingError, match="damaged"):
        is_held(tmp_path)
