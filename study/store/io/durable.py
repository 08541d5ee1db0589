"""What is done to files so that it is done whole, once, and for good.

A file appears whole, under a name that was not taken, or not at all: it is written under a
temporary name, fsynced, and linked; then the folder is fsynced. So power loss takes nothing that
was acknowledged, as far as the file system keeps what it was told to fsync.

One writer of a stream works at a time, by a lock on a file (`flock`, which the kernel drops when
its holder dies), so that two writers of one stream cannot write a sequence number twice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsing.study.errors import DamagedError, DefinitionError
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


def locks(study_path: Path, table: str, run: str) -> list[Path]:
    """The locks of a run's streams of a table, of all that ever had a writer here."""
    return sorted((study_path / ".writing" / table / run).glob("*.lock"))


def runs_begun(study_path: Path, table: str) -> list[str]:
    """Runs of which a table ever had a writer here."""
    names = sorted(path.name for path in (study_path / ".writing" / table).glob("*/"))
    return [name for name in names if IDENTIFIER.fullmatch(name)]


def note_generation(lock: Path, generation: int) -> None:
    """Remember beside a stream's lock, durably, which generation was begun; for `check`."""
    with opened(lock, os.O_RDWR | os.O_CREAT) as descriptor:
        write_all(descriptor, b"%012d\n" % generation, 0)
        os.fdatasync(descriptor)


def noted_generation(lock: Path) -> int | None:
    """The generation that was begun last; None where that was not noted, as earlier versions."""
    try:
        text = read_file(lock)[0]
    except (FileNotFoundError, DamagedError):
        return None
    return int(text) if re.fullmatch(rb"\d{12,18}\n", text) else None


@contextmanager
def stream_lock(path: Path, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold a stream's lock; BlockingIOError when another writer holds it for this time."""
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
    """The descriptor of a plain file.

    Raises DamagedError for a link or anything else that somebody put there under its name: nothing
    is read or written through it.
    """
    safe = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags | safe, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _no_plain_file(path) from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _no_plain_file(path)
        yield descriptor
    finally:
        os.close(descriptor)


def check_plain(path: Path) -> None:
    """Raise DamagedError where a name is a link, or anything else than a plain file."""
    if not is_plain(path):
        raise _no_plain_file(path)


def is_plain(path: Path) -> bool:
    """Whether a name is a plain file and no link; FileNotFoundError where there is none."""
    return stat.S_ISREG(os.lstat(path).st_mode)


def _no_plain_file(path: Path) -> DamagedError:
    return DamagedError(
        f"{path} is no plain file, and the store makes none but those: nothing is read or written "
        "through it; `sparsing store repair` sets it aside"
    )


def read_file(path: Path) -> tuple[bytes, int]:
    """A file's content, as far as it went at one moment, and its inode."""
    with opened(path, os.O_RDONLY) as descriptor, open(descriptor, "rb", closefd=False) as file:
        found = os.fstat(descriptor)
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
