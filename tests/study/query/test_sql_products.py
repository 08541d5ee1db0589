"""Integer arithmetic in SQL: right, floating point, or refused; never wrapped."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import step_row, tiny_store

from sparsing.study.commands.main import cli
from sparsing.study.errors import DamagedError, DefinitionError
from sparsing.study.query.sql import ask
from sparsing.study.query.sql_products import as_floats
from sparsing.study.store.study_store import StudyStore

TOKENS = 10**12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    """Two runs of three steps with 1e12, 2e12 and 3e12 tokens."""
    store = tiny_store(tmp_path_factory.mktemp("sql"))
    for run in ("a", "b"):
        with store.writer("steps", run=run, attempt=1) as writer:
            writer.append(1, [step_row(step, tokens=step * TOKENS) for step in (1, 2, 3)])
    return store


def value(store: StudyStore, sql: str) -> float:
    return ask(store, sql).collect().item()


@pytest.mark.parametrize(
    ("sql", "right"),
    [
        ("SELECT 6 * 2400000000 * MAX(tokens) * 1000000 AS f FROM steps", 6 * 2.4e9 * 3e12 * 1e6),
        ("SELECT SUM(tokens * 1000000000) FROM steps", 12e21),
        ("SELECT SUM(DISTINCT tokens*1000000000) AS s FROM steps", 6e21),
        ("SELECT MAX(POW(tokens, 3)) FROM steps", 27e36),
        ("SELECT COUNT(*) * COUNT(*) * 9000000000000000000 FROM steps", 36 * 9e18),
        ("SELECT 4000000000 * 4000000000 FROM steps LIMIT 1", 16e18),
        ("SELECT t FROM (SELECT SUM(tokens) * 9000000 AS t FROM steps)", 12e12 * 9e6),
        ("SELECT MAX(tokens)/* of all */*-9000000 -- and\n FROM steps", -27e18),
    ],
)
def test_what_64_bits_cannot_hold_is_floating_point(store, sql, right):
    assert value(store, sql) == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize(
    ("sql", "right"),
    [
        ("SELECT MAX(step) * 16 FROM steps", 48),
        ("SELECT SUM(tokens) FROM steps", 12 * TOKENS),
        ("SELECT SUM(step) OVER (PARTITION BY run) FROM steps LIMIT 1", 6),
        ("SELECT COUNT(*) FROM steps", 6),
        ("SELECT COUNT(*) FROM steps WHERE run = 'a * b'", 0),
    ],
)
def test_what_they_hold_stays_an_integer(store, sql, right):
    found = ask(store, sql).collect()
    assert found.dtypes[0].is_integer()
    assert found.item() == right


def test_names_of_columns_stay(store):
    for sql in (
        "SELECT SUM(tokens), MAX(step) * 2, 2 * 3 FROM steps",
        "SELECT step * 2 AS d, steps.* FROM steps",
        "SELECT tokens FROM (SELECT SUM(tokens) FROM steps)",
    ):
        plain = pl.SQLContext({"steps": store.scan("steps")}).execute(sql).collect_schema()
        assert ask(store, sql).collect().columns == plain.names()


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM a", "SELECT COUNT(*), t.* FROM t", "SELECT '2 * 3', \"a*b\" -- 2*3"]
)
def test_a_query_without_a_product_is_left_as_it_is(sql):
    assert as_floats(sql) == sql


LEAVES = {"MAX(step)": 3, "MAX(tokens)": 3 * TOKENS, "COUNT(*)": 3}
EXPRESSIONS = st.recursive(
    st.sampled_from(sorted(LEAVES.items()))
    | st.integers(1, 10**10).map(lambda number: (str(number), number)),
    lambda inner: (
        st.tuples(inner, inner).map(
            lambda pair: (f"({pair[0][0]} * {pair[1][0]})", pair[0][1] * pair[1][1])
        )
        | st.tuples(inner, st.integers(1, 3)).map(
            lambda pair: (f"POW({pair[0][0]}, {pair[1]})", pair[0][1] ** pair[1])
        )
    ),
    max_leaves=6,
)
"""SQL, and the same number by Python's integers, which have no end."""


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS)
def test_any_product_is_right(store, expression):
    sql, right = expression
    if right > 1e300:
        return
    found = value(store, f"SELECT {sql} AS x FROM steps WHERE run = 'a' LIMIT 1")
    assert found == pytest.approx(right, rel=1e-9)


def test_a_timestamp_without_a_zone_says_what_to_write(store):
    asked = "SELECT COUNT(*) FROM steps WHERE written_at > {}"
    with pytest.raises(DefinitionError) as refused:
        ask(store, asked.format("TIMESTAMP '2020-01-01 00:00:00'")).collect()
    assert "UTC" in str(refused.value)
    assert value(store, asked.format("'2020-01-01 00:00:00'")) == 6


def test_a_verified_query_reads_nothing_that_is_damaged(tmp_path: Path):
    store = tiny_store(tmp_path)
    with store.writer("steps", run="a", attempt=1) as writer:
        writer.append(1, [step_row(1)])
    store.seal("a")
    (segment,) = (store.path / "tables" / "steps" / "a").glob("*.parquet")
    data = bytearray(segment.read_bytes())
    words = ["query", "tiny", "SELECT step FROM steps", "--json", "--store", str(tmp_path)]
    assert json.loads(CliRunner().invoke(cli, [*words, "--verify"]).stdout) == [{"step": 1}]
    data[40] ^= 1
    segment.write_bytes(data)
    refused = CliRunner().invoke(cli, [*words, "--verify"])
    assert isinstance(refused.exception, DamagedError)
