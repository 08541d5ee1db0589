"""Reading tables: a polars LazyFrame over segments and logs, as they are when it is collected.

The folders are listed when the frame is collected, and again when a file vanishes because it was
sealed or merged meanwhile: then a larger one is there. So one `collect` sees one state of each
stream, however long ago the frame was made. Some runs at a time are read, and are in memory before
their first row is handed on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from study.log import Frame, LogContent, counting, decode, read_log
from study.object_partition import read_streams, segment_rows
from study.objects import ObjectPath, Place, in_parallel
from study.partition import StreamFiles, list_streams
from study.segments import read_footer

FILES_AT_ONCE = 256
"""Segments that are read before the first row is handed on; more where one run has more."""
LISTINGS = 100
"""So often files that vanish are listed again."""
T = TypeVar("T")

Folders = Callable[[], dict[str, Place]]
"""Folder of each run's files, by run, in order."""


def read_logs(folder: Path, files: StreamFiles) -> Iterator[LogContent]:
    """What counts of a stream's logs, in their order."""
    return counting(read_log(_content(folder / log.name)) for log in files.logs)


def _content(log: Path) -> memoryview:
    """In Arrow's memory, which is used again: for megabytes quicker than new memory of Python's."""
    with pa.OSFile(str(log)) as file:
        return memoryview(file.read_buffer(file.size())).cast("B")


