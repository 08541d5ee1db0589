"""The files of a source, in an order that never changes: each once, by whatever links it is found.

Files are sorted by their path inside the source. Hidden and temporary files are left out, as what
an editor, a download or a Spark job leaves behind. A folder or file that several links lead to
counts once, under its own name where it has one inside the source.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from sparsing.actors.data.fetching.corpora import corpus_file
from sparsing.actors.data.sources.wording import describe, unreadable
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError
from sparsing.study.store.io.objects import ObjectPath, Place, place_of

STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
"""Folders of the standard library that are no part of its sources: packages, test suites."""
FOLDERS_LEFT_OUT = {"_temporary", "__pycache__", "lost+found"}
TEMPORARY = ("~", ".tmp", ".temp", ".part", ".partial", ".crdownload", ".swp", ".swo", ".lock")
"""Ends of names that unfinished downloads and open editors have."""
SUFFIXES = {
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst"),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
}


class SourceFile(NamedTuple):
    """A file of a source."""

    name: str
    """Its path inside the source, with `/`."""
    size: int
    """Bytes."""


class Files(NamedTuple):
    """A source's files, in order."""

    root: Place
    files: list[SourceFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def place(self, file: SourceFile) -> Place:
        """Where a file is."""
        if isinstance(self.root, ObjectPath):
            return self.root.joinpath(*filter(None, file.name.split("/")))
        return self.root / file.name

    def open(self, file: SourceFile) -> BinaryIO:
        """A file, to be read from its beginning; FileNotFoundError, OSError as it is."""
        place = self.place(file)
        if isinstance(place, ObjectPath):
            return cast(BinaryIO, place.open())
        return place.open("rb")

    def open_unbuffered(self, file: SourceFile) -> Any:
        """The same without a buffer, for who reads blocks: of a million files, buffers count."""
        if isinstance(self.root, ObjectPath):
            return self.open(file)
        return open(f"{self.root}/{file.name}", "rb", buffering=0)


def files_of(source: Source) -> Files:
    """The files of a source; none of a data set of the `datasets` library.

    Raises DefinitionError for what is not there, or has no such files.
    """
    if source.kind == "huggingface":
        return Files(Path(), [])
    if source.kind == "python-stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        found = _walk(source, root, (".py",), STDLIB_LEFT_OUT)
        # By hash: in the order of paths the first megabytes would be tables of character sets.
        return Files(root, sorted(found, key=_hash_of_name))
    if source.kind == "fetched":
        return _one_file(corpus_file(str(source.name)))
    place = place_of(str(source.path))
    if isinstance(place, ObjectPath):
        return _objects(source, place)
    if place.is_file():
        return _one_file(place)
    if not place.is_dir():
        raise DefinitionError(f"{describe(source)}: no such file or folder; correct 'path'")
    return Files(place, _some(source, _walk(source, place, suffixes_of(source), set())))


def suffixes_of(source: Source) -> tuple[str, ...]:
    """Ends of the names of a source's files in a folder."""
    if source.kind == "tokens":
        return TOKEN_SUFFIXES[source.format]
    return SUFFIXES.get(source.kind, ("",))


TOKEN_SUFFIXES = {
    "auto": (".bin", ".ds", ".arrow"),
    "megatron": (".bin",),
    "datatrove": (".ds",),
    "flat": (".bin",),
    "huggingface": (".arrow",),
}


def _one_file(path: Path) -> Files:
    return Files(path.parent, [SourceFile(path.name, path.stat().st_size)])


def _some(source: Source, found: list[SourceFile]) -> list[SourceFile]:
    if not found:
        wanted = " or ".join(filter(None, suffixes_of(source))) or "plain text"
        raise DefinitionError(f"{describe(source)}: no {wanted} files in it; correct 'path'")
    return found


def _hash_of_name(file: SourceFile) -> str:
    return hashlib.sha256(file.name.rpartition("/")[2].encode()).hexdigest()


def _left_out(name: str) -> bool:
    return name.startswith(".") or (name.startswith("#") and name.endswith("#"))


def _is_wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.endswith(suffixes) and not _left_out(name) and not name.endswith(TEMPORARY)


def _walk(
    source: Source, root: Path, suffixes: tuple[str, ...], left_out: set[str]
) -> list[SourceFile]:
    """Sorted files under `root`: first those that are there, then those that links lead to."""
    walk = _Walk(source, root, suffixes, left_out | FOLDERS_LEFT_OUT)
    walk.enter(str(root), "")
    walk.follow_links()
    return sorted(walk.found)


class _Walk:
    """A walk through folders that enters each once."""

    def __init__(
        self, source: Source, root: Path, suffixes: tuple[str, ...], left_out: set[str]
    ) -> None:
        self._source, self._root = source, root
        self._suffixes, self._left_out = suffixes, left_out
        self.found: list[SourceFile] = []
        self._entered: set[tuple[int, int]] = set()
        self._linked: set[tuple[int, int]] = set()
        """Files with several names, and those that links lead to."""
        self._links: list[str] = []

    def enter(self, top: str, name: str) -> None:
        """Collect what is in a folder and below; links are kept for later."""
        waiting = [(top, name)]
        while waiting:
            path, name = waiting.pop()
            if not self._is_new(path):
                continue
            for entry in self._entries(path):
                inside = f"{name}/{entry.name}" if name else entry.name
                if entry.is_symlink():
                    self._links.append(inside)
                elif entry.is_dir(follow_symlinks=False):
                    if not _left_out(entry.name) and entry.name not in self._left_out:
                        waiting.append((entry.path, inside))
                elif _is_wanted(entry.name, self._suffixes):
                    self._add(inside, entry.stat(follow_symlinks=False))

    def follow_links(self) -> None:
        """Collect what only links lead to; those found on the way as well, in order of names."""
        while self._links:
            links, self._links = sorted(self._links), []
            for inside in links:
                self._follow(inside)

    def _follow(self, inside: str) -> None:
        path, name = self._root / inside, inside.rpartition("/")[2]
        if _left_out(name) or name in self._left_out:
            return
        try:
            stat = path.stat()
        except OSError as error:
            if not name.endswith(self._suffixes):
                return
            remedy = "mend or remove the link"
            raise unreadable(self._source, path, error.strerror, remedy) from error
        if path.is_dir():
            self.enter(str(path), inside)
        elif _is_wanted(name, self._suffixes) and self._is_within(path):
            # The file itself was found, under its own name.
            return
        elif _is_wanted(name, self._suffixes):
            self._add(inside, stat, linked=True)

    def _is_within(self, path: Path) -> bool:
        """Whether a link's file has been collected as one of a folder that was entered."""
        own = path.resolve()
        if not _is_wanted(own.name, self._suffixes):
            return False
        try:
            stat = own.parent.stat()
        except OSError:
            return False
        return (stat.st_dev, stat.st_ino) in self._entered

    def _add(self, inside: str, stat: os.stat_result, *, linked: bool = False) -> None:
        if linked or stat.st_nlink > 1:
            key = stat.st_dev, stat.st_ino
            if key in self._linked and linked:
                return
            self._linked.add(key)
        self.found.append(SourceFile(inside, stat.st_size))

    def _is_new(self, path: str) -> bool:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise unreadable(self._source, path, error.strerror, "make it readable") from error
        key = stat.st_dev, stat.st_ino
        new = key not in self._entered
        self._entered.add(key)
        return new

    def _entries(self, path: str) -> Iterator[Any]:
        try:
            with os.scandir(path) as entries:
                yield from entries
        except OSError as error:
            raise unreadable(self._source, path, error.strerror, "make it readable") from error


def _objects(source: Source, place: ObjectPath) -> Files:
    """The objects at a location, or below it."""
    if place.key and place.is_file():
        size = place.stat().st_size
        return Files(place.parent, [SourceFile(place.name, size)])
    found: list[SourceFile] = []
    suffixes = suffixes_of(source)
    waiting: list[tuple[ObjectPath, str]] = [(place, "")]
    while waiting:
        folder, name = waiting.pop()
        objects, folders = folder.list()
        prefix = f"{name}/" if name else ""
        for each, stat in objects.items():
            if _is_wanted(each, suffixes):
                found.append(SourceFile(prefix + each, stat.st_size))
        for each in folders:
            if not _left_out(each) and each not in FOLDERS_LEFT_OUT:
                waiting.append((folder / each, prefix + each))
    return Files(place, _some(source, sorted(found)))
