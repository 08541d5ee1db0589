"""Reading tables: a polars LazyFrame over segments and logs, as they are when it is collected.

The folders are listed when the frame is collected, and again when a file vanishes because it was
sealed or merged meanwhile: then a larger one is there. So one `collect` sees one state of each
stream, however long ago the frame was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from study.commits import read_file
from study.log import Frame, LogContent, counting, decode, read_log
from study.partition import StreamFiles, list_streams

LISTINGS = 100
"""So often files that vanish are listed again."""
T = TypeVar("T")

Folders = Callable[[], dict[str, Path]]
"""Folder of each run's files, by run, in order."""


def read_logs(folder: Path, files: StreamFiles) -> Iterator[LogContent]:
    """What counts of a stream's logs, in their order."""
    return counting(read_log(read_file(folder / log.name)[0]) for log in files.logs)


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
        def read() -> pl.DataFrame:
            rows = self._rows(predicate)
            rows = rows if n_rows is None else rows.head(n_rows)
            rows = rows if predicate is None else rows.filter(predicate)
            # Of no column polars would take no row either, and count none.
            return (rows if columns is None else rows.select(columns or ["run"])).collect()

        yield again_when_vanished(read)

    def snapshot(self) -> Snapshot:
        """What the rows are in now."""
        return again_when_vanished(self._snapshot)

    def _rows(self, predicate: pl.Expr | None) -> pl.LazyFrame:
        found = self._snapshot(predicate)
        tails = [self._conform(rows) for rows in found.tails]
        return pl.concat([self._segments(found.segments), *tails], how="vertical")

    def _snapshot(self, predicate: pl.Expr | None = None) -> Snapshot:
        segments: list[Path] = []
        logs: dict[bytes, list[Frame]] = {}
        folders = self._folders()
        for run in _runs_that_fit(list(folders), predicate):
            for files in list_streams(folders[run]):
                live = [each for each in read_logs(folders[run], files) if each.rows]
                sealed = files.segments
                if self._newest:
                    live, sealed = live[-1:], sealed[-1:] if not live else ()
                for content in live:
                    logs.setdefault(content.schema, []).extend(self._frames(content))
                segments += [folders[run] / segment.name for segment in sealed]
        return Snapshot(segments, [decode(*each) for each in logs.items() if each[1]])

    def _frames(self, content: LogContent) -> list[Frame]:
        frames = [frame for frame in content.commits if frame.rows]
        return frames[-1:] if self._newest else frames

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

    def _conform(self, rows: pa.Table) -> pl.LazyFrame:
        frame = pl.from_arrow(rows)
        assert isinstance(frame, pl.DataFrame)
        columns = [
            pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name)
            for name, dtype in self.schema.items()
        ]
        return frame.lazy().select(columns)


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
