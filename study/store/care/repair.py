"""Healing a store: what is damaged is moved to `.removed/<time>/`, and nothing is deleted.

A damaged segment is replaced by the smaller ones that it had replaced, where they are still there;
else by an empty one, so that readers go on, and a writer that replays its steps writes them again.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from sparsing.study.errors import DamagedError
from sparsing.study.store.care.check import is_no_log, set_aside
from sparsing.study.store.files.stream import FileStream
from sparsing.study.store.format.log import counting, read_log
from sparsing.study.store.format.partition import Log, Segment, StreamFiles, list_names, resolve
from sparsing.study.store.format.segments import (
    check_digest,
    draft_of,
    read_footer,
    readable,
    write_draft,
)
from sparsing.study.store.format.sequences import Coverage, Range
from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.layout import partition_parts, rename_old
from sparsing.study.store.io.objects import ObjectPath
from sparsing.study.store.objects.check import repair_objects
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES

LOCK_SECONDS = 10.0


def repair_store(store: StudyStore) -> list[str]:
    """Heal what can be healed; what was done, one line for each thing.

    Raises BlockingIOError when a writer holds a stream's lock for too long.
    """
    removed = store.place / ".removed" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    if not isinstance(removed, Path):
        return _repair_objects(store, removed)
    repair = _Repair(removed.parent.parent, removed)
    for table in TABLES:
        for folder in rename_old(repair.path, table):
            repair.done.append(f"renamed {folder.relative_to(repair.path)}: it was called run=...")
        for run in sorted({*store.folders(table), *commits.runs_begun(repair.path, table)}):
            folder = repair.path.joinpath(*partition_parts(table, run))
            repair.links(folder)
            there = {files.stream for files in resolve(list_names(folder))}
            begun = {lock.stem for lock in commits.locks(repair.path, table, run)}
            for stream in sorted(there | begun):
                repair.stream(table, run, folder, stream)
    for path in set_aside(repair.path):
        repair.move(path, "what a writer cut from a log")
    return repair.done


def _repair_objects(store: StudyStore, removed: ObjectPath) -> list[str]:
    done = []
    for table in TABLES:
        for run, folder in store.folders(table).items():
            assert isinstance(folder, ObjectPath)
            kept = removed.joinpath(*partition_parts(table, run))
            done += [f"{table}, {run}: {line}" for line in repair_objects(folder, table, kept)]
    return done


class _Repair:
    def __init__(self, path: Path, removed: Path) -> None:
        self.path, self._removed = path, removed
        self.done: list[str] = []

    def move(self, path: Path, why: str) -> None:
        """Set a file aside, durably, under its own path."""
        relative = path.relative_to(self.path)
        target = self._removed / relative
        names = target.parent.relative_to(self.path).parts
        commits.make_folders(self.path, names)
        os.rename(path, target)
        commits.sync_folder(target.parent)
        commits.sync_folder(path.parent)
        self.done.append(f"moved {relative}: {why}")

    def links(self, folder: Path) -> None:
        """Set aside what is no plain file: nothing may be read or written through it."""
        for name in sorted(list_names(folder)):
            if is_no_log(folder / name):
                self.move(folder / name, "it is no plain file, and no log of the store")

    def stream(self, table: str, run: str, folder: Path, name: str) -> None:
        lock = commits.lock_path(self.path, table, run, name)
        with commits.stream_lock(lock, LOCK_SECONDS):
            self._segments(table, folder, name, lock.parent)
        stream = FileStream(self.path, table, run, name)
        with stream.locked(LOCK_SECONDS):
            self._logs(table, folder, stream)
            noted = commits.noted_generation(lock)
            if noted is not None and noted >= _files(folder, name).next_generation:
                stream.seal()
                commits.make_folders(self.path, partition_parts(table, run))
                lost = _files(folder, name).next_sealed, noted
                self._stand_in(table, folder, name, lost, lock.parent)

    def _logs(self, table: str, folder: Path, stream: FileStream) -> None:
        """Seal logs that are damaged or hold what no writer made, from what can be read of them."""
        files, declared = _files(folder, stream.name), TABLES[table].schema
        contents = [read_log(commits.read_file(folder / log.name)[0]) for log in files.logs]
        counted = len(list(counting(contents)))
        foreign = [
            len(readable(each.schema, each.commits, declared)) < len(each.commits)
            for each in contents
        ]
        stream.prepare()
        if any(foreign):
            stream.seal()
        for at, (log, content) in enumerate(zip(files.logs, contents, strict=True)):
            if at >= counted or content.valid_bytes < content.size or foreign[at]:
                self.done.append(f"mended {(folder / log.name).relative_to(self.path)}")

    def _segments(self, table: str, folder: Path, name: str, scratch: Path) -> None:
        files = _files(folder, name)
        broken = [file for file in _all_segments(files) if not _is_whole(folder, file)]
        whole = [s.name for s in _all_segments(files) if s not in broken]
        logs = [log for log in (*files.logs, *files.superseded) if isinstance(log, Log)]
        if broken:
            old = [log for log in logs if log not in files.logs]
            whole += [_sealed(folder, log, scratch).name for log in old]
        after = (resolve([*whole, *(log.name for log in logs)]) or [StreamFiles(name)])[0]
        self._fill(table, folder, after, broken, scratch)
        for segment in broken:
            self.move(folder / segment.name, "its digest is wrong")
        for file in _files(folder, name).superseded:
            self.move(folder / file.name, "a larger segment holds its rows")

    def _fill(
        self, table: str, folder: Path, after: StreamFiles, broken: list[Segment], scratch: Path
    ) -> None:
        """Put empty segments where generations would be missing, without those that are broken."""
        ends = [segment.last + 1 for segment in broken]
        end = after.logs[0].generation if after.logs else max(ends, default=0)
        wanted, at = [], 0
        for segment in after.segments:
            wanted += [(at, segment.first - 1)] if segment.first > at else []
            at = max(at, segment.last + 1)
        wanted += [(at, end - 1)] if end > at else []
        for generations in wanted:
            self._stand_in(table, folder, after.stream, generations, scratch)

    def _stand_in(
        self, table: str, folder: Path, stream: str, generations: Range, scratch: Path
    ) -> None:
        """Put an empty segment where generations are lost."""
        draft = write_draft(scratch, stream, generations, [], TABLES[table].schema, Coverage())
        draft.publish(folder)
        said = f"generations {generations[0]} to {generations[1]} of stream {stream} are lost"
        where = folder.relative_to(self.path)
        self.done.append(f"{where}: {said}; an empty segment stands for them")


def _sealed(folder: Path, log: Log, scratch: Path) -> Segment:
    """A log that a damaged segment had replaced, as a segment of its own."""
    content = read_log(commits.read_file(folder / log.name)[0])
    rows = content.schema, content.commits
    generations = log.generation, log.generation
    return draft_of(scratch, log.stream, generations, [], [rows]).publish(folder)


def _files(folder: Path, stream: str) -> StreamFiles:
    found = [files for files in resolve(list_names(folder)) if files.stream == stream]
    return found[0] if found else StreamFiles(stream)


def _all_segments(files: StreamFiles) -> list[Segment]:
    return [file for file in (*files.segments, *files.superseded) if isinstance(file, Segment)]


def _is_whole(folder: Path, segment: Segment) -> bool:
    try:
        check_digest(folder, segment)
        read_footer(folder / segment.name)
    except DamagedError:
        return False
    return True
