"""`sparsing plan`, `schema`, `doctor` as a user calls them."""

import json
import os
import subprocess
import sys

import jsonschema
import pytest

from sparsing.study.definition.load import load_study
from sparsing.study.plan.runs import plan

SPARSING = [sys.executable, "-m", "sparsing"]


def sparsing(*arguments: str, cwd=None, **environment: str) -> subprocess.CompletedProcess:
    env = os.environ | environment
    return subprocess.run(
        [*SPARSING, *arguments], capture_output=True, text=True, timeout=120, cwd=cwd, env=env
    )


def test_plan_shows_runs_and_totals():
    done = sparsing("plan", "quickstart")
    assert (done.returncode, done.stderr) == (0, "")
    assert "relu-d32x4-wd8-s0" in done.stdout
    assert "4 runs, 4.8M tokens" in done.stdout
    assert "47.4K" in done.stdout


def test_plan_json_is_the_plan_and_writes_nothing(tmp_path, monkeypatch):
    done = sparsing("plan", "sparsing_law", "--json", "--utilization", "0.5", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)  # a preset's folders count from where one is
    expected = plan(load_study("sparsing_law"), utilization=0.5).as_json()
    document = json.loads(done.stdout)
    assert {key: document[key] for key in expected} == expected
    assert document["data"]["tokens"] == pytest.approx(319e9, rel=0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["plan", "wrong.yaml"], 2, "wrong.yaml:1:1: nam = 'x': unknown key; did you mean 'name'?"),
        (["plan", "no.yaml"], 3, "no file no.yaml"),
        (["plan", "quickstrat"], 3, "presets: demo, quickstart"),
        (["plan"], 2, "Missing argument 'STUDY'"),
        (["plan", "quickstart", "--utilization", "40"], 2, "utilization = 40"),
        (["plan", "quickstart", "--utilisation", "1"], 2, "--utilization"),
    ],
)
def test_wrong_input_is_a_message_and_a_code(tmp_path, arguments, code, words):
    (tmp_path / "wrong.yaml").write_text("nam: x\n")
    done = sparsing(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_schema_accepts_a_definition():
    schema = json.loads(sparsing("schema").stdout)
    definition = load_study("demo").model_dump(mode="json", exclude_none=True)
    jsonschema.validate(definition, schema)


@pytest.mark.parametrize("command", ["plan", "schema", "doctor"])
def test_help_has_an_example(command):
    assert f"Example:\n    sparsing {command}" in sparsing(command, "--help").stdout


def test_plan_needs_neither_torch_nor_ray():
    code = (
        "import sys\nfrom sparsing.study.definition.load import load_study\n"
        "from sparsing.study.plan.runs import plan\n"
        "import sparsing.actors.commands.plan\nplan(load_study('demo'))\n"
        "print([m for m in ('torch', 'ray', 'scipy', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n"
