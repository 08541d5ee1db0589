"""One stream of a run's rows on disk: append a commit, seal the log, merge segments.

A commit is one write to the log and one fdatasync. What a killed writer left at the end of a log
is set aside and cut; a log that is damaged before its end is sealed from the commits that are
whole, and set aside as well. Nothing here is ever deleted but what another file holds.

So that no commit waits for a log to be sealed, the next log is begun first: the one before takes
no more commits, and is converted without the lock.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from sparsing.study.errors import DamagedError
from sparsing.study.store.format.log import (
    BEGIN_CRC,
    LogContent,
    counting,
    encode_commit,
    encode_start,
    frame_crc,
    read_log,
    whole_frames,
)
from sparsing.study.store.format.partition import Log, Segment, StreamFiles, list_streams, names_now
from sparsing.study.store.format.segments import (
    LogRows,
    check_digest,
    draft_of,
    read_footer,
    readable,
)
from sparsing.study.store.format.sequences import Coverage, Range
from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.layout import partition_parts, rename_old
from sparsing.study.store.tables import TABLES

LOOKS = 50
"""Most listings, where files vanish between listing and reading."""


@dataclass(frozen=True)
class _Tip:
    """The log as this process left it or found it."""

    log: Log
    inode: int
    size: int
    last_crc: int
    schema: bytes
    started: float
    """When it was begun, seconds since 1970."""


class FileStream:
    """The files of one stream; `append`, `seal` and `merge` are for the holder of its lock."""

    def __init__(self, study_path: Path, table: str, run: str, stream: str) -> None:
        self.name = stream
        self._declared = TABLES[table].schema
        self._study_path, self._parts = study_path, partition_parts(table, run)
        rename_old(study_path, table)
        self.folder = study_path.joinpath(*self._parts)
        self._lock = commits.lock_path(study_path, table, run, stream)
        self._scratch = self._lock.parent
        self.coverage = Coverage()
        """Sequence numbers that are durable."""
        self._files = StreamFiles(stream)
        self._names: frozenset[str] = frozenset()
        self._to_clean = False
        """Whether there may be files that others hold."""
        self._known: set[Segment] = set()
        self._schema: tuple[pa.Schema, bytes] | None = None
        """That of the newest batch, and its message."""
        self._tip: _Tip | None = None
        self._failed = False
        """Whether the newest append failed, so that the log may end in what it left."""
        self._busy = threading.RLock()
        commits.remove_leftovers(self._scratch)

    @property
    def tip(self) -> _Tip | None:
        """The log as it was last seen; None when there is none."""
        return self._tip

    @contextmanager
    def locked(self, patience_seconds: float = 0.0) -> Iterator[None]:
        """Hold the stream's lock; BlockingIOError when another holds it for this time."""
        # First among the threads of this stream: those wait for each other, however short.
        with self._busy, commits.stream_lock(self._lock, patience_seconds):
            yield

    def look(self) -> None:
        """Take note of what is there by now, by whomever, and see that it is durable."""
        with self._busy:
            self._look()

    def _look(self) -> None:
        for attempt in range(LOOKS):
            try:
                return self._look_once()
            except FileNotFoundError:
                if attempt == LOOKS - 1:
                    raise

    def _look_once(self) -> None:
        names = names_now(self.folder)
        files = (list_streams(self.folder, self.name) or [StreamFiles(self.name)])[0]
        new = [segment for segment in files.segments if segment not in self._known]
        ranges: list[Range] = []
        for segment in new:
            ranges += read_footer(self.folder / segment.name)[1]
        if new:
            commits.sync_folder(self.folder)
        if not files.logs:
            self._tip = None
        elif not self._failed and not self._is_as_left(files.logs[-1]):
            read = [self._read_durable(log) for log in files.logs]
            counted = list(counting(content for content, _ in read))
            ranges += [pair for content in counted for pair in content.ranges]
            self._set_tip(files.logs[-1], read[-1][1], read[-1][0])
            if len(counted) < len(read):  # `prepare` has to mend them
                self._tip = None
        self.coverage.update(ranges)
        self._known.update(new)
        self._files, self._names = files, names
        self._to_clean = bool(files.superseded)

    def _is_as_left(self, log: Log) -> bool:
        """Whether a log has not changed since this process last saw it."""
        tip = self._tip
        if tip is None or tip.log != log:
            return False
        found = os.stat(self.folder / log.name)
        return (found.st_ino, found.st_size) == (tip.inode, tip.size)

    def _read_durable(self, log: Log) -> tuple[LogContent, int]:
        """A log's content and inode, as far as power loss would leave it."""
        data, inode = commits.read_file(self.folder / log.name)
        with commits.opened(self.folder / log.name, os.O_RDONLY) as file:
            os.fdatasync(file)
        commits.sync_folder(self.folder)
        return read_log(data), inode

    def _set_tip(self, log: Log, inode: int, content: LogContent) -> None:
        size, crc = content.valid_bytes, content.last_crc
        self._tip = _Tip(log, inode, size, crc, content.schema, content.started)

    def prepare(self) -> None:
        """Make ready for an append: clean up after those who were killed, mend the log's end."""
        if self._nothing_happened():
            return
        self._look()
        self._clean()
        if self._files.logs:
            self._mend(self._files.logs)
        self._failed = False

    def _nothing_happened(self) -> bool:
        """Whether the folder and the log are as this process left them.

        The log alone does not tell: a killed sealer may have left it beside its segment, and what
        is appended to it then is never read.
        """
        if self._tip is None or self._failed or self._to_clean:
            return False
        if names_now(self.folder) != self._names:
            return False
        with suppress(FileNotFoundError):
            return self._is_as_left(self._tip.log)
        return False

    def _clean(self) -> None:
        """Remove files whose generations are in segments that hold what was put there."""
        self._to_clean = False
        if not self._files.superseded:
            return
        try:
            for segment in self._files.segments:
                check_digest(self.folder, segment)
        except DamagedError:  # they are needed to repair it, and harm no commit
            return
        for file in self._files.superseded:
            (self.folder / file.name).unlink(missing_ok=True)
        self._files = replace(self._files, superseded=())

    def _mend(self, logs: Sequence[Log]) -> None:
        """Cut what is no commit from the newest log's end; seal all where commits are behind it."""
        log, closed = logs[-1], self._read(logs[:-1])
        path = self.folder / log.name
        data, inode = commits.read_file(path)
        content = read_log(data)
        counted = list(counting([*closed, content] if content.commits else closed))
        damaged = len(counted) < len(closed) + bool(content.commits)
        damaged |= any(each.valid_bytes < each.size for each in closed)
        if damaged or next(whole_frames(data, content.valid_bytes), None) is not None:
            self._failed = False
            self.seal()
            return
        self.coverage.update(pair for each in closed for pair in each.ranges)
        if content.valid_bytes < content.size and not self._failed:
            self._set_aside(data[content.valid_bytes :], f"{log.name}.torn")
        with commits.opened(path, os.O_RDWR) as file:
            if self._failed:
                # Again, for after an fsync that failed the next one succeeds and writes nothing.
                durable = self._tip.size if self._tip and self._tip.inode == inode else 0
                commits.write_all(file, data[durable : content.valid_bytes], durable)
            os.ftruncate(file, content.valid_bytes)
            os.fdatasync(file)
        commits.sync_folder(self.folder)
        self.coverage.update(content.ranges)
        self._set_tip(log, inode, content)

    def _set_aside(self, data: bytes, name: str) -> None:
        """Keep bytes that no reader sees; durable."""
        commits.replace(data, self._scratch / f"{name}-{uuid.uuid4().hex}")

    def append(
        self, ranges: Sequence[Range], batch: pa.RecordBatch, *, new_log: bool = False
    ) -> None:
        """Add a commit to the log; durable and visible when this returns. After `prepare`.

        new_log: begin the next generation with it, so that `convert` may seal those before.
        """
        schema = self._schema_of(batch)
        if self._tip is not None and self._tip.schema not in (b"", schema):
            self.seal()
        self._failed = True
        tip = self._tip
        if tip is None or tip.size == 0 or new_log:
            tip = self._begin(ranges, batch)
        else:
            frame = encode_commit(tip.last_crc, ranges, batch)
            with commits.opened(self.folder / tip.log.name, os.O_WRONLY) as file:
                commits.write_all(file, frame, tip.size)
                os.fdatasync(file)
            tip = replace(tip, size=tip.size + len(frame), last_crc=frame_crc(frame))
        self._tip, self._failed = tip, False
        self.coverage.update(ranges)

    def _schema_of(self, batch: pa.RecordBatch) -> bytes:
        """The schema message of a batch; that of the last one where it is equal."""
        if self._schema is None or not self._schema[0].equals(batch.schema, check_metadata=True):
            self._schema = batch.schema, batch.schema.serialize().to_pybytes()
        return self._schema[1]

    def _begin(self, ranges: Sequence[Range], batch: pa.RecordBatch) -> _Tip:
        """Begin the log of the next generation with its first commit."""
        tip, logs = self._tip, self._files.logs
        if tip is not None and tip.size == 0:  # torn before its first commit: written again
            log, logs = tip.log, logs[:-1]
        else:
            log = Log(self.name, self._files.next_generation)
        if not logs:
            commits.make_folders(self._study_path, self._parts)
        previous = self._read(logs)[-1].last_crc if logs else BEGIN_CRC
        start = encode_start(batch.schema, previous)
        first = encode_commit(read_log(start).last_crc, ranges, batch)
        with commits.opened(self.folder / log.name, os.O_WRONLY | os.O_CREAT) as file:
            commits.write_all(file, start + first, 0)
            os.fsync(file)
            inode = os.fstat(file).st_ino
        commits.sync_folder(self.folder)
        commits.note_generation(self._lock, log.generation)
        self._files, self._names = replace(self._files, logs=(*logs, log)), self._names | {log.name}
        return _Tip(
            log, inode, len(start + first), frame_crc(first), self._schema_of(batch), time.time()
        )

    def _read(self, logs: Sequence[Log]) -> list[LogContent]:
        return [read_log(commits.read_file(self.folder / log.name)[0]) for log in logs]

    def seal(self) -> None:
        """Make a segment of the logs, so that the next commit begins a new generation."""
        if self._files.logs:
            self._replace([], self._files.logs)

    def merge(self) -> None:
        """Make one segment of all there is of the stream; the rows and their order stay.

        Raises DamagedError where a segment is not what was written, and seals the logs only.
        """
        segments = self._files.segments
        if not self._files.logs and len(segments) < 2:
            return
        try:
            for segment in segments:
                check_digest(self.folder, segment)
        except DamagedError:
            self.seal()
            raise
        self._replace(segments, self._files.logs)

    def _replace(self, segments: Sequence[Segment], logs: Sequence[Log]) -> None:
        """Write one segment of the rows of these files, then remove these."""
        self._tip = None  # when this fails halfway, the next append looks again
        rows: list[LogRows] = []
        for log in logs:
            data = commits.read_file(self.folder / log.name)[0]
            content = read_log(data)
            behind = whole_frames(data, content.valid_bytes) if content.schema else ()
            whole = [*content.commits, *(frame for frame in behind if frame.ranges)]
            frames = readable(content.schema, whole, self._declared)
            rows += [(content.schema, frames)] if frames else []
            damaged = content.valid_bytes < len(data) and not self._failed
            if damaged or len(frames) < len(whole):
                self._set_aside(data, f"{log.name}.damaged")
        new = None
        if rows or len(segments) > 1:
            first = (*(segment.first for segment in segments), self._files.next_sealed)[0]
            last = logs[-1].generation if rows else self._files.next_sealed - 1
            paths = [self.folder / segment.name for segment in segments]
            new = draft_of(self._scratch, self.name, (first, last), paths, rows)
            new.publish(self.folder)
        for name in [file.name for file in segments] + [log.name for log in logs]:
            if new is None or name != new.segment.name:
                (self.folder / name).unlink()
        self._tip, self._failed = None, False
        self._look()

    @property
    def is_sealing(self) -> bool:
        """Whether there is a log that takes no more commits and is no segment yet."""
        return len(self._files.logs) > 1

    def convert(self) -> None:
        """Make a segment of the oldest log that takes no more commits, while others append.

        Without the lock, which is held only while the segment takes the log's place. Raises
        BlockingIOError when another process holds it then; the log is as good as before.
        """
        with self._busy:
            self._look()
            if not self.is_sealing:
                return
            logs = self._files.logs[:2]
        log, contents = logs[0], self._read(logs)
        if len(list(counting(contents))) < 2:  # damaged since it was read
            with self.locked():
                self._tip = None
                return self.prepare()
        rows = contents[0].schema, contents[0].commits
        if len(readable(*rows, self._declared)) < len(rows[1]):
            with self.locked():
                self.prepare()
                return self.seal()
        draft = draft_of(self._scratch, self.name, (log.generation,) * 2, [], [rows])
        try:
            with self.locked():
                self.prepare()
                if self.is_sealing and self._files.logs[0] == log:
                    draft.publish(self.folder)
                    (self.folder / log.name).unlink()
                    self._look()
        finally:
            draft.discard()
