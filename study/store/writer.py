"""Writing rows: buffered, committed in the background, durable when acknowledged, exactly once.

A writer owns one stream of one run's rows in one table. Each `append` has a sequence number, and
all rows of a number become visible together. A number that is there already is not written again:
steps replayed after a restart are no-ops. Numbers may come in any order and with gaps.

All that is appended within `commit_seconds` is one commit: one write to the stream's log. When the
log is big or old, a commit begins the next one, and the log before is sealed into a Parquet file,
which other readers see, while commits go on. Both limits grow with the number of segments, so that
there are some hundred a month.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pyarrow as pa

from sparsing.study.errors import DefinitionError, SparsingError
from sparsing.study.store.format.sequences import contiguous
from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.durable import STREAM
from sparsing.study.store.io.objects import Place
from sparsing.study.store.objects.stream import stream_at
from sparsing.study.store.rows import RowEncoder
from sparsing.study.store.tables import Table
from sparsing.study.version import code_version

OVERHEAD_BYTES = 2048
"""What a buffered append occupies beside its values."""
SEAL_BYTES, MAX_SEAL_BYTES = 4 * 2**20, 8 * 2**20
"""A log of this size is sealed: of the first generations, and at most."""
SEAL_SECONDS, MAX_SEAL_SECONDS = 60.0, 6 * 3600.0
"""So is one of this age, at the next commit."""
CONSTANT_GENERATIONS, GROWTH = 20, 1.05
"""From this many segments on, the limits grow by a twentieth with each: a log is sealed when its
age is a twentieth of the stream's, and the number of segments grows with the logarithm of time."""
SEAL_RETRY_SECONDS = 60.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.05, 2.0


class StoreError(SparsingError):
    """Rows could not be stored: the disk is full, read-only, or not there."""


@dataclass(frozen=True)
class _Failure:
    """What the newest attempt failed with; times are of `time.monotonic`."""

    error: Exception
    since: float
    """When the first attempt that failed, after the last one that did not, was made."""
    tried: float
    """When the newest was made."""


