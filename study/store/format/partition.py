"""Which files of a partition's folder count: sealed segments, and behind them each stream's logs.

Rows of a stream are in generations, numbered from 0 without holes. A generation begins as a log,
`_main-000003.log`, to which commits are appended; it ends as a part of a segment,
`main-000003-000003-<digest>.parquet`, or, after compaction, `main-000000-000003-<digest>.parquet`.
The digest is the beginning of the SHA-256 of the file. Nothing that has a segment's name ever
changes, and no name comes back with other rows. Of several logs only the newest takes commits: the
others are being made segments of.

A file is removed only after another one that holds the same generations is there, so a folder may
hold a generation twice for a moment, or for long when the remover was killed: then the larger range
counts, and any segment before a log.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparsing.study.errors import DamagedError
from sparsing.study.store.io.layout import has_old_name

SEGMENT = re.compile(r"([a-z][a-z0-9_]{0,31})-(\d{6,12})-(\d{6,12})-([0-9a-f]{16})\.parquet")
LOG = re.compile(r"_([a-z][a-z0-9_]{0,31})-(\d{6,12})\.log")
State = frozenset[tuple[str, int]]
"""Names of a partition's files with the sizes of logs: while it is the same, so are the rows."""
LISTINGS = 5
"""Listings before a hole is called damage."""


@dataclass(frozen=True)
class Segment:
    """A sealed file: generations first to last, both included, of one stream."""

    stream: str
    first: int
    last: int
    digest: str
    """First 16 hexadecimal digits of the SHA-256 of the file."""

    @property
    def name(self) -> str:
        """Its file name."""
        return f"{self.stream}-{self.first:06d}-{self.last:06d}-{self.digest}.parquet"

    @staticmethod
    def parse(name: str) -> Segment | None:
        """The segment that a file name speaks of; None for any other file."""
        match = SEGMENT.fullmatch(name)
        return Segment(match[1], int(match[2]), int(match[3]), match[4]) if match else None


@dataclass(frozen=True)
class Log:
    """A file to which commits of one generation are appended."""

    stream: str
    generation: int

    @property
    def name(self) -> str:
        """Its file name; the underscore hides it from pyarrow, Spark and Hive."""
        return f"_{self.stream}-{self.generation:06d}.log"

    @staticmethod
    def parse(name: str) -> Log | None:
        """The log that a file name speaks of; None for any other file."""
        match = LOG.fullmatch(name)
        return Log(match[1], int(match[2])) if match else None


@dataclass(frozen=True)
class StreamFiles:
    """The files of one stream, in the order of their generations."""

    stream: str
    segments: tuple[Segment, ...] = ()
    logs: tuple[Log, ...] = ()
    """Generations behind the segments; the last one takes commits."""
    superseded: tuple[Segment | Log, ...] = ()
    """Files whose generations are in the segments."""
    problem: str | None = None
    """What does not fit together, in words."""

    @property
    def next_generation(self) -> int:
        """The first generation that is not there yet."""
        return self.logs[-1].generation + 1 if self.logs else self.next_sealed

    @property
    def next_sealed(self) -> int:
        """The first generation that is in no segment."""
        return self.segments[-1].last + 1 if self.segments else 0


def resolve(names: Iterable[str]) -> list[StreamFiles]:
    """The streams of a folder with these file names, sorted; other names are left out."""
    segments: dict[str, list[Segment]] = {}
    logs: dict[str, list[Log]] = {}
    for name in names:
        if (segment := Segment.parse(name)) is not None:
            segments.setdefault(segment.stream, []).append(segment)
        elif (log := Log.parse(name)) is not None:
            logs.setdefault(log.stream, []).append(log)
    streams = sorted(segments.keys() | logs.keys())
    return [_resolve(name, segments.get(name, []), logs.get(name, [])) for name in streams]


def _resolve(stream: str, segments: list[Segment], logs: list[Log]) -> StreamFiles:
    chosen: list[Segment] = []
    superseded: list[Segment | Log] = []
    problem, at = None, 0
    # Of equal ranges the one whose name comes first: any rule does, if it is one for all readers.
    for segment in sorted(segments, key=lambda s: (s.first, -s.last, s.digest)):
        if segment.last < at:
            superseded.append(segment)
            continue
        if segment.first != at and problem is None:
            problem = _problem(stream, at, segment.first)
        chosen.append(segment)
        at = segment.last + 1
    live = sorted((log for log in logs if log.generation >= at), key=lambda log: log.generation)
    superseded += [log for log in logs if log.generation < at]
    for generation, log in enumerate(live, at):
        if log.generation != generation and problem is None:
            problem = _problem(stream, generation, log.generation)
    return StreamFiles(stream, tuple(chosen), tuple(live), tuple(superseded), problem)


def _problem(stream: str, at: int, found: int) -> str:
    if found < at:
        return f"stream {stream}: generation {found} is in two segments of different ranges"
    missing = f"{at}" if found == at + 1 else f"{at} to {found - 1}"
    return f"stream {stream}: generation {missing} is missing"


def list_names(folder: Path) -> frozenset[str]:
    """The names in a folder as they were at one moment; empty when it is not there.

    One listing may miss a file that is made meanwhile, and also the one that it replaces and that
    is removed meanwhile. Two equal listings in a row are a state that really was.
    """
    seen = names_now(folder)
    while (again := names_now(folder)) != seen:
        seen = again
    return seen


def names_now(folder: Path) -> frozenset[str]:
    """The names in a folder by one listing; empty when it is not there.

    Raises FileNotFoundError where the folder was renamed since it was found (`io.layout`).
    """
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        if has_old_name(folder):
            raise
        return frozenset()


def list_streams(folder: Path, stream: str | None = None) -> list[StreamFiles]:
    """The streams of a partition's folder, or one of them; DamagedError where one has a hole."""
    for _ in range(LISTINGS):
        found = [f for f in resolve(list_names(folder)) if stream in (None, f.stream)]
        problems = [files.problem for files in found if files.problem]
        if not problems:
            return found
        time.sleep(0.01)
    raise DamagedError(
        f"{folder}: {'; '.join(problems)}; `sparsing store check` says more, "
        "`sparsing store repair` goes on without it"
    )


def partition_state(folder: Path) -> State:
    """Names, and the sizes of logs (0 for others): a folder with the same has the same rows."""
    state = set()
    for name in list_names(folder):
        size = 0
        if LOG.fullmatch(name):
            try:
                size = os.stat(folder / name).st_size
            except FileNotFoundError:  # sealed since: its segment's name will be new
                continue
        state.add((name, size))
    return frozenset(state)
