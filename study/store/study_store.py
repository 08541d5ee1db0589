"""The result store: one folder per study, of Arrow data that any reader opens without us.

    <root>/<study_id>/study.yaml                       canonical definition
                     /tables/<table>/<run>/*.parquet   sealed segments, which never change
                     /tables/<table>/<run>/_*.log      what is not sealed yet
                     /checkpoints/<run>/...
                     /recovery/<run>/...               the newest recovery points of ongoing runs
                     /report.html
                     /.writing/                        locks and temporary files of writers

The root may also be on an object store: `s3://bucket/prefix`; see docs/store.md.

Promises: a row that `TableWriter.flush` acknowledged is never lost, and is there exactly once;
a reader sees whole commits; a commit never touches what is there. `tables/<table>/*/*.parquet` is
the glob for other readers, who see what is sealed; `StudyStore.scan` (polars) and `snapshot`
(DuckDB, pyarrow) see all.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from sparsing.study.definition.checks import too_many_runs
from sparsing.study.definition.model import Study
from sparsing.study.definition.yaml_tree import MAX_STORED_BYTES, YamlProblem, read_stored_yaml
from sparsing.study.errors import DamagedError, DefinitionError, NotFoundError, SparsingError
from sparsing.study.store.format.partition import State, StreamFiles, list_streams, partition_state
from sparsing.study.store.format.segments import as_schema
from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.layout import partition_place, partition_places
from sparsing.study.store.io.objects import ObjectPath, Place, in_parallel, place_of
from sparsing.study.store.objects.partition import list_objects
from sparsing.study.store.objects.stream import stream_at
from sparsing.study.store.scan import TableSource
from sparsing.study.store.snapshot import again_when_vanished, list_folder
from sparsing.study.store.tables import TABLES, Table
from sparsing.study.store.writer import TableWriter

DEFINITION = "study.yaml"
OBJECT_COMMIT_SECONDS = 5.0
"""On an object store, where a commit is a request: most seconds from `append` to durable."""
UNICODE_BREAKS = re.compile("[\x85\u2028\u2029]")


class StudyStore:
    """A study's folder in a store. Make one with `create` or `open`."""

    def __init__(self, place: Place, study: Study) -> None:
        self.place = place
        self.study = study

    @property
    def path(self) -> Path:
        """The study's folder; DefinitionError where the store is no folder but on an object store.

        For what is made of files that are written in place: checkpoints and prepared data.
        """
        return need_folder(self.place)

    @property
    def study_id(self) -> str:
        """The study's id, which is the folder's name."""
        return self.place.name

    @classmethod
    def create(cls, root: str | Place, study: Study) -> StudyStore:
        """The study's folder in `root`, made where it is not there yet.

        What is no part of the id (description, resources) is kept as given here.
        """
        path = place_of(root) / study.study_id
        if isinstance(path, Path):
            path.mkdir(parents=True, exist_ok=True)
            commits.sync_folder(path.parent)
        content = _to_yaml(study)
        file = path / DEFINITION
        if not file.is_file() or file.read_bytes() != content:
            commits.replace(content, file)
        return cls(path, study)

    @classmethod
    def open(cls, root: str | Place, selector: str | Place) -> StudyStore:
        """A study that is there, by id, unique prefix, unique name, or path of its folder.

        Raises NotFoundError, which lists what is there, and DefinitionError where several fit.
        """
        path = _place_of_study(root, selector)
        if not (path / DEFINITION).is_file():
            raise NotFoundError(
                f"no study at {path}: there is no {path / DEFINITION}",
                code="unknown_study",
                study=str(selector),
            )
        if isinstance(path, Path):
            path = path.resolve()
        return cls(path, _read_definition(path))

    def partition(self, table: str, run: str) -> Place:
        """Folder of a run's files of a table."""
        return partition_place(self.place, _table(table).name, run)

    def runs_present(self, table: str) -> list[str]:
        """Ids of the runs that have rows in a table, sorted."""

        def runs() -> list[str]:
            return [run for run, folder in self.folders(table).items() if _streams_in(folder)]

        return again_when_vanished(runs)

    def state(self, table: str, run: str) -> State:
        """Names of a run's files of a table with the sizes of logs: the same rows while the same.

        (Sealing changes it as well, and no row.)
        """
        return again_when_vanished(lambda: _state_of(self.partition(table, run)))

    def states(self, table: str) -> dict[str, State]:
        """The state of each run that has a folder."""

        def states() -> dict[str, State]:
            return {run: _state_of(path) for run, path in self.folders(table).items()}

        return again_when_vanished(states)

    def folders(self, table: str, run: str | Sequence[str] | None = None) -> dict[str, Place]:
        """Folder of each run's files of a table, of all runs or some."""
        runs = [run] if isinstance(run, str) else run
        if runs is not None and len(runs) == 1:
            return {runs[0]: self.partition(table, runs[0])}
        return partition_places(self.place, _table(table).name, runs)

    def scan(
        self,
        table: str,
        run: str | Sequence[str] | None = None,
        newest: bool = False,
        verify: bool = False,
    ) -> pl.LazyFrame:
        """A table, or one run or some of it, in its declared schema, as it is when collected.

        Rows of a stream are in the order in which they were committed. A column that a file of an
        older version lacks is null; one that only a newer version has is left out. `newest` reads
        only the last commit of each stream, or its last segment where the log is sealed. `verify`
        compares each segment with the digest in its name first: without, a flipped bit of a sealed
        file may be read as another value (logs are always verified). Collecting raises DamagedError
        where a file is missing or damaged.
        """
        if run is not None:
            self.folders(table, run)  # a run's id that cannot be is said at once
        schema = _table(table).schema
        return TableSource(
            schema, lambda: self.folders(table, run), newest=newest, verify=verify
        ).frame()

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
        files, tails = source.snapshot()
        schema = _table(table).schema
        parts = [as_schema(rows, schema) for rows in tails]
        return files, pa.concat_tables([schema.empty_table(), *parts])

    def count_rows(self, table: str, run: str | None = None) -> int:
        """Rows of a table, or of one run; quick when asked again, for segments never change."""

        def count() -> int:
            folders = self.folders(table, run).values()
            streams = (each for folder in folders for each in list_folder(folder, newest=False))
            return sum(stream.count_rows() for stream in streams)

        return again_when_vanished(count)

    def seal(self, run: str, patience_seconds: float = 10.0) -> None:
        """Make one Parquet segment of each stream of a run that has ended, also of a dead writer's.

        Changes no answer; a reader by glob that listed files before may miss one: so not while the
        run goes on. Raises BlockingIOError when a writer holds a stream's lock for this time, and
        DamagedError, after all other streams are done, where a segment is damaged.
        """
        damaged: list[str] = []
        for table in TABLES:
            for files in _streams_in(self.partition(table, run)):
                stream = stream_at(self.place, table, run, files.stream)
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
        if isinstance(self.place, ObjectPath):
            settings = {"commit_seconds": OBJECT_COMMIT_SECONDS} | settings
        return TableWriter(
            _table(table), self.place, run=run, attempt=attempt, stream=stream, **settings
        )


