"""Tables explain themselves: docs, `schema --tables`, metadata of files, examples that run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from report_stores import finished_store

from sparsing.study.commands.main import cli
from sparsing.study.query.configurations import COLUMNS
from sparsing.study.query.explained import explained_tables, tables_markdown
from sparsing.study.query.sql import ask
from sparsing.study.store.tables import TABLES

DOCS = Path(__file__).parents[3] / "docs" / "tables.md"


def test_the_page_is_what_the_command_prints():
    printed = CliRunner().invoke(cli, ["schema", "--tables", "--markdown"]).stdout
    assert printed == tables_markdown() == DOCS.read_text()


def test_every_table_and_column_is_explained():
    tables = {table.name: table for table in explained_tables()}
    assert set(tables) == {"configurations", *TABLES}
    assert [each.name for each in tables["configurations"].columns] == list(COLUMNS)
    for name, table in TABLES.items():
        assert [each.name for each in tables[name].columns] == table.schema.names
        assert all(each.meaning for each in tables[name].columns)
        never = {each.name for each in tables[name].columns if each.null == "never"}
        assert never == set(table.schema.names) - table.optional


@pytest.mark.parametrize("name", ["configurations", *TABLES])
def test_each_example_is_a_query_that_runs(name, store):
    (table,) = (each for each in explained_tables() if each.name == name)
    assert name in table.example
    ask(store, table.example).collect()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return finished_store(tmp_path_factory.mktemp("store"))


def test_files_carry_the_meaning_of_their_columns(store):
    run = store.runs_present("steps")[0]
    store.seal(run)
    file = next(store.partition("steps", run).glob("*.parquet"))
    field = pq.read_schema(file).field("loss")
    assert field.metadata[b"about"].decode() == TABLES["steps"].columns["loss"][1]


def test_one_table_as_json():
    (found,) = json.loads(CliRunner().invoke(cli, ["schema", "--table", "steps", "--json"]).stdout)
    assert found["table"] == "steps"
    units = {column["name"]: column["unit"] for column in found["columns"]}
    assert (units["step_seconds"], units["memory_bytes"], units["loss"]) == (
        "s",
        "bytes",
        "nats per token",
    )
