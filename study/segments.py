"""Sealed segments: Parquet files that never change and whose names verify them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from study import commits
from study.coverage import Coverage, Range
from study.errors import DamagedError
from study.objects import Place
from study.partition import Segment

SEQUENCE_NUMBERS = b"sparsing.sequence_numbers"
"""Key in the footer: ranges of sequence numbers as JSON, [[first, last], ...]."""
VERSION = b"sparsing.version"
ROW_GROUP_BYTES = 32 * 2**20
"""Rows are gathered to about so many bytes in memory for a row group."""


def write_segment(
    folder: Path,
    scratch: Path,
    stream: str,
    generations: Range,
    parts: Iterable[pa.Table],
    schema: pa.Schema,
    covered: Coverage,
) -> Segment:
    """Write rows as a segment of generations first to last, durably.

    `scratch` is a folder on the same file system. Parts are written in `schema`, whose metadata
    are kept.
    """
    numbers = json.dumps(covered.ranges).encode()
    schema = schema.with_metadata({**(schema.metadata or {}), SEQUENCE_NUMBERS: numbers})
    temporary = scratch / f"{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for rows in _gathered(parts, schema):
                    writer.write_table(rows)
            file.flush()
            os.fsync(file.fileno())
        segment = Segment(stream, *generations, digest_of(temporary))
        try:
            os.link(temporary, folder / segment.name)
        except FileExistsError:
            check_digest(folder, segment)  # the same name is the same content
        commits.sync_folder(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return segment


def _gathered(parts: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    gathered: list[pa.Table] = []
    for part in parts:
        gathered.append(_cast(part, schema))
        if sum(each.nbytes for each in gathered) >= ROW_GROUP_BYTES:
            yield pa.concat_tables(gathered)
            gathered = []
    yield pa.concat_tables([schema.empty_table(), *gathered])


def _cast(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    nothing = pa.nulls(rows.num_rows)
    columns = [
        (rows[field.name] if field.name in rows.column_names else nothing).cast(field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def digest_of(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


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
        ranges = json.loads((metadata.metadata or {})[SEQUENCE_NUMBERS])
        return schema, [(int(first), int(last)) for first, last in ranges], metadata.num_rows
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: {error}; `sparsing store check`") from error


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
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for rows in _gathered(parts, schema):
            writer.write_table(rows)
    return buffer.getvalue()
