"""How a lease goes from a controller that is cut off to the one that was started in its place.

A host may see the store and not the cluster. Its controller then renews its lease although Ray has
started the same actor elsewhere, and that one would wait for ever. So who wants the lease writes a
claim into the store, `.controller/claim`, and waits; the holder looks for claims once a second, on
a thread of its own, for its loop may wait for a cluster that does not answer. It gives way

- to the same actor, started anew: of an actor's lives the later one is right;
- to anybody while it does not reach the cluster itself.

A claim that was there before the holder had its lease is from an earlier life, and counts for
nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sparsing.study.errors import SparsingError
from sparsing.study.store.control.lease import HeldError, Lease, acquire, study_cell
from sparsing.study.store.io import durable as commits

CLAIM = "claim"
LOOK_SECONDS = 1.0
"""Between looks at claims, and between tries for a lease that another one holds."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who wants a study's lease."""

    actor: str
    """Id of the Ray actor; all lives of it have the same."""
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}, process {os.getpid()}")
    """For people."""
    life: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Unique."""


def acquire_patiently(
    study_path: Path, actor: str, say: Callable[[str], None], is_to_stop: Callable[[], bool]
) -> Lease:
    """Take a study's lease; where another holder is alive, claim it, and wait until it has ended.

    Args:
        study_path: the study's folder.
        actor: id of the calling Ray actor.
        say: is told whom it waits for, once each.
        is_to_stop: whether to give up.

    Raises:
        SparsingError: it was to give up.
    """
    claim, waits_for = Claim(actor=actor), ""
    try:
        while True:
            try:
                return acquire(study_cell(study_path))
            except HeldError as held:
                if is_to_stop():
                    raise SparsingError(f"stopped while it waited: {held}") from None
                if str(held) != waits_for:
                    waits_for = str(held)
                    _write(study_path, claim)
                    say(f"{waits_for}; waiting until it ends, or gives way")
                time.sleep(LOOK_SECONDS)
    finally:
        if read_claim(study_path) == claim:
            _file(study_path).unlink(missing_ok=True)


class GivingWay:
    """Gives a lease up when its holder has to give way; a context manager around its work.

    Args:
        study_path: the study's folder.
        lease: of the study, held.
        actor: id of the holder's Ray actor.
        is_cut_off: whether the holder does not reach the cluster; may take some seconds.
        gave_way: called once, with words, when the lease was given up.
    """

    def __init__(
        self,
        study_path: Path,
        lease: Lease,
        actor: str,
        is_cut_off: Callable[[], bool],
        gave_way: Callable[[str], None],
    ) -> None:
        self._study_path, self._lease, self._actor = study_path, lease, actor
        self._is_cut_off, self._gave_way = is_cut_off, gave_way
        self._before = read_claim(study_path)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="giving way")

    def __enter__(self) -> GivingWay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            claim = read_claim(self._study_path)
            if claim is None or claim == self._before:
                continue
            if claim.actor == self._actor or self._is_cut_off():
                self._lease.release()
                self._gave_way(f"gave way to another controller ({claim.owner})")
                return


def read_claim(study_path: Path) -> Claim | None:
    """Who wants the study's lease; None where nobody does, or the claim cannot be read."""
    try:
        return Claim(**json.loads(_file(study_path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write(study_path: Path, claim: Claim) -> None:
    commits.replace(json.dumps(asdict(claim)).encode(), _file(study_path))


def _file(study_path: Path) -> Path:
    return study_path / ".controller" / CLAIM