def need_folder(root: str | Place) -> Path:
    """Where checkpoints and prepared data can be; DefinitionError for an object store."""
    place = place_of(root)
    if not isinstance(place, Path):
        raise DefinitionError(
            f"{place}: checkpoints and prepared data need a folder that every node sees; "
            "train with --store FOLDER (tables, laws and reports may be on an object store)"
        )
    return place


def list_studies(root: str | Place) -> list[str]:
    """Ids of the studies in a store, sorted; empty when the store is not there yet."""
    folder = place_of(root)
    if isinstance(folder, ObjectPath):
        names = sorted(folder.list()[1])
        there = in_parallel(lambda name: (folder / name / DEFINITION).is_file(), names)
        return [name for name, is_study in zip(names, there, strict=True) if is_study]
    if not folder.is_dir():
        return []
    return sorted(path.parent.name for path in folder.glob(f"*/{DEFINITION}"))


def _place_of_study(root: str | Place, selector: str | Place) -> Place:
    """The folder that a selector names, whether or not a study is in it."""
    if isinstance(selector, ObjectPath) or "://" in str(selector):
        return place_of(selector)
    path = Path(selector).expanduser()
    if path.is_absolute() or len(path.parts) > 1 or (path / DEFINITION).is_file():
        return path
    return place_of(root) / _select(place_of(root), str(selector))


def _streams_in(folder: Place) -> Sequence[StreamFiles]:
    return list_streams(folder) if isinstance(folder, Path) else list_objects(folder)


def _state_of(folder: Place) -> State:
    if isinstance(folder, Path):
        return partition_state(folder)
    names = folder.list()[0]
    return frozenset((name, stat.st_size) for name, stat in names.items())


def _table(name: str) -> Table:
    if name not in TABLES:
        raise DefinitionError(
            f"no table {name!r}; the tables are {', '.join(TABLES)}",
            code="unknown_table",
            table=name,
            known=list(TABLES),
        )
    return TABLES[name]


def _select(root: Place, selector: str) -> str:
    there = list_studies(root)
    if selector in there:
        return selector
    named = [each for each in there if each.rpartition("-")[0] == selector]
    found = named or [each for each in there if selector and each.startswith(selector)]
    if len(found) > 1:
        raise DefinitionError(
            f"{selector!r} fits several studies: {', '.join(found)}",
            code="ambiguous_study",
            study=selector,
            fitting=found,
        )
    if not found:
        listed = f"there are: {', '.join(there)}" if there else "there is none"
        raise NotFoundError(
            f"no study {selector!r} in {root}; {listed}",
            code="unknown_study",
            study=selector,
            known=there,
        )
    return found[0]


def _read_definition(path: Place) -> Study:
    file = path / DEFINITION
    try:
        study = Study.model_validate(read_stored_yaml(_first_bytes(file)))
        if too_many := too_many_runs(study):
            raise YamlProblem(too_many)
    except (YamlProblem, ValidationError) as error:
        raise SparsingError(f"{file} is damaged: {error}", code="damaged_definition") from error
    if study.study_id != path.name:
        raise SparsingError(
            f"{file} holds study {study.study_id}, not {path.name}: it was changed by hand; "
            "to change a study, run the changed definition, which is a study of its own",
            code="changed_definition",
        )
    return study


def _first_bytes(file: Place) -> bytes:
    """A definition's bytes; of a larger file only one more than a definition may have."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return opened.read(MAX_STORED_BYTES + 1)
    if file.stat().st_size > MAX_STORED_BYTES:
        return file.read_range(0, MAX_STORED_BYTES + 1)
    return file.read_bytes()


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
