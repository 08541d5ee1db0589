from __future__ import annotations

import csv
import io
import json
import re

import polars as pl
import pytest
from click.testing import CliRunner, Result
from stores import step_row, tiny_store

from sparsing.study.commands.main import cli
from sparsing.study.display.rows import MAX_SHOWN_ROWS
from sparsing.study.errors import DefinitionError, SparsingError
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES


@pytest.fixture
def root(tmp_path):
    store = tiny_store(tmp_path)
    for run in ("a", "b"):
        with store.writer("steps", run=run, attempt=1) as writer:
            for step in range(5):
                writer.append(step, [step_row(step)])
    with store.writer("neurons", run="a", attempt=1) as writer:
        row = {"step": 4, "tokens": 64, "stage": "live", "layer": 0, "dead_ratio": 0.5}
        writer.append(4, [row | {"frequency": [0.5, 0.0]}])
    return tmp_path


def ask(root, sql: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["query", "tiny", sql, "--store", str(root), *options])


def message(root, sql: str, *options: str) -> str:
    """What the error says, and that its exit code is 2."""
    result = ask(root, sql, *options)
    assert result.exit_code != 0
    assert getattr(result.exception, "exit_code", result.exit_code) == 2
    return str(result.exception) + result.output


def test_a_table_for_people(root):
    result = ask(root, "SELECT run, MAX(step) AS last FROM steps GROUP BY run ORDER BY run")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["run", "last"],
        ["a", "4"],
        ["b", "4"],
    ]


def test_json_is_one_document_of_rows(root):
    sql = "SELECT run, step, loss, memory_bytes FROM steps WHERE step = 1 ORDER BY run"
    rows = json.loads(ask(root, sql, "--json").stdout)
    assert rows == [{"run": r, "step": 1, "loss": 2.5, "memory_bytes": None} for r in "ab"]


def test_csv_has_lists_too(root):
    text = ask(root, "SELECT run, step, frequency FROM neurons", "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows == [{"run": "a", "step": "4", "frequency": "[0.5, 0.0]"}]


def test_parquet_and_arrow_files_hold_the_same(root, tmp_path):
    sql = "SELECT s.run, s.loss, n.dead_ratio FROM steps s JOIN neurons n USING (run, step)"
    files = tmp_path / "x.parquet", tmp_path / "x.arrow"
    for option, file in zip(("--parquet", "--arrow"), files, strict=True):
        assert ask(root, sql, option, str(file)).exit_code == 0
    assert pl.read_parquet(files[0]).rows() == [("a", 1.0, 0.5)]
    assert pl.read_ipc(files[1]).rows() == [("a", 1.0, 0.5)]


def test_every_table_can_be_asked_before_it_has_rows(root):
    assert len(ask(root, "SHOW TABLES").stdout.split()) == 2 + len(
        TABLES
    )  # a heading, and `configurations`
    assert json.loads(ask(root, "SELECT * FROM fits", "--json").stdout) == []
    shown = ask(root, "SELECT COUNT(*) AS n FROM runs").stdout.split()
    assert shown == ["n", "0"]


@pytest.mark.parametrize(
    ("sql", "code", "fields"),
    [
        ("SELECT los FROM steps", "unknown_column", {"column": "los", "near": ["loss"]}),
        ("SELECT s.los FROM steps s", "unknown_column", {"column": "los", "near": ["loss"]}),
        ("SELECT cett FROM steps", "unknown_column", {"column": "cett"}),
        ("SELECT * FROM steps ORDER BY los", "unknown_column", {"column": "los"}),
        ("SELECT loss FROM step", "unknown_table", {"table": "step", "near": ["steps"]}),
        ("SELECT x.loss FROM steps", "unknown_table", {"table": "x"}),
        ("DESCRIBE stepps", "unknown_table", {"table": "stepps", "near": ["steps"]}),
        ("SELEC loss FROM steps", "sql_syntax", {"line": "1"}),
        ("SELECT", "sql_syntax", {}),
        ("SELECT 'open FROM steps", "sql_syntax", {"column": "8"}),
        ("", "sql_syntax", {}),
        ("SELECT 1; SELECT 2", "sql_syntax", {}),
        ("SELECT foo(loss) FROM steps", "sql_unsupported", {"function": "foo"}),
        ("CALL x", "sql_unsupported", {}),
        ("SELECT run, loss FROM steps GROUP BY run", "sql_grouping", {"column": "loss"}),
        ("SELECT SUM(run) FROM steps", "wrong_sql", {}),
        ("SELECT * FROM steps WHERE written_at > TIMESTAMP '2026-01-01 00:00:00'",
         "sql_time_zone", {}),
    ],
)  # fmt: skip
def test_wrong_queries_are_told_in_our_words_with_the_nearest_name(root, sql, code, fields):
    error = ask(root, sql).exception
    assert isinstance(error, DefinitionError)
    assert error.code == code
    assert {name: error.fields[name] for name in fields} == fields
    for leaked in ("Resolved plan", "sql parser error", "DF [", "Ident", "dtype `"):
        assert leaked not in str(error) or code == "wrong_sql"


@pytest.mark.parametrize("sql", ["DESCRIBE steps", "desc TABLE steps;", "SHOW COLUMNS FROM steps"])
def test_a_table_is_described(root, sql):
    rows = json.loads(ask(root, sql, "--json").stdout)
    assert [row["name"] for row in rows] == TABLES["steps"].schema.names
    assert all(row["meaning"] for row in rows)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE steps",
        "delete from steps where step = 1",
        "  -- tidy\n/* all of\nit */ TRUNCATE TABLE steps",
        "CREATE TABLE mine AS SELECT * FROM steps",
        "; UPDATE steps SET loss = 0",
        "INSERT INTO steps VALUES (1)",
    ],
)
def test_a_statement_that_would_change_tables_is_refused(root, sql):
    verb = re.search(r"[A-Za-z]+(?= (?:TABLE|from|steps|INTO))", sql)
    text = message(root, sql)
    assert f"{verb[0].upper()} changes tables, and those of a store are only read" in text
    assert json.loads(ask(root, "SELECT COUNT(*) AS n FROM steps", "--json").stdout) == [{"n": 10}]


