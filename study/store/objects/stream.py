"""One stream of a run's rows on an object store: a commit is one object, put once.

The put is conditional on the generation's name being free, so that of two writers of one stream
one has the generation and the other looks again. A listing behind the put says that no segment
has the generation: else the name was free because its log is sealed, and what was put there is
never read. Only then is the commit acknowledged.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from sparsing.study.store.files.stream import FileStream
from sparsing.study.store.format.log import (
    LogContent,
    decode,
    encode_commit,
    encode_start,
    read_log,
)
from sparsing.study.store.format.partition import Log, Segment, StreamFiles
from sparsing.study.store.format.segments import joint_schema, parquet_bytes
from sparsing.study.store.format.sequences import Coverage, Range
from sparsing.study.store.io.layout import partition_place
from sparsing.study.store.io.objects import ObjectPath, ObjectStoreError, Place, in_parallel
from sparsing.study.store.objects.partition import (
    block_of,
    footer_of,
    list_objects,
    read_streams,
    verified_rows,
)
from sparsing.study.store.tables import TABLES

ROUNDS = 20
"""Most attempts of a merge, where another writer or compactor is faster."""


def stream_at(study: Place, table: str, run: str, stream: str) -> FileStream | ObjectStream:
    """A stream of a study, on disk or on an object store."""
    kind = ObjectStream if isinstance(study, ObjectPath) else FileStream
    return kind(study, table, run, stream)  # type: ignore[arg-type]


class ObjectStream:
    """The objects of one stream; what FileStream is for a folder. There is no lock, and no need.

    `append` and `seal` raise ObjectStoreError, and may be tried again after `prepare`.
    """

    def __init__(self, study: ObjectPath, table: str, run: str, stream: str) -> None:
        self.name = stream
        folder = partition_place(study, table, run)
        assert isinstance(folder, ObjectPath)
        self.folder = folder
        self.coverage = Coverage()
        """Sequence numbers that are durable."""
        self._schema = TABLES[table].schema
        self._files = StreamFiles(stream)
        self._is_known = False
        self._known: set[Segment] = set()
        self._verified: set[Segment] = set()
        self._busy = threading.RLock()

    tip = None
    """There is no log that takes more than one commit."""

    @property
    def is_sealing(self) -> bool:
        """Whether a whole block of logs waits for `convert`."""
        return self._whole_block() is not None

    def convert(self) -> None:
        """Make a segment of the first whole block of logs, if there is one."""
        with self._busy:
            self.look()
            if (block := self._whole_block()) is not None:
                self._make_segment(block)

    @contextmanager
    def locked(self, patience_seconds: float = 0.0) -> Iterator[None]:
        """Keep other threads off; other processes are kept off by nothing but free names."""
        with self._busy:
            yield

    def look(self) -> None:
        """Take note of what is there by now, by whomever."""
        with self._busy:
            read = read_streams(self.folder, self.name)
            files, contents = read[0] if read else (StreamFiles(self.name), [])
            for segment in files.segments:
                if segment not in self._known:
                    self.coverage.update(footer_of(self.folder / segment.name)[1])
                    self._known.add(segment)
            self.coverage.update(pair for content in contents for pair in content.ranges)
            self._files, self._is_known = files, True

    def prepare(self) -> None:
        """Make ready for an append: look, unless the last one left things as they are known."""
        if not self._is_known:
            self.look()

    def append(
        self, ranges: Sequence[Range], batch: pa.RecordBatch, *, new_log: bool = True
    ) -> None:
        """Put a commit; durable and visible when this returns. After `prepare`.

        Raises ObjectStoreError where that is not sure, or another writer has been here.
        """
        self._is_known = False  # until all went well
        self._claim(self._files.next_generation, _commit(batch, ranges))
        self.coverage.update(ranges)

    def _claim(self, generation: int, content: bytes) -> None:
        """Put a log, and see that it counts."""
        log = Log(self.name, generation)
        if not (self.folder / log.name).put_new(content):
            raise ObjectStoreError(
                f"{self.folder / log.name}: another writer of this stream has put it"
            )
        found = list_objects(self.folder, self.name)
        if not found or log not in found[0].logs:
            raise ObjectStoreError(f"{self.folder / log.name}: another writer has sealed it")
        self._files = found[0]
        # Logs behind ours are another writer's, and were not read yet: their numbers are unknown.
        self._is_known = self._files.next_generation == generation + 1

    def seal(self) -> None:
        """Make segments of the whole blocks of logs that are there."""
        while (block := self._whole_block()) is not None:
            self._make_segment(block)

    def merge(self) -> None:
        """Make one segment of all there is of the stream; the rows and their order stay.

        The block that is not full is filled by empty logs, for segments are of whole blocks.
        Raises DamagedError where a segment or log is not what was put there.
        """
        with self._busy:
            for round in range(ROUNDS):
                self.look()
                try:
                    if not self._files.logs and len(self._files.segments) < 2:
                        self._clean()
                        return
                    end = block_of(self._files.next_generation - 1)[1]
                    self._fill(end)
                    self._make_segment((0, end))
                    return
                except (ObjectStoreError, FileNotFoundError):
                    if round == ROUNDS - 1:
                        raise

    def _fill(self, last: int) -> None:
        """Put empty logs up to a generation, and see that they count."""
        empty = encode_start(self._schema)
        wanted = range(self._files.next_generation, last + 1)
        paths = [self.folder / Log(self.name, generation).name for generation in wanted]
        in_parallel(lambda path: path.put_new(empty), paths)
        self.look()
        if self._files.next_generation <= last:
            raise ObjectStoreError(f"{self.folder}: others write to it meanwhile")

    def _whole_block(self) -> Range | None:
        """The first block of logs that are all there; None when there is none."""
        at = self._files.next_sealed
        first, last = block_of(at)
        return (first, last) if self._files.next_generation > last and first == at else None

    def _make_segment(self, generations: Range) -> None:
        """Put a segment of these generations, then remove what it holds."""
        first, last = generations
        read = read_streams(self.folder, self.name)
        files, contents = read[0] if read else (StreamFiles(self.name), [])
        segments = [each for each in files.segments if first <= each.first]
        logs = [c for log, c in zip(files.logs, contents, strict=True) if log.generation <= last]
        until = files.logs[len(logs) - 1].generation if logs else files.next_sealed - 1
        if until != last or (segments and segments[-1].last > last):
            self._is_known = False
            raise ObjectStoreError(f"{self.folder}: another has sealed its logs meanwhile")
        content = self._parquet(segments, logs)
        segment = Segment(self.name, first, last, hashlib.sha256(content).hexdigest()[:16])
        if (self.folder / segment.name).put_new(content):
            self._verified.add(segment)
        self._clean()

    def _parquet(self, segments: list[Segment], logs: list[LogContent]) -> bytes:
        footers = [footer_of(self.folder / segment.name) for segment in segments]
        covered = Coverage(pair for _, ranges, _ in footers for pair in ranges)
        covered.update(pair for content in logs for pair in content.ranges)
        with_rows = [content for content in logs if content.commits]
        schemas = [schema for schema, _, _ in footers] or [self._schema]
        schemas += [
            pa.ipc.read_schema(pa.py_buffer(each)) for each in {c.schema for c in with_rows}
        ]

        def parts() -> Iterator[pa.Table]:
            for segment in segments:
                yield verified_rows(self.folder / segment.name, segment)
            for content in with_rows:
                yield decode(content.schema, content.commits)

        return parquet_bytes(parts(), joint_schema(schemas), covered)

    def _clean(self) -> None:
        """Remove what segments hold, once these are seen to be there and whole."""
        found = list_objects(self.folder, self.name)
        known = self._files.next_generation
        self._files = found[0] if found else StreamFiles(self.name)
        self._is_known &= self._files.next_generation == known
        old = self._files.superseded
        if old:
            for segment in self._files.segments:
                if segment not in self._verified:
                    verified_rows(self.folder / segment.name, segment)
                    self._verified.add(segment)
            in_parallel(lambda file: (self.folder / file.name).delete(), old)


def _commit(batch: pa.RecordBatch, ranges: Sequence[Range]) -> bytes:
    start = encode_start(batch.schema)
    return start + encode_commit(read_log(start).last_crc, ranges, batch)