class TableWriter:
    """One stream of a run's rows. A context manager; get one from `StudyStore.writer`.

    commit_seconds: longest time from `append` until rows are durable.
    max_buffer_bytes: `append` waits while this much is not yet durable.
    patience_seconds: `append` and `flush` raise StoreError when the disk has refused for this. The
    rows stay buffered, the writer goes on trying, and a later `flush` may succeed.
    """

    def __init__(
        self,
        table: Table,
        study_path: Place,
        *,
        run: str,
        attempt: int,
        stream: str = "main",
        commit_seconds: float = 1.0,
        max_buffer_bytes: float = 64e6,
        patience_seconds: float = 60.0,
    ) -> None:
        commits.check_identifier(stream, "name of a stream", STREAM)
        self._what = f"table {table.name}, run {run}"
        self._disk = stream_at(study_path, table.name, run, stream)
        filled = {"run": run, "attempt": attempt, "code_version": code_version()}
        self._encoder = RowEncoder(table, filled)
        self._commit_seconds, self._patience_seconds = commit_seconds, patience_seconds
        self._max_buffer_bytes = max_buffer_bytes
        self._changed = threading.Condition()
        self._buffer: dict[int, pa.RecordBatch] = {}
        self._buffer_bytes = 0
        self._since = 0.0
        self._waiting = 0
        self._closing = False
        self._failure: _Failure | None = None
        self._no_seal_before = 0.0
        self._sealing: threading.Thread | None = None
        self._durable = self._disk.coverage
        self._disk.look()
        self._thread = threading.Thread(target=self._commit_until_closed, daemon=True)
        self._thread.start()

    def append(self, seq: int, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Take the rows of a sequence number; False, and nothing done, when it is taken already.

        The rows are durable when `flush` has returned. Raises DefinitionError for rows that do
        not fit the table, StoreError when the disk refuses for longer than `patience_seconds`.
        """
        if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq < 2**63:
            raise DefinitionError(f"sequence number {seq!r}: it must be an integer from 0")
        batch = self._encoder.encode(rows)
        size = batch.nbytes + OVERHEAD_BYTES
        with self._changed:
            self._wait(lambda: self._taken(seq) or self._has_room(size))
            if self._taken(seq):
                return False
            self._raise_if_closed()
            if not self._buffer:
                self._since = time.monotonic()
            if not self._buffer or self._buffer_bytes + size > self._max_buffer_bytes / 4:
                self._changed.notify_all()
            self._buffer[seq] = batch
            self._buffer_bytes += size
        return True

    def flush(self) -> None:
        """Return when all that was appended before is durable and visible.

        Raises StoreError when the disk refuses for longer than `patience_seconds`.
        """
        with self._changed:
            asked = set(self._buffer)
            self._wait(lambda: asked.isdisjoint(self._buffer))

    def has(self, seq: int) -> bool:
        """Whether all rows of a sequence number are durable, by whichever writer."""
        if seq not in self._durable:
            self._disk.look()
        return seq in self._durable

    @property
    def next_seq(self) -> int:
        """One more than the largest sequence number that is durable or appended; at first 0."""
        with self._changed:
            return max(self._durable.next_seq, max(self._buffer, default=-1) + 1)

    def close(self) -> None:
        """Flush and end. Raises StoreError when rows could not be stored; they are then lost."""
        try:
            self.flush()
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join()
            if self._sealing is not None:
                self._sealing.join()
        if self._is_full(SEAL_BYTES, MAX_SEAL_SECONDS):
            self._seal()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            # One more try: whoever failed does not wait for a disk that refuses as well.
            self._patience_seconds = 0.0
        try:
            self.close()
        except StoreError as lost:
            if error is None:
                raise
            error.add_note(str(lost))

    def _taken(self, seq: int) -> bool:
        return seq in self._buffer or seq in self._durable

    def _has_room(self, size: int) -> bool:
        fits = self._buffer_bytes + size <= self._max_buffer_bytes
        return not self._buffer or (fits and not self._overdue())

    def _overdue(self) -> bool:
        failure = self._failure
        return bool(failure and time.monotonic() - failure.since > self._patience_seconds)

    def _wait(self, until: Callable[[], bool]) -> None:
        """Wait for something that a commit brings, and hurry it; StoreError when none succeeds."""
        asked = time.monotonic()
        self._waiting += 1
        try:
            while not until():
                self._raise_if_closed()
                self._raise_if_hopeless(asked)
                self._changed.notify_all()
                self._changed.wait(0.1)
        finally:
            self._waiting -= 1

    def _raise_if_closed(self) -> None:
        if self._closing:
            raise StoreError(f"{self._what}: the writer is closed")

    def _raise_if_hopeless(self, asked: float) -> None:
        """Raise when the disk refuses for long, and refused again since we asked."""
        failure = self._failure
        if failure and self._overdue() and failure.tried >= asked:
            raise StoreError(
                f"{self._what}: {len(self._buffer)} appends could not be stored for "
                f"{self._patience_seconds:g} s, under {self._disk.folder}: {failure.error}"
            ) from failure.error

    def _commit_until_closed(self) -> None:
        retry_seconds = FIRST_RETRY_SECONDS
        while (batches := self._next_batches()) is not None:
            tried = time.monotonic()
            try:
                self._commit(batches)
                retry_seconds = FIRST_RETRY_SECONDS
                self._seal_in_background()
            except Exception as error:  # kept, and raised to whoever appends or flushes
                self._note_failure(error, tried, retry_seconds)
                retry_seconds = min(2 * retry_seconds, LAST_RETRY_SECONDS)

    def _next_batches(self) -> dict[int, pa.RecordBatch] | None:
        """What is to be committed now; waits for it. None when the writer is closed."""
        with self._changed:
            while not self._closing and (wait := self._seconds_until_due()) > 0:
                self._changed.wait(wait)
            return None if self._closing else dict(self._buffer)

    def _seconds_until_due(self) -> float:
        if not self._buffer:
            return threading.TIMEOUT_MAX
        if self._waiting or self._buffer_bytes > self._max_buffer_bytes / 4:
            return 0.0
        return self._since + self._commit_seconds - time.monotonic()

    def _commit(self, batches: dict[int, pa.RecordBatch]) -> None:
        started = time.monotonic()
        with self._disk.locked():
            self._disk.prepare()
            new = sorted(seq for seq in batches if seq not in self._durable)
            if new:
                batch = self._encoder.batch([batches[seq] for seq in new])
                self._disk.append(list(contiguous(new)), batch, new_log=self._log_is_due())
        with self._changed:
            for seq in batches:
                self._buffer_bytes -= self._buffer.pop(seq).nbytes + OVERHEAD_BYTES
            self._failure, self._since = None, started
            self._changed.notify_all()

    def _log_is_due(self) -> bool:
        """Whether the log is to be sealed, and none is being sealed or was refused just now."""
        tip = self._disk.tip
        if tip is None or self._disk.is_sealing or time.monotonic() < self._no_seal_before:
            return False
        growth = GROWTH ** max(0, tip.log.generation - CONSTANT_GENERATIONS)
        most_bytes = min(SEAL_BYTES * growth, MAX_SEAL_BYTES)
        return self._is_full(most_bytes, min(SEAL_SECONDS * growth, MAX_SEAL_SECONDS))

    def _is_full(self, most_bytes: float, most_seconds: float) -> bool:
        tip = self._disk.tip
        if tip is None:
            return False
        return tip.size >= most_bytes or time.time() - tip.started >= most_seconds

    def _seal_in_background(self) -> None:
        """Seal a log that takes no more commits, if there is one, while commits go on."""
        if not self._disk.is_sealing or time.monotonic() < self._no_seal_before:
            return
        if self._sealing is None or not self._sealing.is_alive():
            self._sealing = threading.Thread(target=self._convert, daemon=True)
            self._sealing.start()

    def _convert(self) -> None:
        try:
            self._disk.convert()
        except (OSError, SparsingError, pa.ArrowException):  # the log is as good as before
            self._no_seal_before = time.monotonic() + SEAL_RETRY_SECONDS

    def _seal(self) -> None:
        """Seal all there is in logs; where that cannot be done, they are as good as before."""
        with suppress(OSError, SparsingError, pa.ArrowException), self._disk.locked():
            self._disk.prepare()
            self._disk.seal()

    def _note_failure(self, error: Exception, tried: float, retry_seconds: float) -> None:
        """Remember it, and pause; not for those who wait for a last attempt."""
        with self._changed:
            since = self._failure.since if self._failure else tried
            self._failure = _Failure(error, since, tried)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._closing or (self._waiting and self._overdue()), timeout=retry_seconds
            )
