"""Sealed segments: Parquet files that never change and whose names verify them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from sparsing.study.errors import DamagedError
from sparsing.study.guarded_json import read_json
from sparsing.study.store.format.log import Frame, decode
from sparsing.study.store.format.partition import Segment
from sparsing.study.store.format.sequences import Coverage, Range
from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.objects import Place

SEQUENCE_NUMBERS = b"sparsing.sequence_numbers"
"""Key in the footer: ranges of sequence numbers as JSON, [[first, last], ...]."""
VERSION = b"sparsing.version"
ROW_GROUP_BYTES = 32 * 2**20
"""Bytes in memory, about, of the rows of a row group."""


LogRows = tuple[bytes, Sequence[Frame]]
"""Schema message and commits of a log."""


@dataclass(frozen=True)
class Draft:
    """A segment that is whole and durable under a temporary name, which no reader looks at."""

    segment: Segment
    path: Path

    def publish(self, folder: Path) -> Segment:
        """Let it be seen, durably; it is no draft any more, also when this fails."""
        try:
            os.link(self.path, folder / self.segment.name)
        except FileExistsError:
            check_digest(folder, self.segment)  # the same name is the same content
        finally:
            self.discard()
        commits.sync_folder(folder)
        return self.segment

    def discard(self) -> None:
        """Remove the temporary file."""
        self.path.unlink(missing_ok=True)


def draft_of(
    scratch: Path, stream: str, generations: Range, paths: Sequence[Path], logs: Sequence[LogRows]
) -> Draft:
    """A draft of all rows of some segments and of logs behind them, in their order."""
    footers = [read_footer(path) for path in paths]
    schemas = [schema for schema, _, _ in footers]
    schemas += [pa.ipc.read_schema(pa.py_buffer(schema)) for schema, _ in logs]
    covered = Coverage(pair for _, ranges, _ in footers for pair in ranges)
    covered.update(pair for _, frames in logs for frame in frames for pair in frame.ranges)

    def parts() -> Iterator[pa.Table]:
        for path in paths:
            yield from read_rows(path)
        for schema, frames in logs:
            yield decode(schema, frames)

    return write_draft(scratch, stream, generations, parts(), joint_schema(schemas), covered)


def write_draft(
    scratch: Path,
    stream: str,
    generations: Range,
    parts: Iterable[pa.Table],
    schema: pa.Schema,
    covered: Coverage,
) -> Draft:
    """Write rows as a segment of generations first to last, durably.

    `scratch` is a folder on the same file system as the segments' folder. Parts are written in
    `schema`, whose metadata are kept.
    """
    numbers = json.dumps(covered.ranges).encode()
    schema = schema.with_metadata({**(schema.metadata or {}), SEQUENCE_NUMBERS: numbers})
    temporary = scratch / f"{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            with parquet_writer(file, schema) as writer:
                for rows in _gathered(parts, schema):
                    writer.write_table(rows)
            file.flush()
            os.fsync(file.fileno())
        return Draft(Segment(stream, *generations, digest_of(temporary)), temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def parquet_writer(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of segments.

    Integers are steps, tokens and times, which grow: as differences they are a fifth of the bytes
    and twice as quick to read as from a dictionary. Text is the same in most rows.
    """
    whole = (pa.types.is_integer, pa.types.is_timestamp)
    numbers = [f.name for f in schema if any(is_a(f.type) for is_a in whole)]
    texts = [f.name for f in schema if pa.types.is_string(f.type)]
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=texts,
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
        write_page_checksum=True,
    )


