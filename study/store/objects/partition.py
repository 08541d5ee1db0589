"""Which objects of a partition count, and what is in them.

On an object store a log is one commit, put once, and never changes. The writer whose put takes a
generation's name has the generation; the names of sealed logs are free again, but what a belated
writer puts there is behind a segment, which counts before it.

Segments are made of whole blocks of generations, or of all blocks from the first: two of them are
disjoint, or one holds the other, whoever makes them, at whatever time. So sealing needs no lock.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from sparsing.study.errors import DamagedError
from sparsing.study.store.format.log import LogContent, read_log
from sparsing.study.store.format.partition import LISTINGS, Segment, StreamFiles, resolve
from sparsing.study.store.format.segments import read_footer
from sparsing.study.store.format.sequences import Range
from sparsing.study.store.io.objects import ObjectPath, Stat, in_parallel

SMALLEST_BLOCK, LARGEST_BLOCK = 16, 512
"""Generations in a block: at first, and at most; between, about an eighth of all before it."""
LOOKS = 50
"""Most reads of what changes while it is read."""


def block_of(generation: int) -> Range:
    """First and last generation of the block in which a generation is."""
    size = SMALLEST_BLOCK
    while size < LARGEST_BLOCK and size * 16 <= generation:
        size *= 2
    first = generation - generation % size
    return first, first + size - 1


Stats = Mapping[str, Stat]
Read = list[tuple[StreamFiles, list[LogContent]]]
"""Streams, each with the content of its logs."""


def list_objects(folder: ObjectPath, stream: str | None = None) -> list[StreamFiles]:
    """The streams of a partition, or one; DamagedError where one has a hole."""
    return _listed(folder, stream)[0]


def _listed(folder: ObjectPath, stream: str | None) -> tuple[list[StreamFiles], Stats]:
    problems: list[str] = []
    for _ in range(LISTINGS):  # one listing of many pages may miss what is replaced meanwhile
        objects = folder.list()[0]
        found = [f for f in resolve(objects) if stream in (None, f.stream)]
        problems = [files.problem for files in found if files.problem]
        if not problems:
            return found, objects
    raise DamagedError(f"{folder}: {'; '.join(problems)}; `sparsing store check` says more")


def read_streams(folder: ObjectPath, stream: str | None = None) -> Read:
    """The streams of a partition, or one, and their logs, as they were at one moment.

    A log that was read before any segment held it is the one that counts: a listing after the
    reading tells.
    """
    files, stats = _listed(folder, stream)
    for _ in range(LOOKS):
        try:
            contents = [_contents(folder, each, stats) for each in files]
        except FileNotFoundError:
            contents = None
        again, stats = _listed(folder, stream)
        sealed = {each.stream: each.next_sealed for each in again}
        if contents is not None and all(sealed[f.stream] == f.next_sealed for f in files):
            return list(zip(files, contents, strict=True))
        files = again
    raise FileNotFoundError(f"{folder}: its objects change faster than they can be read")


def _contents(folder: ObjectPath, files: StreamFiles, stats: Stats) -> list[LogContent]:
    paths = [(folder / log.name, stats[log.name]) for log in files.logs]
    return in_parallel(lambda each: read_object(*each), paths)


@lru_cache(maxsize=4096)
def read_object(path: ObjectPath, stat: Stat) -> LogContent:
    """The content of a log that was put at this time; DamagedError when it is not what was put."""
    data = path.read_bytes()
    content = read_log(data)
    if not content.schema or content.valid_bytes != len(data):
        raise DamagedError(f"{path} is damaged at byte {content.valid_bytes}")
    return content


@lru_cache(maxsize=65536)
def footer_of(path: ObjectPath) -> tuple[pa.Schema, tuple[Range, ...], int]:
    """Schema, ranges of sequence numbers, and rows of a segment, which never changes."""
    schema, ranges, rows = read_footer(path)
    return schema, tuple(ranges), rows


def segment_rows(path: ObjectPath, columns: list[str] | None = None) -> pa.Table:
    """A segment's rows, or the columns of them that it has."""
    wanted = None
    if columns is not None:
        there = set(footer_of(path)[0].names)
        wanted = [name for name in columns if name in there]
    with path.open() as file:
        return pq.read_table(file, columns=wanted)


def verified_rows(path: ObjectPath, segment: Segment) -> pa.Table:
    """All rows of a segment whose content has the digest of its name; DamagedError otherwise."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest()[:16] != segment.digest:
        raise DamagedError(f"{path} is not what was put there; `sparsing store check`")
    return pq.read_table(io.BytesIO(data))
