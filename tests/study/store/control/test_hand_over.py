"""A lease goes from a controller that is cut off to the one that was started in its place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparsing.study.errors import FencedError, SparsingError
from sparsing.study.store.control import hand_over
from sparsing.study.store.control.hand_over import GivingWay, acquire_patiently, read_claim
from sparsing.study.store.control.lease import Lease, acquire, study_cell

PATIENCE_SECONDS = 30.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_over, "LOOK_SECONDS", 0.02)


@contextmanager
def holding(
    path: Path, actor: str, is_cut_off: Callable[[], bool]
) -> Iterator[tuple[Lease, threading.Event]]:
    lease, gave_way = acquire(study_cell(path)), threading.Event()
    with GivingWay(path, lease, actor, is_cut_off, lambda _: gave_way.set()):
        yield lease, gave_way
    lease.release()


def take(path: Path, actor: str, said: list[str]) -> tuple[threading.Thread, list[Lease]]:
    """Wants the lease, on a thread; it is in the list once it has it."""
    got: list[Lease] = []
    thread = threading.Thread(
        target=lambda: got.append(acquire_patiently(path, actor, said.append, lambda: False))
    )
    thread.start()
    return thread, got


@pytest.mark.parametrize(("actor", "cut_off"), [("same", False), ("other", True)])
def test_the_holder_gives_way_to_itself_started_anew_and_to_anybody_when_cut_off(
    tmp_path: Path, actor: str, cut_off: bool
) -> None:
    said: list[str] = []
    with holding(tmp_path, "same", lambda: cut_off) as (old, gave_way):
        thread, got = take(tmp_path, actor, said)
        assert gave_way.wait(PATIENCE_SECONDS)
        thread.join(PATIENCE_SECONDS)
        (new,) = got
        new.check()
        assert new.token == old.token + 1
        with pytest.raises(FencedError):
            old.check()
        new.release()
    assert len(said) == 1
    assert read_claim(tmp_path) is None


def test_a_holder_in_reach_keeps_its_lease_until_it_ends(tmp_path: Path) -> None:
    asked = threading.Event()

    def is_cut_off() -> bool:
        asked.set()
        return False

    said: list[str] = []
    with holding(tmp_path, "one", is_cut_off) as (old, gave_way):
        thread, got = take(tmp_path, "another", said)
        assert asked.wait(PATIENCE_SECONDS)
        old.check()
        assert not gave_way.is_set()
        assert not got
    thread.join(PATIENCE_SECONDS)
    got[0].release()


def test_a_claim_of_an_earlier_life_counts_for_nothing(tmp_path: Path) -> None:
    study_cell(tmp_path).write(b"", None)
    hand_over._write(tmp_path, hand_over.Claim(actor="same"))
    (tmp_path / ".controller" / f"lease-{1:012d}").unlink()
    looks = threading.Semaphore(0)
    read = hand_over.read_claim

    def counted(path: Path) -> hand_over.Claim | None:
        looks.release()
        return read(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hand_over, "read_claim", counted)
        with holding(tmp_path, "same", lambda: True) as (lease, gave_way):
            for _ in range(5):
                assert looks.acquire(timeout=PATIENCE_SECONDS)
            lease.check()
            assert not gave_way.is_set()


def test_who_waits_can_be_stopped_and_leaves_no_claim(tmp_path: Path) -> None:
    with holding(tmp_path, "one", lambda: False):
        with pytest.raises(SparsingError, match="stopped while it waited"):
            acquire_patiently(tmp_path, "another", lambda _: None, lambda: True)
        assert read_claim(tmp_path) is None