def _gathered(parts: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    gathered: list[pa.Table] = []
    for part in parts:
        gathered.append(as_schema(part, schema))
        if sum(each.nbytes for each in gathered) >= ROW_GROUP_BYTES:
            yield pa.concat_tables(gathered)
            gathered = []
    yield pa.concat_tables([schema.empty_table(), *gathered])


def as_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows in another schema: what they lack is null, and what it lacks is left out."""
    nothing = pa.nulls(rows.num_rows)
    columns = [
        (rows[field.name] if field.name in rows.column_names else nothing).cast(field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def check_types(found: pa.Schema, declared: pa.Schema) -> None:
    """Raise DamagedError where a column has a type that no version of the table had.

    Numbers may be wider or narrower; columns that only one of the schemas has do not matter.
    """
    for field in found:
        at = declared.get_field_index(field.name)
        if at >= 0 and _family(field.type) != _family(declared.field(at).type):
            said = f"column {field.name} is {field.type}, not {declared.field(at).type}"
            raise DamagedError(f"{said}: no version of sparsing wrote this")


def _family(dtype: pa.DataType) -> str:
    if pa.types.is_integer(dtype) or pa.types.is_floating(dtype):
        return "number"
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return f"list of {_family(dtype.value_type)}"
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype):
        return "text"
    return "time" if pa.types.is_timestamp(dtype) else str(dtype)


def readable(schema: bytes, frames: Sequence[Frame], declared: pa.Schema) -> list[Frame]:
    """Those commits of a log that hold rows of the table; all, unless somebody made others."""

    def are_readable(some: Sequence[Frame]) -> bool:
        try:
            check_types(decode(schema, some).schema, declared)
        except DamagedError:
            return False
        return True

    return list(frames) if are_readable(frames) else [f for f in frames if are_readable([f])]


def damaged_columns(path: Path) -> list[str]:
    """Columns of a segment with a page whose checksum is wrong, or that cannot be decoded.

    Segments of earlier versions have no checksums of pages.
    """
    found = []
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for name in file.schema_arrow.names:
                if not _is_readable(file, name):
                    found.append(name)
    except Exception:  # pyarrow meets bytes that were flipped anywhere, and raises as it falls
        return ["the footer"]
    return found


def _is_readable(file: pq.ParquetFile, column: str) -> bool:
    try:
        for group in range(file.num_row_groups):
            file.read_row_group(group, columns=[column])
    except Exception:  # likewise
        return False
    return True


def digest_of(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def verify_segment(path: Place) -> None:
    """Raise DamagedError when a segment, on disk or an object, is not what was written."""
    segment = Segment.parse(path.name)
    assert segment is not None
    if isinstance(path, Path):
        check_digest(path.parent, segment)
    elif hashlib.sha256(path.read_bytes()).hexdigest()[:16] != segment.digest:
        raise DamagedError(f"{path}: changed or damaged: its digest is not that of its name")


def check_digest(folder: Path, segment: Segment) -> None:
    """Raise DamagedError when a segment is not what was written."""
    found = digest_of(folder / segment.name)
    if found != segment.digest:
        raise DamagedError(
            f"{folder / segment.name}: its content has digest {found}: it was changed or damaged; "
            "`sparsing store repair` sets it aside"
        )


def read_footer(path: Place) -> tuple[pa.Schema, list[Range], int]:
    """Schema, ranges of sequence numbers, and rows of a segment."""
    try:
        metadata = pq.read_metadata(path if isinstance(path, Path) else path.open())
        schema = metadata.schema.to_arrow_schema()
        ranges = read_json((metadata.metadata or {})[SEQUENCE_NUMBERS])
        return schema, [(int(first), int(last)) for first, last in ranges], metadata.num_rows
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: {error}; `sparsing store check`") from error


def runs_in(path: Path) -> set[str]:
    """Runs that the statistics of a segment's column `run` name; at most two for a row group."""
    metadata = pq.read_metadata(path)
    at = metadata.schema.names.index("run")
    groups = (metadata.row_group(i).column(at).statistics for i in range(metadata.num_row_groups))
    return {
        end for found in groups if found and found.has_min_max for end in (found.min, found.max)
    }


def joint_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """A schema that holds rows of all of these without loss; metadata are of the newest version."""
    newest = max(schemas, key=lambda schema: int((schema.metadata or {}).get(VERSION, b"0")))
    others = [schema for schema in schemas if schema is not newest]
    joint = pa.unify_schemas([newest, *others], promote_options="permissive")
    return joint.with_metadata(newest.metadata)


def read_rows(path: Path) -> Iterator[pa.Table]:
    """A segment's rows, row group by row group."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def parquet_bytes(parts: Iterable[pa.Table], schema: pa.Schema, covered: Coverage) -> bytes:
    """What a segment of these rows consists of."""
    numbers = json.dumps(covered.ranges).encode()
    schema = schema.with_metadata({**(schema.metadata or {}), SEQUENCE_NUMBERS: numbers})
    buffer = io.BytesIO()
    with parquet_writer(buffer, schema) as writer:
        for rows in _gathered(parts, schema):
            writer.write_table(rows)
    return buffer.getvalue()
