"""Whether a store keeps its promises: reads every byte, changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sparsing.study.errors import DamagedError
from sparsing.study.store.care.check_checkpoints import check_checkpoints
from sparsing.study.store.format.log import LogContent, counting, decode, read_log, whole_frames
from sparsing.study.store.format.partition import Log, Segment, StreamFiles, list_names, resolve
from sparsing.study.store.format.segments import (
    VERSION,
    check_types,
    damaged_columns,
    digest_of,
    read_footer,
    readable,
    runs_in,
)
from sparsing.study.store.format.sequences import Coverage, Range
from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.layout import partition_place
from sparsing.study.store.io.objects import ObjectPath, Place
from sparsing.study.store.objects.check import check_objects
from sparsing.study.store.scan import again_when_vanished
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES
from sparsing.study.store.training_data import check_data

DAMAGE = (
    *("digest", "footer", "log", "torn", "link", "missing", "superseded", "duplicate", "run"),
    *("data", "checkpoint"),
)
"""Kinds of findings that break a promise; the others are notes."""
LOCK_SECONDS = 5.0
DAY_SECONDS = 86400.0


@dataclass(frozen=True, order=True)
class Finding:
    """Something that is not as a whole store has it."""

    path: str
    """Relative to the study's folder."""
    kind: str
    """One of DAMAGE, or `set aside`, `foreign`, `version`, `gap`, `removed`."""
    detail: str

    @property
    def is_damage(self) -> bool:
        """Whether a promise is broken."""
        return self.kind in DAMAGE


@dataclass(kw_only=True)
class TableSize:
    """What a table occupies."""

    runs: int = 0
    segments: int = 0
    logs: int = 0
    rows: int = 0
    bytes: int = 0
    bytes_last_day: int = 0
    """Of the files that were last written in the last 24 hours."""


@dataclass(kw_only=True)
class Report:
    """All that a check found."""

    findings: list[Finding] = field(default_factory=list)
    sizes: dict[str, TableSize] = field(default_factory=dict)

    @property
    def damage(self) -> list[Finding]:
        """The findings that break a promise."""
        return [finding for finding in self.findings if finding.is_damage]


def check_store(store: StudyStore, progress: Callable[[int], None] | None = None) -> Report:
    """Read all files of all tables of a study, and its checkpoints, also while it is written.

    Args:
        store: the study's store.
        progress: called with the bytes of checkpoints that were read since the last call.
    """
    report = Report()
    for table in TABLES:
        report.sizes[table] = TableSize()
        for run, folder in (_begun(store.place, table) | store.folders(table)).items():
            if isinstance(folder, ObjectPath):
                _add_objects(report, store.place, table, folder)
                continue
            partition = _Partition(store, table, run, folder)
            again_when_vanished(partition.check)
            report.findings += partition.findings
            partition.add_to(report.sizes[table])
    if isinstance(store.place, Path):
        report.findings += _beside(store.place)
        report.findings += [Finding(*each) for each in check_checkpoints(store, progress)]
        report.findings += [Finding(*each[:1], "data", each[1]) for each in check_data(store.place)]
    report.findings.sort()
    return report


def _begun(study: Place, table: str) -> dict[str, Place]:
    """Folders of the runs that had a writer of a table here, whether they are there or not."""
    if not isinstance(study, Path):
        return {}
    return {run: partition_place(study, table, run) for run in commits.runs_begun(study, table)}


def is_no_log(path: Path) -> bool:
    """Whether something has the name of a log and is no plain file."""
    return Log.parse(path.name) is not None and not commits.is_plain(path)


def _add_objects(report: Report, study: Place, table: str, folder: ObjectPath) -> None:
    checked = again_when_vanished(lambda: check_objects(folder, table))
    for name, kind, detail in checked.findings:
        path = str(folder / name if name else folder).removeprefix(f"{study}/")
        report.findings.append(Finding(path, kind, detail))
    size, since = report.sizes[table], time.time() - DAY_SECONDS
    stats = [checked.stats[file.name] for file in checked.files]
    size.runs += bool(checked.files)
    size.segments += sum(isinstance(file, Segment) for file in checked.files)
    size.logs += sum(isinstance(file, Log) for file in checked.files)
    size.rows += checked.rows
    size.bytes += sum(stat.st_size for stat in stats)
    size.bytes_last_day += sum(stat.st_size for stat in stats if stat.st_mtime >= since)


