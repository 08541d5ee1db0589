"""One stream of a run's rows on disk: append a commit, seal the log, merge segments.

A commit is one write to the log and one fdatasync. What a killed writer left at the end of a log
is set aside and cut; a log that is damaged before its end is sealed from the commits that are
whole, and set aside as well. Nothing here is ever deleted but what another file holds.
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

from study import commits
from study.coverage import Coverage, Range
from study.errors import DamagedError
from study.log import (
    Frame,
    LogContent,
    decode,
    encode_commit,
    encode_start,
    frame_crc,
    read_log,
    whole_frames,
)
from study.partition import Log, Segment, StreamFiles, list_streams, names_now
from study.segments import check_digest, joint_schema, read_footer, read_rows, write_segment

LOOKS = 50
"""So often files that vanish between listing and reading are listed again."""


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


class Stream:
    """The files of one stream; `append`, `seal` and `merge` are for the holder of its lock."""

    def __init__(self, study_path: Path, table: str, run: str, stream: str) -> None:
        self.name = stream
        self._study_path, self._parts = study_path, commits.partition_parts(table, run)
        self.folder = study_path.joinpath(*self._parts)
        self._lock = commits.lock_path(study_path, table, run, stream)
        self._scratch = self._lock.parent
        self.coverage = Coverage()
        """Sequence numbers that are durable."""
        self._files = StreamFiles(stream)
        self._names: frozenset[str] = frozenset()
        self._known: set[Segment] = set()
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
        """Hold the stream's lock; BlockingIOError when another holds it for so long."""
        with commits.stream_lock(self._lock, patience_seconds), self._busy:
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
        if files.log is None:
            self._tip = None
        elif not self._failed and not self._is_as_left(files.log):
            content, inode = self._read_durable(files.log)
            ranges += content.ranges
            self._set_tip(files.log, inode, content)
        self.coverage.update(ranges)
        self._known.update(new)
        self._files, self._names = files, names

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
        if self._files.log is not None:
            self._mend(self._files.log)
        self._failed = False

    def _nothing_happened(self) -> bool:
        """Whether the folder and the log are as this process left them.

        The log alone does not tell: a killed sealer may have left it beside its segment, and what
        is appended to it then is never read.
        """
        if self._tip is None or self._failed or names_now(self.folder) != self._names:
            return False
        with suppress(FileNotFoundError):
            return self._is_as_left(self._tip.log)
        return False

    def _clean(self) -> None:
        """Remove files whose generations are in segments that hold what was put there."""
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

    def _mend(self, log: Log) -> None:
        """Cut what is no commit from a log's end; seal the log if there are commits behind it."""
        path = self.folder / log.name
        data, inode = commits.read_file(path)
        content = read_log(data)
        if next(whole_frames(data, content.valid_bytes), None) is not None:
            self._failed = False
            self.seal()
            return
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

    def append(self, ranges: Sequence[Range], batch: pa.RecordBatch) -> None:
        """Add a commit to the log; durable and visible when this returns. After `prepare`."""
        schema = batch.schema.serialize().to_pybytes()
        if self._tip is not None and self._tip.schema not in (b"", schema):
            self.seal()
        self._failed = True
        tip = self._tip
        if tip is None or tip.size == 0:
            tip = self._begin(ranges, batch)
        else:
            frame = encode_commit(tip.last_crc, ranges, batch)
            with commits.opened(self.folder / tip.log.name, os.O_WRONLY) as file:
                commits.write_all(file, frame, tip.size)
                os.fdatasync(file)
            tip = replace(tip, size=tip.size + len(frame), last_crc=frame_crc(frame))
        self._tip, self._failed = tip, False
        self.coverage.update(ranges)

    def _begin(self, ranges: Sequence[Range], batch: pa.RecordBatch) -> _Tip:
        """Begin the log of the next generation with its first commit."""
        commits.make_folders(self._study_path, self._parts)
        log = Log(self.name, self._files.next_generation)
        start = encode_start(batch.schema)
        first = encode_commit(read_log(start).last_crc, ranges, batch)
        with commits.opened(self.folder / log.name, os.O_WRONLY | os.O_CREAT) as file:
            commits.write_all(file, start + first, 0)
            os.fsync(file)
            inode = os.fstat(file).st_ino
        commits.sync_folder(self.folder)
        self._files, self._names = replace(self._files, log=log), self._names | {log.name}
        schema = batch.schema.serialize().to_pybytes()
        return _Tip(log, inode, len(start + first), frame_crc(first), schema, time.time())

    def seal(self) -> None:
        """Make a segment of the log, so that the next commit begins a new generation."""
        if self._files.log is not None:
            self._replace([], self._files.log)

    def merge(self) -> None:
        """Make one segment of all there is of the stream; the rows and their order stay.

        Raises DamagedError where a segment is not what was written, and seals the log only.
        """
        segments = list(self._files.segments)
        if self._files.log is None and len(segments) < 2:
            return
        try:
            for segment in segments:
                check_digest(self.folder, segment)
        except DamagedError:
            self.seal()
            raise
        self._replace(segments, self._files.log)

    def _replace(self, segments: list[Segment], log: Log | None) -> None:
        """Write one segment of the rows of these files, then remove these."""
        self._tip = None  # when this fails halfway, the next append looks again
        data = b"" if log is None else commits.read_file(self.folder / log.name)[0]
        content = read_log(data)
        frames = list(content.commits)
        if content.schema:
            frames += [f for f in whole_frames(data, content.valid_bytes) if f.ranges]
        if content.valid_bytes < len(data) and not self._failed:
            assert log is not None
            self._set_aside(data, f"{log.name}.damaged")
        last = self._files.next_generation if frames else self._files.next_generation - 1
        if frames or len(segments) > 1:
            new = self._write(segments, last, content.schema, frames)
            for segment in segments:
                if segment != new:
                    (self.folder / segment.name).unlink()
        if log is not None:
            (self.folder / log.name).unlink()
        self._tip, self._failed = None, False
        self._look()

    def _write(
        self, segments: list[Segment], last: int, log_schema: bytes, frames: list[Frame]
    ) -> Segment:
        first = segments[0].first if segments else last
        paths = [self.folder / segment.name for segment in segments]
        footers = [read_footer(path) for path in paths]
        schemas = [schema for schema, _, _ in footers]
        covered = Coverage(pair for _, ranges, _ in footers for pair in ranges)
        covered.update(pair for frame in frames for pair in frame.ranges)
        if frames:
            schemas.append(pa.ipc.read_schema(pa.py_buffer(log_schema)))

        def parts() -> Iterator[pa.Table]:
            for path in paths:
                yield from read_rows(path)
            if frames:
                yield decode(log_schema, frames)

        return write_segment(
            self.folder,
            self._scratch,
            self.name,
            (first, last),
            parts(),
            joint_schema(schemas),
            covered,
        )
