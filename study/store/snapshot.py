"""Which files a table's rows are in at one moment, and what is in no Parquet file yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from sparsing.study.errors import DamagedError
from sparsing.study.store.format.log import Frame, LogContent, counting, decode, read_log
from sparsing.study.store.format.partition import StreamFiles, list_streams
from sparsing.study.store.format.segments import read_footer
from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.objects import ObjectPath, Place
from sparsing.study.store.objects.partition import footer_of, read_streams

LISTINGS = 100
"""Most listings, where files vanish."""
T = TypeVar("T")


def read_logs(folder: Path, files: StreamFiles) -> Iterator[LogContent]:
    """What counts of a stream's logs, in their order."""
    return counting(read_log(_content(folder / log.name)) for log in files.logs)


def _content(log: Path) -> memoryview:
    """In Arrow's memory, which is used again: for megabytes quicker than new memory of Python's."""
    commits.check_plain(log)
    with pa.OSFile(str(log)) as file:
        return memoryview(file.read_buffer(file.size())).cast("B")


def again_when_vanished(read: Callable[[], T]) -> T:
    """What `read` returns, called again while a file that it listed is gone when it opens it."""
    for _ in range(LISTINGS - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


@lru_cache(maxsize=2**20)
def _rows_in(segment: Place) -> int:
    """Quick when asked again, for segments never change."""
    read = footer_of if isinstance(segment, ObjectPath) else read_footer
    return read(segment)[2]


class ListedStream:
    """One stream as it was listed; its logs are read when they are first asked for.

    newest: only its last commit, or its last segment where it has no log.
    contents: of its logs, where they were read with the listing.
    """

    def __init__(
        self,
        folder: Place,
        files: StreamFiles,
        newest: bool,
        contents: list[LogContent] | None = None,
    ) -> None:
        self._folder, self._files, self._newest = folder, files, newest
        self._contents = contents

    @cached_property
    def live(self) -> list[tuple[bytes, list[Frame]]]:
        """Schema and commits of each log that has rows."""
        contents = self._contents
        if contents is None:
            assert isinstance(self._folder, Path)
            contents = list(read_logs(self._folder, self._files))
        frames = [(c.schema, [f for f in c.commits if f.rows]) for c in contents if c.rows]
        return [(schema, of[-1:]) for schema, of in frames[-1:]] if self._newest else frames

    @property
    def path(self) -> Place:
        """What its files' names begin with."""
        return self._folder / self._files.stream

    @property
    def segments(self) -> list[Place]:
        """Its Parquet files, or objects."""
        segments = self._files.segments
        if self._newest:
            segments = () if self.live else segments[-1:]
        return [self._folder / segment.name for segment in segments]

    def count_rows(self) -> int:
        """How many rows it has, without reading them."""
        live = sum(frame.rows for _, frames in self.live for frame in frames)
        return live + sum(_rows_in(path) for path in self.segments)


@dataclass(frozen=True)
class Snapshot:
    """Where a table's rows are at one moment: each row once."""

    streams: list[ListedStream]
    """Of one run after the other."""
    runs: int
    """Of how many runs."""

    @property
    def segments(self) -> list[Path]:
        """Parquet files."""
        return [path for each in self.streams for path in each.segments if isinstance(path, Path)]

    @property
    def objects(self) -> list[ObjectPath]:
        """Parquet objects, in place of files where the store is on an object store."""
        return [p for each in self.streams for p in each.segments if isinstance(p, ObjectPath)]

    def tails(self) -> list[pa.Table]:
        """What is in no Parquet file yet; one table for each schema version. Read when called.

        Raises FileNotFoundError when a log was sealed since it was listed.
        """
        logs: dict[bytes, list[Frame]] = {}
        for stream in self.streams:
            for schema, frames in stream.live:
                logs.setdefault(schema, []).extend(frames)
        try:
            return [decode(schema, frames) for schema, frames in logs.items() if frames]
        except DamagedError as error:
            raise self._say_where(error) from error

    def _say_where(self, error: DamagedError) -> DamagedError:
        """The same error, with the streams whose frames cannot be decoded."""
        damaged = []
        for stream in self.streams:
            try:
                for schema, frames in stream.live:
                    decode(schema, frames)
            except DamagedError:
                damaged.append(str(stream.path))
        said = f"{error}; `sparsing store repair` sets the log aside and keeps its other commits"
        return DamagedError(f"{', '.join(damaged)}: {said}")


def list_rows(
    folders: Mapping[str, Place],
    newest: bool,
    enough_rows: float = math.inf,
    most_files: float = math.inf,
) -> Snapshot:
    """The streams of the first runs, until they have enough rows or no more may be listed.

    Args:
        folders: of each run's files, by run, in order.
        newest: only the last commit of each stream, or its last segment where it has no log.
        enough_rows: no more runs than have this many.
        most_files: no more segments than these; but one run at least.
    """
    count = files = runs = 0
    streams: list[ListedStream] = []
    for folder in folders.values():
        new = list_folder(folder, newest)
        files += sum(len(each.segments) for each in new)
        if runs and files > most_files:
            break
        streams += new
        runs += 1
        if enough_rows < math.inf:
            count += sum(each.count_rows() for each in new)
            if count >= enough_rows:
                break
    return Snapshot(streams, runs)


def list_folder(folder: Place, newest: bool) -> list[ListedStream]:
    """The streams of one run."""
    if isinstance(folder, ObjectPath):
        return [ListedStream(folder, files, newest, read) for files, read in read_streams(folder)]
    return [ListedStream(folder, files, newest) for files in list_streams(folder)]
