"""The result store: one folder per study, of Arrow data that any reader opens without us.

    <root>/<study_id>/study.yaml                       canonical definition
                     /tables/<table>/run=<run>/*.parquet   sealed segments, which never change
                     /tables/<table>/run=<run>/_*.log      what is not sealed yet
                     /checkpoints/<run>/...
                     /report.html
                     /.writing/                        locks and temporary files of writers

Promises: a row that `TableWriter.flush` acknowledged is never lost, and is there exactly once;
a reader sees whole commits; a commit never touches what is there. `tables/<table>/*/*.parquet` is
the glob for other readers, who see what is sealed; `StudyStore.scan` (polars) and `snapshot`
(DuckDB, pyarrow) see all.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import SafeRepresenter

from study import commits
from study.definition import Study
from study.errors import DamagedError, DefinitionError, NotFoundError, SparsingError
from study.partition import State, list_streams, partition_state
from study.scan import TableSource, again_when_vanished, read_logs
from study.segments import as_schema, read_footer
from study.stream import Stream
from study.tables import TABLES, Table
from study.writer import TableWriter

DEFINITION = "study.yaml"
UNICODE_BREAKS = re.compile("[\x85\u2028\u2029]")


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
        return [run for run, folder in self.folders(table).items() if list_streams(folder)]

    def state(self, table: str, run: str) -> State:
        """Names of a run's files of a table with the sizes of logs: the same rows while the same.

        (Sealing changes it as well, and no row.)
        """
        return partition_state(self.partition(table, run))

    def states(self, table: str) -> dict[str, State]:
        """The state of each run that has a folder."""
        return {run: partition_state(path) for run, path in self.folders(table).items()}

    def folders(self, table: str, run: str | Sequence[str] | None = None) -> dict[str, Path]:
        """Folder of each run's files of a table, of all runs or some."""
        if run is not None:
            runs = [run] if isinstance(run, str) else list(run)
            return {each: self.partition(table, each) for each in runs}
        folder = self.path / "tables" / _table(table).name
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        there = [name.removeprefix("run=") for name in names if name.startswith("run=")]
        fit = [each for each in there if commits.IDENTIFIER.fullmatch(each)]
        return {each: folder / f"run={each}" for each in fit}

    def scan(
        self, table: str, run: str | Sequence[str] | None = None, newest: bool = False
    ) -> pl.LazyFrame:
        """A table, or one run or some of it, in its declared schema, as it is when collected.

        Rows of a stream are in the order in which they were committed. A column that a file of an
        older version lacks is null; one that only a newer version has is left out. `newest` reads
        only the last commit of each stream, or its last segment where the log is sealed. Collecting
        raises DamagedError where a file is missing.
        """
        if run is not None:
            self.folders(table, run)  # a run's id that cannot be is said at once
        schema = _table(table).schema
        return TableSource(schema, lambda: self.folders(table, run), newest=newest).frame()

    def snapshot(
        self, table: str, run: str | Sequence[str] | None = None
    ) -> tuple[list[str], pa.Table]:
        """For DuckDB and others: the Parquet files that count now, and the rows in none of them.

        The rows have the table's declared schema; files of an older version may lack columns
        (`union_by_name`). Before the first seal there is no file, and read_parquet refuses an empty
        list. `seal`, when a run ends, removes files: then take another snapshot.

            files, tail = store.snapshot("steps")
            duckdb.sql(f"SELECT run, min(loss) FROM (SELECT * FROM read_parquet({files}, "
                       "hive_partitioning = false, union_by_name = true) "
                       "UNION ALL BY NAME FROM tail) GROUP BY run")
        """
        source = TableSource(_table(table).schema, lambda: self.folders(table, run))
        found = source.snapshot()
        schema = _table(table).schema
        tails = [as_schema(rows, schema) for rows in found.tails]
        return [str(path) for path in found.segments], pa.concat_tables(
            [schema.empty_table(), *tails]
        )

    def count_rows(self, table: str, run: str | None = None) -> int:
        """Rows of a table, or of one run; quick when asked again, for segments never change."""
        return again_when_vanished(
            lambda: sum(self._rows_in(folder) for folder in self.folders(table, run).values())
        )

    def _rows_in(self, folder: Path) -> int:
        count = 0
        for files in list_streams(folder):
            count += sum(self._rows_of(folder / segment.name) for segment in files.segments)
            count += sum(content.rows for content in read_logs(folder, files))
        return count

    def _rows_of(self, file: Path) -> int:
        if file not in self._row_counts:
            self._row_counts[file] = read_footer(file)[2]
        return self._row_counts[file]

    def seal(self, run: str, patience_seconds: float = 10.0) -> None:
        """Make one Parquet segment of each stream of a run that has ended, also of a dead writer's.

        Changes no answer; a reader by glob that listed files before may miss one: so not while the
        run goes on. Raises BlockingIOError when a writer holds a stream's lock for so long, and
        DamagedError, after all other streams are done, where a segment is damaged.
        """
        damaged: list[str] = []
        for table in TABLES:
            for files in list_streams(self.partition(table, run)):
                stream = Stream(self.path, table, run, files.stream)
                try:
                    with stream.locked(patience_seconds):
                        stream.prepare()
                        stream.merge()
                except DamagedError as error:
                    damaged.append(str(error))
        if damaged:
            raise DamagedError("\n".join(damaged))

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


class _Representer(SafeRepresenter):
    """Quotes text with line breaks of Unicode, which would be read back as newlines."""


def _represent_text(representer: SafeRepresenter, text: str) -> Any:
    style = '"' if UNICODE_BREAKS.search(text) else None
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Representer.add_representer(str, _represent_text)


def _to_yaml(study: Study) -> bytes:
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    stream = io.BytesIO()
    yaml.dump(study.model_dump(mode="json"), stream)
    return stream.getvalue()
