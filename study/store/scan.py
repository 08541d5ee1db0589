"""Reading tables: a polars LazyFrame over segments and logs, as they are when it is collected.

The folders are listed when the frame is collected, and again when a file vanishes because it was
sealed or merged meanwhile: then a larger one is there. So one `collect` sees one state of each
stream, however long ago the frame was made. Some runs at a time are read; all their files are open,
or where those would be many in memory, before their first row is handed on.
"""

from __future__ import annotations

import math
import resource
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import IO, TypeVar

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from sparsing.study.store.format.segments import check_types, verify_segment
from sparsing.study.store.io.objects import Place, in_parallel
from sparsing.study.store.objects.partition import segment_rows
from sparsing.study.store.snapshot import again_when_vanished, list_rows

FILES_AT_ONCE = 256
"""Segments that are read at once, if one run has no more; polars takes two descriptors for each."""
_STREAMING = threading.Lock()
"""Held by the one scan that has its segments open; another at that time reads them into memory."""

Rows = TypeVar("Rows", pl.DataFrame, pl.LazyFrame)
Folders = Callable[[], dict[str, Place]]
"""Folder of each run's files, by run, in order."""


class TableSource:
    """The rows of one table, in its declared schema.

    newest: only the last commit of each stream, or its last segment where it has no log.
    verify: compare each segment with its digest before it is read.
    """

    def __init__(
        self, schema: pa.Schema, folders: Folders, *, newest: bool = False, verify: bool = False
    ) -> None:
        self._arrow_schema, self._folders, self._newest = schema, folders, newest
        self._verify = verify

    @cached_property
    def schema(self) -> pl.Schema:
        """The schema in polars' words."""
        # Not `empty_table()`: pyarrow then imports pandas where it is installed.
        frame = pl.from_arrow(pa.Table.from_batches([], schema=self._arrow_schema))
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
        # Of no column polars would take no row either, and count none.
        asked = wanted if columns is None else columns or ["run"]

        def finished(rows: Rows) -> Rows:
            return (rows if predicate is None else rows.filter(predicate)).select(asked)

        def read() -> tuple[Iterator[pl.DataFrame], int]:
            nonlocal folders
            try:
                some = {run: folders[run] for run in runs}
                return self._read(some, wanted, finished, left)
            except FileNotFoundError:
                folders |= self._folders()  # a folder of an earlier version may be renamed
                raise

        left = n_rows
        while runs and left != 0:
            batches, count = again_when_vanished(read)
            for batch in batches:
                if left is None:
                    yield batch
                else:  # a limit counts rows before the filter
                    left -= len(batch)
                    yield finished(batch)
            runs = runs[count:]

    def snapshot(self) -> tuple[list[str], list[pa.Table]]:
        """What the rows are in now: Parquet files or objects, and what is in none of them."""

        def look() -> tuple[list[str], list[pa.Table]]:
            found = list_rows(self._folders(), self._newest)
            return [str(path) for path in (*found.segments, *found.objects)], found.tails()

        return again_when_vanished(look)

    def _read(
        self,
        folders: Mapping[str, Place],
        wanted: list[str],
        finished: Callable[[pl.LazyFrame], pl.LazyFrame],
        n_rows: int | None,
    ) -> tuple[Iterator[pl.DataFrame], int]:
        """Rows of the first of these runs, finished or the first few, and of how many runs.

        All files are open or read when this returns: it does not matter when one vanishes.
        """

        def begin(*parts: pl.LazyFrame) -> Iterator[pl.DataFrame]:
            rows = pl.concat(parts, how="vertical")
            rows = finished(rows) if n_rows is None else rows.head(n_rows)
            return iter(rows.collect_batches(maintain_order=True))

        found = list_rows(
            folders, self._newest, math.inf if n_rows is None else n_rows, FILES_AT_ONCE
        )
        if self._verify:
            places: list[Place] = [*found.segments, *found.objects]
            for path in places:
                verify_segment(path)
        with ExitStack() as files:
            sources = _opened(found.segments, files)
            sealed = self._segments(sources or found.segments).select(wanted)
            # Polars reads segments in threads of its own, and logs are read meanwhile.
            batches = begin(sealed) if n_rows is None else iter(())
            read = in_parallel(lambda path: segment_rows(path, wanted), found.objects)
            tails = found.tails()
            for rows in tails:
                check_types(rows.schema, self._arrow_schema)
            others = [self._conform(rows, wanted) for rows in (*read, *tails)]
            if n_rows is not None:
                batches = begin(sealed, *others)
            elif others:
                batches = chain(batches, begin(*others))
            batches = batches if sources else iter(list(batches))
            return _while_open(batches, files.pop_all()), found.runs

    def _wanted(self, columns: list[str], predicate: pl.Expr | None) -> list[str]:
        """The columns that are to be read, in the schema's order."""
        named = {*columns, *(predicate.meta.root_names() if predicate is not None else ())}
        return [name for name in self.schema if name in (named or {"run"})]

    def _segments(self, files: Sequence[Path] | Sequence[IO[bytes]]) -> pl.LazyFrame:
        if not files:
            return pl.LazyFrame(schema=self.schema)
        return pl.scan_parquet(
            files,  # type: ignore[arg-type]  # a sequence is enough
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


def _opened(paths: Sequence[Path], files: ExitStack) -> list[IO[bytes]]:
    """The files, closed with `files`; none where too many would be open."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(paths) <= FILES_AT_ONCE and 4 * len(paths) <= soft_limit
    if not paths or not few or not _STREAMING.acquire(blocking=False):
        return []
    files.callback(_STREAMING.release)
    return [files.enter_context(open(path, "rb", buffering=0)) for path in paths]


def _while_open(batches: Iterator[pl.DataFrame], files: ExitStack) -> Iterator[pl.DataFrame]:
    with files:
        yield from batches


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
