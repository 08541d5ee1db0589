"""What is done to files so that it is done whole, once, and for good.

A file appears whole, under a name that was not taken, or not at all: it is written under a
temporary name, fsynced, and linked; then the folder is fsynced. So power loss takes nothing that
was acknowledged, as far as the file system keeps what it was told to fsync.

One writer of a stream works at a time, by a lock on a file (`flock`, which the kernel drops when
its holder dies), so that two writers of one stream cannot write a sequence number twice.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsing.study.errors import DefinitionError
from sparsing.study.store.io.objects import Place

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
STREAM = re.compile(r"[a-z][a-z0-9_]{0,31}")
LEFTOVER_SECONDS = 600.0
"""Temporary files older than this belong to a dead writer; a live one publishes in seconds."""


def check_identifier(word: str, what: str, pattern: re.Pattern[str] = IDENTIFIER) -> str:
    """The word, if it may be a part of a path; DefinitionError otherwise."""
    if not isinstance(word, str) or not pattern.fullmatch(word):
        raise DefinitionError(
            f"{word!r} cannot be the {what}: it must match {pattern.pattern} (no path separators)"
        )
    return word


def lock_path(study_path: Path, table: str, run: str, stream: str) -> Path:
    """The file whose lock a stream's writer holds; temporary files are beside it."""
    return study_path / ".writing" / table / run / f"{stream}.lock"


@contextmanager
def stream_lock(path: Path, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold a stream's lock; BlockingIOError when another writer holds it for so long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_seconds
    with opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    said = "another writer holds the lock"
                    raise BlockingIOError(error.errno, said, str(path)) from error
                time.sleep(0.01)
        yield


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A file's descriptor."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(path: Path) -> tuple[bytes, int]:
    """A file's content, as far as it went at one moment, and its inode."""
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        return file.read(found.st_size), found.st_ino


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of it at an offset, in as many writes as the disk wants."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def replace(content: bytes, target: Place) -> None:
    """Write a file so that at any moment its old or its new content is there; durable."""
    if not isinstance(target, Path):
        target.replace_by(content)
        return
    temporary = write_durably(content, target.parent, f".{target.name}")
    os.replace(temporary, target)
    sync_folder(target.parent)


def write_durably(content: bytes, folder: Path, name: str) -> Path:
    """Write a temporary file of a new name, which remains for the caller to name or remove."""
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
