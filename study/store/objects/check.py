"""What is wrong with a partition on an object store, and healing it; nothing is lost by it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from sparsing.study.errors import DamagedError
from sparsing.study.store.format.log import encode_start
from sparsing.study.store.format.partition import Log, Segment, StreamFiles, resolve
from sparsing.study.store.format.segments import VERSION, parquet_bytes, readable
from sparsing.study.store.format.sequences import Coverage, Range
from sparsing.study.store.io.objects import ObjectPath, Stat, in_parallel
from sparsing.study.store.objects.partition import footer_of, read_object, verified_rows
from sparsing.study.store.tables import TABLES, Table


@dataclass
class Checked:
    """A partition as a check found it."""

    findings: list[tuple[str, str, str]] = field(default_factory=list)
    """Name, kind and detail of each."""
    files: list[Segment | Log] = field(default_factory=list)
    stats: Mapping[str, Stat] = field(default_factory=dict)
    rows: int = 0
    broken: list[Segment | Log] = field(default_factory=list)


def check_objects(folder: ObjectPath, table: str) -> Checked:
    """Read every byte of a partition; FileNotFoundError when one is removed meanwhile."""
    stats = folder.list()[0]
    checked = Checked(stats=stats)
    for files in resolve(stats):
        _check_stream(checked, folder, TABLES[table], files)
    known = {file.name for file in checked.files}
    said = "no object of the store; no reader of ours looks at it"
    checked.findings += [(name, "foreign", said) for name in sorted(stats.keys() - known)]
    return checked


def _check_stream(checked: Checked, folder: ObjectPath, table: Table, files: StreamFiles) -> None:
    checked.files += [*files.segments, *files.logs, *files.superseded]
    if files.problem:
        checked.findings.append(("", "missing", files.problem))
    for old in files.superseded:
        # A sealed log is seen by no reader, ours or others; a segment is, by those with a glob.
        if isinstance(old, Segment):
            said = "a larger segment holds its rows; readers by glob see them twice"
            checked.findings.append((old.name, "superseded", said))
    covered, doubled = Coverage(), False
    counting: list[Segment | Log] = [*files.segments, *files.logs]
    looked = in_parallel(partial(_look, folder, checked), counting)
    for file, found in zip(counting, looked, strict=True):
        if isinstance(found, str):
            kind = "digest" if isinstance(file, Segment) else "log"
            checked.findings.append((file.name, kind, found))
            checked.broken.append(file)
            continue
        schema, ranges, rows = found
        checked.rows += rows
        version = int((schema.metadata or {}).get(VERSION, b"0"))
        if version > table.version:
            said = f"schema version {version}, newer than {table.version}: new columns are not seen"
            checked.findings.append((file.name, "version", said))
        for first, last in ranges:
            doubled |= any(a <= last and first <= b for a, b in covered.ranges)
            covered.update([(first, last)])
    if doubled:
        said = f"stream {files.stream}: a sequence number is in two files: rows are there twice"
        checked.findings.append(("", "duplicate", said))
    if (gaps := len(covered.ranges) - 1) > 0 and table.name == "steps":
        said = f"stream {files.stream}: {gaps} gaps in the sequence numbers"
        checked.findings.append(("", "gap", said))


def _look(
    folder: ObjectPath, checked: Checked, file: Segment | Log
) -> tuple[pa.Schema, list[Range], int] | str:
    """Schema, ranges and rows of a segment or log; in words what is wrong with it."""
    path = folder / file.name
    try:
        if isinstance(file, Log):
            content = read_object(path, checked.stats[file.name])
            declared = TABLES[folder.parent.name].schema
            if len(readable(content.schema, content.commits, declared)) < len(content.commits):
                return "its checksum holds, and it has no rows of ours: no writer made it"
            schema = pa.ipc.read_schema(pa.py_buffer(content.schema))
            return schema, content.ranges, content.rows
        found = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        if found != file.digest:
            return f"changed or damaged: its digest is now {found}"
        schema, ranges, rows = footer_of(path)
        return schema, list(ranges), rows
    except DamagedError as error:
        return str(error)


def repair_objects(folder: ObjectPath, table: str, removed: ObjectPath) -> Iterator[str]:
    """Heal a partition, moving what is damaged to `removed`; what was done, a line each.

    What is lost is replaced by what the smaller segments still hold of it, or by nothing, so that
    readers go on and a writer that replays its steps writes them again.
    """
    checked = check_objects(folder, table)
    schema = TABLES[table].schema
    for file in checked.broken:
        data = (folder / file.name).read_bytes()
        (removed / file.name).replace_by(data)
        if isinstance(file, Log):
            (folder / file.name).replace_by(encode_start(schema))
            yield f"{file.name}: damaged; its rows are lost, an empty log stands for it"
            continue
        content = _remains(folder, schema, file, resolve(checked.stats))
        digest = hashlib.sha256(content).hexdigest()[:16]
        new = Segment(file.stream, file.first, file.last, digest)
        (folder / new.name).replace_by(content)
        (folder / file.name).delete()
        yield f"{file.name}: its digest is wrong; {new.name} stands for it"
    for files in resolve(folder.list()[0]):
        for old in files.superseded:
            (removed / old.name).replace_by((folder / old.name).read_bytes())
            (folder / old.name).delete()
            yield f"{old.name}: moved; a larger segment holds its rows"
        there = {log.generation for log in files.logs}
        for generation in range(files.next_sealed, files.next_generation):
            if generation not in there:
                log = Log(files.stream, generation)
                (folder / log.name).put_new(encode_start(schema))
                yield f"{log.name}: it is lost; an empty log stands for it"


def _remains(
    folder: ObjectPath, schema: pa.Schema, lost: Segment, streams: list[StreamFiles]
) -> bytes:
    """A segment of what the segments that a damaged one replaced still hold."""
    (files,) = [each for each in streams if each.stream == lost.stream]
    parts, covered, at = [], Coverage(), lost.first
    for old in files.superseded:
        if isinstance(old, Segment) and old.first >= at and old.last <= lost.last:
            try:
                parts.append(verified_rows(folder / old.name, old))
            except DamagedError:
                continue
            covered.update(footer_of(folder / old.name)[1])
            at = old.last + 1
    return parquet_bytes(parts, schema, covered)
