"""One row per run: configuration and newest values; comparing, choosing, noting runs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from report_stores import finished_store

from sparsing.study.commands.main import cli
from sparsing.study.errors import SparsingError
from sparsing.study.query.configurations import COLUMNS, SCHEMA, configurations
from sparsing.study.query.notes import add_note, newest_notes, notes
from sparsing.study.query.runs import chosen_runs
from sparsing.study.query.sql import ask
from sparsing.study.store.study_store import StudyStore

RELU, SILU = "relu-d32x4-wd8-s0", "silu-d32x4-wd8-s0"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    finished_store(folder)
    return folder


@pytest.fixture(scope="module")
def store(root):
    return StudyStore.open(root, "small")


def call(root, *words: str):
    result = CliRunner().invoke(cli, [*words, "--store", str(root)])
    if isinstance(result.exception, SparsingError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_there_is_one_row_for_each_run_with_the_declared_columns(store):
    frame = configurations(store)
    assert dict(frame.schema) == dict(SCHEMA)
    empty = {
        name for name, count in zip(frame.columns, frame.null_count().row(0), strict=True) if count
    }
    assert all("null" in COLUMNS[name][1] for name in empty)
    assert frame["run"].n_unique() == frame.height == 4
    relu = frame.filter(frame["run"] == RELU).to_dicts()[0]
    assert (relu["activation"], relu["seed"], relu["layers"], relu["state"]) == (
        "relu",
        0,
        4,
        "done",
    )
    assert relu["tokens_planned"] == 1_024_000
    assert relu["tokens"] == store.scan("steps", RELU).collect()["tokens"].max()
    assert json.loads(relu["data"]) == {"code": 1.0, "prose": 1.0}


def test_sql_joins_it_without_counting_twice(store):
    counted = ask(store, "SELECT COUNT(*) AS n FROM steps NATURAL JOIN configurations").collect()
    plain = ask(store, "SELECT COUNT(*) AS n FROM steps").collect()
    by_activation = ask(
        store,
        "SELECT c.activation, COUNT(*) AS n FROM steps s JOIN configurations c USING (run) "
        "GROUP BY c.activation ORDER BY c.activation",
    ).collect()
    assert by_activation["n"].sum() == plain["n"][0]
    assert counted["n"][0] <= plain["n"][0]


def test_runs_shows_what_tells_them_apart(root):
    heading = call(root, "runs", "small").splitlines()[0].split()
    assert heading[:3] == ["run", "activation", "seed"]
    assert "layers" not in heading
    assert "layers" in call(root, "runs", "small", "--all").splitlines()[0].split()


def test_runs_are_chosen_sorted_and_their_columns_named(root, store):
    words = ["--where", "activation = 'relu'", "--sort", "-seed", "--columns", "run,seed", "--json"]
    rows = json.loads(call(root, "runs", "small", *words))
    assert [row["seed"] for row in rows] == [1, 0]
    assert set(rows[0]) == {"run", "seed"}
    assert chosen_runs(store).columns == list(COLUMNS)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--columns", "run,sed"], "unknown_column"),
        (["--sort", "activation_ration"], "unknown_column"),
        (["--where", "activation ="], "sql_syntax"),
        (["--where", "activatoin = 'relu'"], "unknown_column"),
    ],
)
def test_wrong_columns_and_conditions_are_named(root, words, code):
    with pytest.raises(SparsingError) as raised:
        call(root, "runs", "small", *words)
    assert (raised.value.code, raised.value.exit_code) == (code, 2)


def test_diff_of_definitions_has_their_keys(root, tmp_path):
    other = finished_store(tmp_path, tokens=512_000)
    words = ["diff", "small", str(tmp_path / other.study_id), "--json"]
    found = json.loads(call(root, *words))["differences"]
    assert [each["key"] for each in found] == ["tokens"]
    assert (found[0]["first"], found[0]["second"]) == (1_024_000, 512_000)


def test_diff_of_a_study_with_itself_is_none(root):
    assert json.loads(call(root, "diff", "small", "small", "--json"))["differences"] == []


def test_diff_of_runs_has_configuration_and_values(root):
    words = ["diff", f"small:{RELU}", f"small:{SILU}", "--json"]
    keys = {each["key"] for each in json.loads(call(root, *words))["differences"]}
    assert {"activation", "activation_ratio"} <= keys
    assert not keys & {"layers", "seed", "tokens_planned"}
    with pytest.raises(SparsingError) as raised:
        call(root, "diff", "small:relu", f"small:{SILU}")
    assert raised.value.code == "unknown_run"
    with pytest.raises(SparsingError) as raised:
        call(root, "diff", "small", f"small:{SILU}")
    assert raised.value.code == "study_or_run"


def test_notes_are_kept_and_are_columns_of_their_run(tmp_path):
    store = finished_store(tmp_path)
    call(tmp_path, "note", "small", RELU, "a spike at 300", "--tag", "spike", "--tag", "odd")
    add_note(store, RELU, "", ["spike", "seen"])
    add_note(store, SILU, "nothing odd")
    assert [row["note"] for row in notes(store, RELU)] == ["a spike at 300", ""]
    assert newest_notes(store)[RELU] == {"note": "a spike at 300", "tags": ["spike", "odd", "seen"]}
    found = chosen_runs(store, ["run", "note"], "array_contains(tags, 'spike')")
    assert found.rows() == [(RELU, "a spike at 300")]
    said = json.loads(call(tmp_path, "note", "small", "--json"))["notes"]
    assert [row["run"] for row in said] == [RELU, RELU, SILU]


@pytest.mark.parametrize(
    ("run", "text", "code"),
    [("relu", "x", "unknown_run"), (RELU, " ", "empty_note"), (RELU, "x" * 10_001, "long_note")],
)
def test_wrong_notes_are_refused(store, run, text, code):
    with pytest.raises(SparsingError) as raised:
        add_note(store, run, text)
    assert raised.value.code == code
