"""What a commit is on disk: data files whose names say their sequence numbers, published whole.

A stream's file `main-000000000007-000000000009.parquet` holds all rows of the sequence numbers 7,
8 and 9. It is written under a temporary name beside the tables, fsynced, and linked to its name,
which fails where the name is taken; then the folder is fsynced. So a reader that lists a folder
sees whole commits only, and power loss takes nothing that was acknowledged, as far as the file
system keeps what it was told to fsync.

One writer of a stream commits at a time, by a lock on a file (`flock`, which the kernel drops when
its holder dies), so that two writers of one stream cannot publish a sequence number twice.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from study.errors import DefinitionError

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
STREAM = re.compile(r"[a-z][a-z0-9_]{0,31}")
DATA_FILE = re.compile(r"([a-z][a-z0-9_]{0,31})-(\d{12,19})-(\d{12,19})\.parquet")
LEFTOVER_SECONDS = 600.0
"""Temporary files older than this belong to a dead writer; a live one publishes in seconds."""


@dataclass(frozen=True, order=True)
class DataFile:
    """A published commit: the sequence numbers first to last, both included, of one stream."""

    stream: str
    first: int
    last: int

    @property
    def name(self) -> str:
        """Its file name; names sort in the order of the sequence numbers."""
        return f"{self.stream}-{self.first:012d}-{self.last:012d}.parquet"

    @staticmethod
    def parse(name: str) -> DataFile | None:
        """The commit that a file name speaks of; None for any other file."""
        match = DATA_FILE.fullmatch(name)
        return DataFile(match[1], int(match[2]), int(match[3])) if match else None


class Coverage:
    """A set of sequence numbers, kept as ranges."""

    def __init__(self, files: Iterable[DataFile] = ()) -> None:
        self._ranges = sorted((file.first, file.last) for file in files)

    def __contains__(self, seq: int) -> bool:
        at = bisect_right(self._ranges, seq, key=lambda pair: pair[0]) - 1
        return at >= 0 and seq <= self._ranges[at][1]

    @property
    def next_seq(self) -> int:
        """One more than the largest number; 0 when empty."""
        return self._ranges[-1][1] + 1 if self._ranges else 0


def check_identifier(word: str, what: str, pattern: re.Pattern[str] = IDENTIFIER) -> str:
    """The word, if it may be a part of a path; DefinitionError otherwise."""
    if not isinstance(word, str) or not pattern.fullmatch(word):
        raise DefinitionError(
            f"{word!r} cannot be the {what}: it must match {pattern.pattern} (no path separators)"
        )
    return word


def partition_parts(table: str, run: str) -> tuple[str, str, str]:
    """Where a run's files of a table are, below the study's folder."""
    return "tables", table, f"run={check_identifier(run, 'id of a run')}"


def list_data_files(folder: Path, stream: str | None = None) -> list[DataFile]:
    """The commits in a partition's folder, of one stream or all, as they were at one moment.

    One listing may miss a file and yet see a later one; two equal listings in a row are a state
    that really was, for files are only ever added.
    """
    seen = _list(folder, stream)
    while (again := _list(folder, stream)) != seen:
        seen = again
    return seen


def _list(folder: Path, stream: str | None) -> list[DataFile]:
    try:
        with os.scandir(folder) as entries:
            files = [file for entry in entries if (file := DataFile.parse(entry.name))]
    except FileNotFoundError:
        return []
    return sorted(file for file in files if stream in (None, file.stream))


@contextmanager
def stream_lock(path: Path) -> Iterator[None]:
    """Hold a stream's lock; BlockingIOError at once when another writer holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                error.errno, "another writer holds the lock", str(path)
            ) from error
        yield
    finally:
        os.close(descriptor)


def publish(content: bytes | memoryview, target: Path, scratch: Path) -> None:
    """Write a new file so that it is there whole or not at all; FileExistsError when it is there.

    `scratch` is a folder on the same file system for the temporary file. The caller makes the
    name durable with `sync_folder`.
    """
    temporary = _write_durably(content, scratch, target.name)
    try:
        os.link(temporary, target)
    finally:
        os.unlink(temporary)


def replace(content: bytes, target: Path) -> None:
    """Write a file so that at any moment its old or its new content is there; durable."""
    temporary = _write_durably(content, target.parent, f".{target.name}")
    os.replace(temporary, target)
    sync_folder(target.parent)


def _write_durably(content: bytes | memoryview, folder: Path, name: str) -> Path:
    temporary = folder / f"{name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def make_folders(base: Path, names: Iterable[str]) -> None:
    """Make the folder `base/name/name/...` durably, also where a killed writer has made it."""
    for name in names:
        (base / name).mkdir(exist_ok=True)
        sync_folder(base)
        base /= name


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(scratch: Path, older_than_seconds: float = LEFTOVER_SECONDS) -> None:
    """Remove temporary files that killed writers left."""
    for path in scratch.glob("*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > older_than_seconds:
                path.unlink()
        except FileNotFoundError:
            continue