def again_when_vanished(read: Callable[[], T]) -> T:
    """What `read` returns, called again while a file that it listed is gone when it opens it."""
    for _ in range(LISTINGS - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


@dataclass(frozen=True)
class Snapshot:
    """Where a table's rows are at one moment: each row once."""

    segments: list[Path]
    """Parquet files, of one run's stream after the other."""
    tails: list[pa.Table]
    """What is in no Parquet file yet; one table for each schema version."""
    objects: list[ObjectPath]
    """Parquet objects, in place of files where the store is on an object store."""
    runs: int
    """Of how many runs."""


class TableSource:
    """The rows of one table, in its declared schema.

    newest: only the last commit of each stream, or its last segment where it has no log.
    """

    def __init__(self, schema: pa.Schema, folders: Folders, *, newest: bool = False) -> None:
        self._arrow_schema, self._folders, self._newest = schema, folders, newest

    @cached_property
    def schema(self) -> pl.Schema:
        """The schema in polars' words."""
        frame = pl.from_arrow(self._arrow_schema.empty_table())
        assert isinstance(frame, pl.DataFrame)
        return frame.schema

    def frame(self) -> pl.LazyFrame:
        """The rows when collected. Columns, filters and limits are pushed into the files."""
        return register_io_source(self._batches, schema=self.schema, is_pure=True)

    def _batches(
        self,
        columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        """Of the first `n_rows` rows (None: all) those that `predicate` lets through."""
        folders = self._folders()
        runs = _runs_that_fit(list(folders), predicate if n_rows is None else None)
        wanted = list(self.schema) if columns is None else self._wanted(columns, predicate)
        left = n_rows
        while runs and left != 0:
            some = {run: folders[run] for run in runs}
            pushed = predicate if left is None else None
            batches, count = again_when_vanished(partial(self._read, some, wanted, pushed, left))
            for batch in batches:
                rows = batch if predicate is None or pushed is not None else batch.filter(predicate)
                # Of no column polars would take no row either, and count none.
                yield rows if columns is None else rows[columns or ["run"]]
                left = None if left is None else left - len(batch)
            runs = runs[count:]

    def snapshot(self) -> Snapshot:
        """What the rows are in now."""
        return again_when_vanished(lambda: self._snapshot(self._folders()))

    def _read(
        self,
        folders: Mapping[str, Place],
        wanted: list[str],
        predicate: pl.Expr | None,
        n_rows: int | None,
    ) -> tuple[list[pl.DataFrame], int]:
        """Rows of the first of these runs, `n_rows` at most, and of how many runs they are."""
        found = self._snapshot(folders, n_rows, FILES_AT_ONCE)
        read = in_parallel(lambda path: segment_rows(path, wanted), found.objects)
        parts = [self._segments(found.segments).select(wanted)]
        parts += [self._conform(rows, wanted) for rows in (*read, *found.tails)]
        rows = pl.concat(parts, how="vertical")
        rows = rows if n_rows is None else rows.head(n_rows)
        rows = rows if predicate is None else rows.filter(predicate)
        return list(rows.collect_batches(maintain_order=True)), found.runs

    def _snapshot(
        self,
        folders: Mapping[str, Place],
        enough_rows: float | None = None,
        enough_files: float = math.inf,
    ) -> Snapshot:
        """Of all streams, or of the first that have so many rows or segments together."""
        count = runs = 0
        segments: list[Path] = []
        objects: list[ObjectPath] = []
        logs: dict[bytes, list[Frame]] = {}
        for folder in folders.values():
            runs += 1
            if isinstance(folder, ObjectPath):
                objects += self._objects(folder, logs)
                continue
            for files in list_streams(folder):
                live = [each for each in read_logs(folder, files) if each.rows]
                sealed = files.segments
                if self._newest:
                    live, sealed = live[-1:], sealed[-1:] if not live else ()
                for content in live:
                    logs.setdefault(content.schema, []).extend(self._frames(content))
                segments += [folder / segment.name for segment in sealed]
                if enough_rows is not None:
                    count += sum(frame.rows for each in live for frame in self._frames(each))
                    count += sum(read_footer(folder / segment.name)[2] for segment in sealed)
            if len(segments) >= enough_files or (enough_rows is not None and count >= enough_rows):
                break
        tails = [decode(*each) for each in logs.items() if each[1]]
        return Snapshot(segments, tails, objects, runs)

    def _frames(self, content: LogContent) -> list[Frame]:
        frames = [frame for frame in content.commits if frame.rows]
        return frames[-1:] if self._newest else frames

    def _objects(self, folder: ObjectPath, logs: dict[bytes, list[Frame]]) -> Iterator[ObjectPath]:
        """A partition's segments; the commits of its logs are put into `logs`."""
        for files, contents in read_streams(folder):
            live = [content for content in contents if content.rows]
            sealed = files.segments
            if self._newest:
                live, sealed = live[-1:], sealed[-1:] if not live else ()
            for content in live:
                logs.setdefault(content.schema, []).extend(content.commits)
            yield from (folder / segment.name for segment in sealed)

    def _wanted(self, columns: list[str], predicate: pl.Expr | None) -> list[str]:
        """The columns that are to be read, in the schema's order."""
        named = {*columns, *(predicate.meta.root_names() if predicate is not None else ())}
        return [name for name in self.schema if name in (named or {"run"})]

    def _segments(self, paths: list[Path]) -> pl.LazyFrame:
        if not paths:
            return pl.LazyFrame(schema=self.schema)
        return pl.scan_parquet(
            paths,
            schema=self.schema,
            glob=False,
            hive_partitioning=False,
            missing_columns="insert",
            extra_columns="ignore",
            cast_options=pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast"),
        )

    def _conform(self, rows: pa.Table, wanted: list[str]) -> pl.LazyFrame:
        """Some columns, in the declared types; null where an older version lacks them."""
        there = [name for name in wanted if name in rows.column_names]
        # One column at least, which says how many rows there are.
        frame = pl.from_arrow(rows.select(there or rows.column_names[:1]))
        assert isinstance(frame, pl.DataFrame)
        columns = [
            pl.col(name).cast(self.schema[name])
            if name in there
            else pl.lit(None, self.schema[name]).alias(name)
            for name in wanted
        ]
        return frame.lazy().with_columns(columns).select(wanted)


def _runs_that_fit(runs: list[str], predicate: pl.Expr | None) -> Sequence[str]:
    """The runs whose rows a filter may let through, as far as it speaks of runs alone."""
    if predicate is None or not runs:
        return runs
    frame = pl.DataFrame({"run": runs}, schema={"run": pl.String})
    for part in _conjuncts(predicate):
        if set(part.meta.root_names()) == {"run"}:
            frame = frame.filter(part)
    return frame["run"].to_list()


def _conjuncts(expression: pl.Expr) -> Iterator[pl.Expr]:
    """What an expression requires all of: `a & b & c` gives a, b and c."""
    inputs = expression.meta.pop()
    if len(inputs) == 2 and (inputs[1] & inputs[0]).meta.eq(expression):
        yield from _conjuncts(inputs[1])
        yield from _conjuncts(inputs[0])
    else:
        yield expression