def test_what_a_name_says_is_no_statement(root):
    assert ask(root, "SELECT 'drop table steps' AS \"delete\" FROM steps").exit_code == 0


NAMES = ["steps", "runs", "no_such", '"steps"', "'steps'", "steps.loss", "(SELECT 1)", "steps; --"]
FORMS = [
    "SELECT * FROM {}",
    "SELECT {} FROM steps",
    "SELECT step FROM steps WHERE run = '{}'",
    "SELECT step FROM steps WHERE {} IS NULL",
    "SELECT step FROM steps ORDER BY {}",
    "SELECT COUNT(*) FROM steps GROUP BY {}",
    "SELECT step FROM steps LIMIT {}",
    "WITH x AS (SELECT * FROM {}) SELECT * FROM x",
    "SELECT * FROM steps JOIN {} USING (run)",
    "SELECT * FROM steps UNION ALL SELECT * FROM {}",
    "SELECT CAST({} AS INT) FROM steps",
    "SELECT SUBSTR({}, -9223372036854775808, 9223372036854775807) FROM steps",
    "EXPLAIN {}",
]
ODD = [
    "(" * 200 + "SELECT 1" + ")" * 200,
    "SELECT " + "-" * 300 + "1",
    "SELECT " + "NOT " * 200 + "TRUE",
    "SELECT '" + "x" * 100_000 + "'",
    "/**/" * 200 + "SELECT 1",
    "SELECT 'unclosed FROM steps",
    "SELECT /* unclosed FROM steps",
    "SELECT \x00 FROM steps",
    "SELECT \ud7ff\u202e FROM steps",
    "SELECT 1/0, 0/0, 1e999, -9223372036854775808 - 1 FROM steps",
    "SELECT * FROM steps LIMIT 99999999999999999999",
    "SELECT * FROM read_csv('/no/such/file')",
    "SELECT * FROM steps WHERE run LIKE '%(((((%' AND REGEXP_LIKE(run, '(((')",
]


@pytest.mark.parametrize("sql", [form.format(name) for form in FORMS for name in NAMES] + ODD)
def test_hostile_queries_are_answered_or_refused_in_words(root, sql):
    result = ask(root, sql)
    code = getattr(result.exception, "exit_code", result.exit_code)
    assert code in (0, 1, 2), result.exception
    if result.exception:
        assert isinstance(result.exception, (SparsingError, SystemExit, OSError))


def test_a_query_that_fails_leaves_the_file_that_was_there(root, tmp_path):
    file = tmp_path / "kept.parquet"
    file.write_bytes(b"kept")
    message(root, "SELECT CAST(run AS INT) FROM steps", "--parquet", str(file))
    assert file.read_bytes() == b"kept"
    assert not list(tmp_path.glob(".kept*"))


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_rows_are_counted_and_joined_in_which_no_column_is_asked_for(root, engine):
    steps = StudyStore.open(root, "tiny").scan("steps")
    assert steps.select(pl.len()).collect(engine=engine).item() == 10
    assert steps.filter(pl.col("run") == "a").select(pl.len()).collect(engine=engine).item() == 5
    pairs = steps.join(steps, how="cross").select("step")
    assert pairs.collect(engine=engine).height == 100
    assert steps.head(3).collect(engine=engine).height == 3
    assert steps.head(3).filter(pl.col("step") > 0).collect(engine=engine).height == 2


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_a_filter_may_be_a_python_function_or_span_rows(root, engine):
    steps = StudyStore.open(root, "tiny").scan("steps")
    by_function = pl.col("run").map_elements(
        lambda run: hash(run) == hash("b"), return_dtype=pl.Boolean
    )
    for condition in (by_function, pl.col("run") == pl.col("run").max()):
        assert set(steps.filter(condition).collect(engine=engine)["run"]) == {"b"}


def test_two_forms_at_once_are_refused(root):
    assert "exclude each other" in message(root, "SELECT 1", "--json", "--arrow", "x")


def test_a_long_result_is_cut_for_people_and_says_so(root):
    tables = ", ".join(f"steps s{i}" for i in range(3))
    result = ask(root, f"SELECT s0.step FROM {tables}")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == MAX_SHOWN_ROWS + 1
    assert "of 1000 rows" in result.stderr


def test_help_has_examples():
    text = CliRunner().invoke(cli, ["query", "--help"]).output
    assert 'sparsing query quickstart "SELECT run, tokens' in text