class _Partition:
    """The check of one folder."""

    def __init__(self, store: StudyStore, table: str, run: str, folder: Path) -> None:
        self._store, self._table, self._run, self._folder = store, table, run, folder

    def check(self) -> None:
        self.findings: list[Finding] = []
        self._rows = 0
        self._files: list[Segment | Log] = []
        self._stats: list[os.stat_result] = []
        names = list_names(self._folder)
        links = {name for name in names if is_no_log(self._folder / name)}
        for name in sorted(links):
            self._say(name, "link", "no plain file, where a log would be: a writer may be led away")
        for files in resolve(names - links):
            self._check_stream(files)
        for lock in commits.locks(self._store.path, self._table, self._run):
            self._check_noted(lock, names)
        known = {file.name for file in self._files}
        for name in sorted(names - known - links):
            self._say(name, "foreign", "no file of the store; no reader of ours looks at it")

    def add_to(self, size: TableSize) -> None:
        since = time.time() - DAY_SECONDS
        size.runs += bool(self._files)
        size.segments += sum(isinstance(file, Segment) for file in self._files)
        size.logs += sum(isinstance(file, Log) for file in self._files)
        size.rows += self._rows
        size.bytes += sum(stat.st_size for stat in self._stats)
        size.bytes_last_day += sum(s.st_size for s in self._stats if s.st_mtime >= since)

    def _say(self, name: str, kind: str, detail: str) -> None:
        path = (self._folder / name).relative_to(self._store.path)
        self.findings.append(Finding(str(path), kind, detail))

    def _check_stream(self, files: StreamFiles) -> None:
        logs = files.logs
        self._files += [*files.segments, *logs, *files.superseded]
        names = [segment.name for segment in files.segments] + [log.name for log in logs]
        self._stats += [os.stat(self._folder / name) for name in names]
        if files.problem:
            self._say("", "missing", files.problem)
        for file in files.superseded:
            said = "a larger segment holds its rows; readers by glob see them twice"
            self._say(file.name, "superseded", said)
            if isinstance(file, Segment):
                self._check_segment(file)
        covered, doubles = Coverage(), False
        for segment in files.segments:
            doubles |= _add(covered, self._check_segment(segment))
        contents = [self._check_log(files.stream, log) for log in logs]
        counted = list(counting(contents))
        for content in counted:
            doubles |= _add(covered, content.ranges)
            self._rows += content.rows
        for log, content in zip(logs[len(counted) :], contents[len(counted) :], strict=True):
            if content.commits:
                said = "does not go on where the log before it ends, which is damaged or cut"
                self._say(log.name, "log", f"{said}: {len(content.commits)} commits are not seen")
        if doubles:
            said = f"stream {files.stream}: a sequence number is in two files: rows are there twice"
            self._say("", "duplicate", said)
        gaps = len(covered.ranges) - 1
        # Elsewhere numbers are the steps of checkpoints, which have gaps by nature.
        if gaps > 0 and self._table == "steps":
            self._say("", "gap", f"stream {files.stream}: {gaps} gaps in the sequence numbers")

    def _check_noted(self, lock: Path, names: Iterable[str]) -> None:
        """Whether all generations are there that a writer noted beside its lock."""
        noted = commits.noted_generation(lock)
        streams = {files.stream: files for files in resolve(names)}
        there = streams.get(lock.stem, StreamFiles(lock.stem))
        if noted is not None and noted >= there.next_generation:
            lost = f"{there.next_generation}"
            lost += "" if noted == there.next_generation else f" to {noted}"
            self._say("", "missing", f"stream {lock.stem}: generation {lost} was begun and is gone")

    def _check_segment(self, segment: Segment) -> list[Range]:
        path = self._folder / segment.name
        if (found := digest_of(path)) != segment.digest:
            where = ", ".join(damaged_columns(path)) or "no page that is read"
            said = f"changed or damaged, in {where}: its digest is now {found}"
            self._say(segment.name, "digest", said)
            return []
        try:
            schema, ranges, rows = read_footer(path)
            check_types(schema, TABLES[self._table].schema)
            runs = runs_in(path)
        except DamagedError as error:
            self._say(segment.name, "footer", str(error))
            return []
        if runs - {self._run}:
            said = f"holds rows of {', '.join(sorted(runs))}: a copy of another run's file?"
            self._say(segment.name, "run", said)
        version = int((schema.metadata or {}).get(VERSION, b"0"))
        if version > (ours := TABLES[self._table].version):
            said = f"schema version {version}, newer than {ours}: columns that are new are not seen"
            self._say(segment.name, "version", said)
        self._rows += rows
        return ranges

    def _check_log(self, stream: str, log: Log) -> LogContent:
        path = self._folder / log.name
        data = commits.read_file(path)[0]
        content = read_log(data)
        self._check_commits(log, content)
        if content.valid_bytes == len(data):
            return content
        data = self._at_rest(stream, path) or data  # it may have been read within a write
        content = read_log(data)
        rest, behind = len(data) - content.valid_bytes, whole_frames(data, content.valid_bytes)
        if lost := sum(1 for _ in behind):
            said = f"damaged at byte {content.valid_bytes}; {lost} commits behind it are not seen"
            self._say(log.name, "log", said)
        elif rest:
            said = f"{rest} bytes at its end are no whole commit, as a killed writer leaves it"
            self._say(log.name, "torn", said)
        return content

    def _check_commits(self, log: Log, content: LogContent) -> None:
        """Whether commits whose checksums are right hold rows of this table and run."""
        rows = readable(content.schema, content.commits, TABLES[self._table].schema)
        if len(rows) < len(content.commits):
            said = f"{len(content.commits) - len(rows)} commits are whole, and hold no rows of ours"
            self._say(log.name, "log", f"{said}: readers refuse the log, and no writer made it")
        table = decode(content.schema, rows) if rows else None
        named = table is not None and "run" in table.column_names
        found = set(table["run"].unique().to_pylist()) if table is not None and named else set()
        if found - {self._run}:
            said = f"holds rows of {', '.join(map(str, found))}: a copy of another run's file?"
            self._say(log.name, "run", said)

    def _at_rest(self, stream: str, path: Path) -> bytes | None:
        """A log's content while nobody writes; None where the lock cannot be had."""
        lock = commits.lock_path(self._store.path, self._table, self._run, stream)
        try:
            with commits.stream_lock(lock, LOCK_SECONDS):
                return commits.read_file(path)[0]
        except FileNotFoundError:
            raise
        except OSError:
            return None


def _add(covered: Coverage, ranges: list[Range]) -> bool:
    """Add ranges; whether a number was there before."""
    doubled = False
    for first, last in ranges:
        doubled |= any(a <= last and first <= b for a, b in covered.ranges)
        covered.update([(first, last)])
    return doubled


def set_aside(study_path: Path) -> list[Path]:
    """Files in which writers keep what they cut from logs."""
    folder = study_path / ".writing"
    return sorted([*folder.rglob("*.log.torn-*"), *folder.rglob("*.log.damaged-*")])


def _beside(study_path: Path) -> Iterator[Finding]:
    for path in set_aside(study_path):
        commits_in = sum(1 for _ in whole_frames(path.read_bytes(), 0))
        said = f"{path.stat().st_size} bytes cut from a log, {commits_in} whole commits in them"
        yield Finding(str(path.relative_to(study_path)), "set aside", said)
    removed = study_path / ".removed"
    if removed.is_dir():
        files = [path for path in removed.rglob("*") if path.is_file()]
        said = (
            f"{len(files)} files that repairs set aside, {sum(f.stat().st_size for f in files)} B"
        )
        yield Finding(".removed", "removed", said)
