"""A study's lease: one controller at a time, and a token by which the next one is told apart.

The lease is a record in a cell of the store: its holder, a token that grows by one with each
holder, and for how long the record, unchanged, counts. The holder rewrites it three times in that
span; who sees it unchanged for the whole span, by its own clock, may take it. No clock is compared
with that of another machine. On one machine a holder whose process is gone is followed at once.

A holder that stood still (SIGSTOP, a suspended laptop, a dead network file system) finds out by
`Lease.check`, before it writes; what it had started for itself (gangs, wherever they are) has its
token, and asks `check_token`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from sparsing.study.errors import FencedError, SparsingError
from sparsing.study.guarded_json import read_json
from sparsing.study.store.io.cells import FolderCell, ObjectCell, VersionedCell
from sparsing.study.store.io.objects import ObjectStoreError, Place, place_of

LEASE_SECONDS = 15.0
RENEWALS = 3
"""Within the lease's span."""
SAFE_SHARE = 0.8
"""Share of the time to live that a holder trusts: clocks of two machines may run unequally fast."""
POLL_SECONDS = 0.2


class HeldError(SparsingError):
    """Another controller of the study is alive."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """Where a holder lives, so that others on its machine can see whether it still does."""

    machine: str
    """Boot and process namespace; empty where the system does not say."""
    pid: int
    started: str
    """In ticks since boot: another process with this number started at another time."""

    @classmethod
    def this(cls) -> Process:
        """The calling process."""
        return cls(machine=_machine(), pid=os.getpid(), started=_started(os.getpid()))

    @property
    def gone(self) -> bool:
        """Whether it ran on this machine and does no more; False where this cannot be known."""
        here = bool(self.machine) and self.machine == _machine()
        return here and _started(self.pid) != self.started


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the cell says about the lease."""

    owner: str
    """For people: host and process."""
    holder: str
    """Unique."""
    token: int
    """Grows by one with each holder; no two holders have the same."""
    seconds: float
    """Time to live: a record that has not changed for this time does not count."""
    renewal: int = 0
    """Counts up, so that the record changes."""
    released: bool = False
    process: Process = field(default_factory=Process.this)

    def to_bytes(self) -> bytes:
        """As the cell holds it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Record:
        """The record in a cell; SparsingError where it is none."""
        try:
            values = read_json(content)
            return cls(**values | {"process": Process(**values["process"])})
        except (ValueError, TypeError, KeyError) as error:
            raise SparsingError(
                f"the lease is damaged ({error}): end all controllers of the study, then remove "
                "its folder .controller"
            ) from None


class Lease:
    """A lease that is held, and renewed by a thread; get one from `acquire`."""

    def __init__(self, cell: VersionedCell, record: Record, version: str, written: float) -> None:
        self._cell, self._record, self._version = cell, record, version
        self._valid_until = written + SAFE_SHARE * record.seconds
        self._changing = threading.RLock()
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_ended, daemon=True, name="lease")
        self._thread.start()

    @property
    def token(self) -> int:
        """The fencing token: what has a smaller one belongs to an earlier holder."""
        return self._record.token

    def check(self) -> None:
        """Return if the lease is held now; to be called before every write.

        Raises:
            FencedError: another holder has it, or the store does not answer.
        """
        if not self._lost.is_set() and now_seconds() >= self._valid_until:
            self._renew()  # stood still: it may still be ours, if nobody wanted it
        if self._lost.is_set() or now_seconds() >= self._valid_until:
            raise FencedError(
                f"this controller (token {self.token}) lost the study's lease; it stops, and "
                "writes nothing more"
            )

    def release(self) -> None:
        """Give the lease back, so that the next holder need not wait."""
        self._ended.set()
        self._thread.join()
        if not self._lost.is_set():
            self._write(replace(self._record, released=True))
            self._lost.set()

    def _renew_until_ended(self) -> None:
        while not self._lost.is_set() and not self._ended.wait(self._record.seconds / RENEWALS):
            self._renew()

    def _renew(self) -> None:
        with self._changing:
            self._write(replace(self._record, renewal=self._record.renewal + 1))

    def _write(self, record: Record) -> None:
        started = now_seconds()
        try:
            version = self._cell.write(record.to_bytes(), self._version)
        except (OSError, ObjectStoreError):
            return  # tried again, until the lease counts no more
        if version is None:
            self._lost.set()
        else:
            self._record, self._version = record, version
            self._valid_until = started + SAFE_SHARE * record.seconds


def acquire(cell: VersionedCell, seconds: float = LEASE_SECONDS) -> Lease:
    """Take the lease of a cell; waits where its holder gives no sign, until it counts no more.

    Raises:
        HeldError: another holder is alive; says which.
    """
    found = cell.read()
    seen, since = found, now_seconds()
    while found:
        record = Record.from_bytes(found[0])
        if record.released or record.process.gone:
            break
        # Before the time: a process that was stopped here has not looked at it for a while.
        if seen and found[1] != seen[1]:
            raise HeldError(f"another controller of this study is at work: {record.owner}")
        if now_seconds() - since >= record.seconds:
            break
        time.sleep(POLL_SECONDS)
        found = cell.read()
    token = Record.from_bytes(found[0]).token + 1 if found else 1
    me = Record(
        owner=f"{socket.gethostname()}, process {os.getpid()}",
        holder=uuid.uuid4().hex,
        token=token,
        seconds=seconds,
    )
    written = now_seconds()
    version = cell.write(me.to_bytes(), found[1] if found else None)
    if version is None:
        raise HeldError("another controller of this study has just started")
    return Lease(cell, me, version, written)


def study_cell(study_path: str | Place) -> VersionedCell:
    """The cell of a study's lease."""
    folder = place_of(study_path) / ".controller"
    return FolderCell(folder, "lease") if isinstance(folder, Path) else ObjectCell(folder / "lease")


def holder_of(study_path: str | Place) -> Record | None:
    """The study's newest lease; None where no controller has ever worked on it.

    Whether its holder is alive is not said: `released` and `process.gone` may say that it is not.
    """
    found = study_cell(study_path).read()
    return Record.from_bytes(found[0]) if found else None


def check_token(study_path: str | Place, token: int) -> None:
    """Return if the study's newest holder has this token; for gangs, before every commit.

    Raises:
        FencedError: a newer controller works on the study.
    """
    newest = holder_of(study_path)
    if newest and newest.token > token:
        raise FencedError(
            f"a newer controller works on the study ({newest.owner}, token {newest.token}): "
            f"what has token {token} stops, and writes nothing more"
        )


def now_seconds() -> float:
    """Seconds that go on while this machine sleeps, where the system has such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; empty where there is none, or a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
