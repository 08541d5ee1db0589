"""The result store: one folder per study, of Arrow data that any reader opens without us.

    <root>/<study_id>/study.yaml                       canonical definition
                     /tables/<table>/run=<run>/*.parquet   one file per commit, never rewritten
                     /checkpoints/<run>/...
                     /report.html
                     /.writing/                        locks and temporary files of writers

Promises: a row that `TableWriter.flush` acknowledged is never lost, and is there exactly once;
a reader sees whole commits; a commit never touches what is there. `tables/<table>/*/*.parquet` is
the glob for other readers; `StudyStore.scan` is the one for ours.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from study import commits
from study.definition import Study
from study.errors import DefinitionError, NotFoundError, SparsingError
from study.tables import TABLES, Table
from study.writer import TableWriter

DEFINITION = "study.yaml"


class StudyStore:
    """A study's folder in a store. Make one with `create` or `open`."""

    def __init__(self, path: Path, study: Study) -> None:
        self.path = path
        self.study = study
        self._row_counts: dict[Path, int] = {}

    @property
    def study_id(self) -> str:
        """The study's id, which is the folder's name."""
        return self.path.name

    @classmethod
    def create(cls, root: str | Path, study: Study) -> StudyStore:
        """The study's folder in `root`, made where it is not there yet.

        What is no part of the id (description, resources) is kept as given here.
        """
        path = _local(root) / study.study_id
        path.mkdir(parents=True, exist_ok=True)
        commits.sync_folder(path.parent)
        content = _to_yaml(study)
        file = path / DEFINITION
        if not file.exists() or file.read_bytes() != content:
            commits.replace(content, file)
        return cls(path, study)

    @classmethod
    def open(cls, root: str | Path, selector: str | Path) -> StudyStore:
        """A study that is there, by id, unique prefix, unique name, or path of its folder.

        Raises NotFoundError, which lists what is there, and DefinitionError where several fit.
        """
        path = Path(selector).expanduser()
        if not (path.is_absolute() or len(path.parts) > 1 or (path / DEFINITION).is_file()):
            path = _local(root) / _select(_local(root), str(selector))
        if not (path / DEFINITION).is_file():
            raise NotFoundError(f"no study at {path}: there is no {path / DEFINITION}")
        path = path.resolve()
        return cls(path, _read_definition(path))

    def partition(self, table: str, run: str) -> Path:
        """Folder of a run's files of a table."""
        return self.path.joinpath(*commits.partition_parts(_table(table).name, run))

    def runs_present(self, table: str) -> list[str]:
        """Ids of the runs that have rows in a table, sorted."""
        return [run for run in self._partitions(table) if self._data_files(table, run)]

    def changed_ns(self, table: str) -> dict[str, int]:
        """When each run's folder of a table got its newest file, in nanoseconds since 1970."""
        runs = self._partitions(table)
        return {run: self.partition(table, run).stat().st_mtime_ns for run in runs}

    def _partitions(self, table: str) -> list[str]:
        folder = self.path / "tables" / _table(table).name
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        runs = [name.removeprefix("run=") for name in names if name.startswith("run=")]
        return [run for run in runs if commits.IDENTIFIER.fullmatch(run)]

    def _data_files(
        self, table: str, run: str | Sequence[str] | None = None, newest: bool = False
    ) -> list[Path]:
        paths: list[Path] = []
        runs = self._partitions(table) if run is None else [run] if isinstance(run, str) else run
        for each in runs:
            folder = self.partition(table, each)
            files = commits.list_data_files(folder)
            if newest:
                files = list({file.stream: file for file in files}.values())
            paths += [folder / file.name for file in files]
        return paths

    def scan(
        self, table: str, run: str | Sequence[str] | None = None, newest: bool = False
    ) -> pl.LazyFrame:
        """A table as it is now, or one run or some of it, in the table's declared schema.

        Rows are in the order of run, stream and sequence number. A column that a file of an older
        version lacks is null; one that only a newer version has is left out. `newest` reads only
        the last commit of each stream.
        """
        schema = _polars_schema(_table(table).schema)
        files = self._data_files(table, run, newest)
        if not files:
            return pl.LazyFrame(schema=schema)
        # Hive partitions only spare reading: the files have the column `run` as well. polars takes
        # any `key=value` in the path for one, so not where the store itself lies under such a name.
        hive = "=" not in str(self.path)
        return pl.scan_parquet(
            files,
            schema=schema,
            glob=False,
            hive_partitioning=hive,
            hive_schema={"run": pl.String} if hive else None,
            missing_columns="insert",
            extra_columns="ignore",
            cast_options=pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast"),
        )

    def count_rows(self, table: str, run: str | None = None) -> int:
        """Rows of a table, or of one run; quick when asked again, for files never change."""
        return sum(self._rows_of(file) for file in self._data_files(table, run))

    def _rows_of(self, file: Path) -> int:
        if file not in self._row_counts:
            self._row_counts[file] = pq.read_metadata(file).num_rows
        return self._row_counts[file]

    def writer(
        self, table: str, *, run: str, attempt: int, stream: str = "main", **settings: float
    ) -> TableWriter:
        """A writer of one stream of a run's rows; `settings` are those of TableWriter."""
        return TableWriter(
            _table(table), self.path, run=run, attempt=attempt, stream=stream, **settings
        )


def list_studies(root: str | Path) -> list[str]:
    """Ids of the studies in a store, sorted; empty when the store is not there yet."""
    folder = _local(root)
    if not folder.is_dir():
        return []
    return sorted(path.parent.name for path in folder.glob(f"*/{DEFINITION}"))


def _local(root: str | Path) -> Path:
    if "://" in str(root):
        raise DefinitionError(f"the store {root} is no folder; give a local or mounted folder")
    return Path(root).expanduser().absolute()


def _table(name: str) -> Table:
    if name not in TABLES:
        raise DefinitionError(f"no table {name!r}; the tables are {', '.join(TABLES)}")
    return TABLES[name]


def _select(root: Path, selector: str) -> str:
    there = list_studies(root)
    if selector in there:
        return selector
    named = [each for each in there if each.rpartition("-")[0] == selector]
    found = named or [each for each in there if selector and each.startswith(selector)]
    if len(found) > 1:
        raise DefinitionError(f"{selector!r} fits several studies: {', '.join(found)}")
    if not found:
        listed = f"there are: {', '.join(there)}" if there else "there is none"
        raise NotFoundError(f"no study {selector!r} in {root}; {listed}")
    return found[0]


def _read_definition(path: Path) -> Study:
    file = path / DEFINITION
    try:
        study = Study.model_validate(YAML(typ="safe").load(file.read_text("utf-8")))
    except (YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise SparsingError(f"{file} is damaged: {error}") from error
    if study.study_id != path.name:
        raise SparsingError(
            f"{file} holds study {study.study_id}, not {path.name}: it was changed by hand; "
            "to change a study, run the changed definition, which is a study of its own"
        )
    return study


def _to_yaml(study: Study) -> bytes:
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    stream = io.BytesIO()
    yaml.dump(study.model_dump(mode="json"), stream)
    return stream.getvalue()


def _polars_schema(schema: pa.Schema) -> pl.Schema:
    frame = pl.from_arrow(schema.empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.schema
