"""A cell: a few bytes that are replaced only by who has seen their newest version.

What a lease stands on, and all that it asks of a store. An object store gives it by conditional
PUTs (`If-Match` of an ETag); a folder by the one thing that POSIX file systems, also network ones,
do for one process alone: to link a name that is not there yet.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.objects import ObjectPath

KEPT_VERSIONS = 8
"""Older ones are removed. A folder's listing may miss a name that comes and goes meanwhile; the
newest of these cannot all have done so."""


class VersionedCell(Protocol):
    """Bytes with a version; versions are opaque to who uses the cell."""

    def read(self) -> tuple[bytes, str] | None:
        """The newest content and its version; None before the first."""

    def write(self, content: bytes, version: str | None) -> str | None:
        """Replace what `version` holds (None: nothing); the new version, or None if it changed."""


class ObjectCell:
    """A cell that is one object."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path

    def read(self) -> tuple[bytes, str] | None:
        """The newest content and its version; None before the first."""
        return self._path.read_versioned()

    def write(self, content: bytes, version: str | None) -> str | None:
        """Replace what `version` holds; the new version, or None if it has changed.

        Raises ObjectStoreError when the service refuses. Contents must differ from write to write.
        """
        if not self._path.write_if(content, version):
            return None
        found = self.read()
        return found[1] if found and found[0] == content else None


class FolderCell:
    """A cell of files `<name>-<number>` in a folder; the highest number counts."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._pattern = re.compile(rf"{re.escape(name)}-(\d{{12}})")

    def read(self) -> tuple[bytes, str] | None:
        """The newest content and its version; None before the first."""
        while number := self._newest():
            try:
                return self._file(number).read_bytes(), str(number)
            except FileNotFoundError:
                continue  # removed since, for newer ones are there
        return None

    def write(self, content: bytes, version: str | None) -> str | None:
        """Replace what `version` holds; the new version, or None if it has changed.

        Raises OSError when the disk refuses.
        """
        number = int(version or 0) + 1
        self._folder.mkdir(parents=True, exist_ok=True)
        # Who stood still for long may find its number free again, because it was removed: it has
        # changed nothing, for there are higher ones, and these count.
        if not self._link(content, number) or self._newest() != number:
            return None
        for old in self._numbers():
            if old <= number - KEPT_VERSIONS:
                self._file(old).unlink(missing_ok=True)
        return str(number)

    def written_at(self) -> float | None:
        """When the newest content was written, since 1970 by the file system's clock."""
        try:
            return self._file(self._newest()).stat().st_mtime
        except FileNotFoundError:
            return None

    def _link(self, content: bytes, number: int) -> bool:
        """Make a version durably, whole or not at all; False where it is there already."""
        temporary = commits.write_durably(content, self._folder, f".{self._name}")
        try:
            try:
                os.link(temporary, self._file(number))
            except FileExistsError:
                # NFS says so too when it did link, and its answer got lost.
                if temporary.stat().st_nlink != 2:
                    return False
        finally:
            temporary.unlink(missing_ok=True)
        commits.sync_folder(self._folder)
        return True

    def _file(self, number: int) -> Path:
        return self._folder / f"{self._name}-{number:012d}"

    def _newest(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return [int(found[1]) for name in names if (found := self._pattern.fullmatch(name))]
