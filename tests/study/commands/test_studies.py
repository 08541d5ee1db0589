"""`sparsing list`, `rm`, `init`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stores import tiny_store

from sparsing.study.commands.main import cli
from sparsing.study.definition.load import load_study
from sparsing.study.errors import SparsingError
from sparsing.study.store.control.lease import acquire, study_cell
from sparsing.study.store.study_store import list_studies


def call(*words: str, **settings) -> Result:
    return CliRunner().invoke(cli, list(words), **settings)


def code_of(result: Result) -> tuple[str, int]:
    assert isinstance(result.exception, SparsingError), result.output
    return result.exception.code, result.exception.exit_code


def test_list_has_dates_states_and_sizes(tmp_path):
    store = tiny_store(tmp_path)
    (row,) = json.loads(call("list", "--store", str(tmp_path), "--json").stdout)["studies"]
    size = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert (row["study"], row["bytes"]) == (store.study_id, size)
    assert row["made_at"].startswith("20")
    assert store.study_id in call("list", "--store", str(tmp_path)).stdout


def test_list_shows_a_broken_study_beside_the_others(tmp_path):
    store = tiny_store(tmp_path)
    (tmp_path / "broken-12345678").mkdir()
    (tmp_path / "broken-12345678" / "study.yaml").write_text("name: [")
    rows = json.loads(call("list", "--store", str(tmp_path), "--json").stdout)["studies"]
    assert ["error" in row for row in rows] == [True, False]
    assert rows[1]["study"] == store.study_id


def test_rm_removes_a_study_whole_and_nothing_else(tmp_path):
    store = tiny_store(tmp_path)
    (tmp_path / "data").mkdir()
    assert code_of(call("rm", "tiny", "--store", str(tmp_path))) == ("not_confirmed", 2)
    assert list_studies(tmp_path) == [store.study_id]
    assert call("rm", "tiny", "--store", str(tmp_path), "--yes").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_rm_refuses_while_a_controller_is_at_work(tmp_path):
    store = tiny_store(tmp_path)
    lease = acquire(study_cell(store.path))
    try:
        result = call("rm", "tiny", "--store", str(tmp_path), "--yes")
        assert code_of(result)[0] == "study_at_work"
    finally:
        lease.release()
    assert store.path.is_dir()


def test_init_writes_a_definition_that_is_what_was_wished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("texts/a.jsonl").write_text('{"text": "a"}\n')
    flags = ["--activation", "relu", "--activation", "silu", "--scale", "1M", "--seeds", "2"]
    done = call("init", "mine.yaml", *flags, "--data", "web=texts", "--data", "notes.txt")
    assert done.exit_code == 0, done.output
    study = load_study("mine.yaml")
    assert (study.name, study.tokens_per_parameter) == ("mine", 20)
    assert study.axes is not None
    assert (list(study.axes.activation), list(study.axes.seed)) == (["relu", "silu"], [0, 1])
    kinds = {name: source.kind for name, source in study.data.domains.items()}
    assert kinds == {"web": "jsonl", "notes": "text"}
    assert "#" in Path("mine.yaml").read_text()


def test_init_overwrites_nothing_and_writes_nothing_wrong(tmp_path):
    there = tmp_path / "there.yaml"
    there.write_text("mine\n")
    assert code_of(call("init", str(there))) == ("file_exists", 2)
    assert there.read_text() == "mine\n"
    wrong = tmp_path / "wrong.yaml"
    assert code_of(call("init", str(wrong), "--activation", "relv"))[1] == 2
    assert not wrong.exists()


@pytest.mark.parametrize("name", ["yes", "1e5", "no", "a: b", "x#y"])
def test_names_that_mean_something_in_yaml_are_quoted_or_refused(tmp_path, name):
    file = tmp_path / "f.yaml"
    result = call("init", str(file), "--name", name, "--scale", "1M")
    if result.exception is None:
        assert load_study(str(file)).name == name
    else:
        assert code_of(result)[1] == 2
