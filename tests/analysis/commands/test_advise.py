from __future__ import annotations

import json

import pytest
from advice_stores import advised_store
from click.testing import CliRunner

from sparsing.analysis.commands.advise import advise_command
from sparsing.analysis.laws.published import PUBLISHED
from sparsing.analysis.laws.sparsity import PAPER_LAWS
from sparsing.study.errors import DefinitionError, NotFoundError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store with one study: SiLU runs halfway at four scales, and one that has not begun."""
    root = tmp_path_factory.mktemp("store")
    law = PAPER_LAWS["silu"]

    def curve(run):
        coefficients = PUBLISHED.get(f"{run.scale.lower()}_silu")
        return coefficients and (lambda at: law.value(at, **coefficients))

    scales = ["0.1B", "0.2B", "0.4B", "0.8B", "2.4B"]
    advised_store(root, curve, axes={"activation": ["silu"], "scale": scales})
    return root


def call(root, *arguments: object):
    result = CliRunner().invoke(advise_command, [*map(str, arguments), "--store", str(root)])
    if result.exception:
        raise result.exception
    return result


def test_sentences_by_verdict_and_a_table_of_costs(root) -> None:
    said = call(root, "advised", "--precision", 0.01)
    text = said.stdout
    stop, extend, planned = (text.index(word) for word in ("can stop", "must go on", "not started"))
    assert stop < text.index("silu-0.4B-wd53-s0: limit 0.38") < extend
    assert extend < text.index("silu-0.1B-wd48-s0: limit 0.4") < planned
    assert "inside the plan" in text or "times the plan" in text
    assert planned < text.index("silu-2.4B-wd58-s0") < text.index("what to run next")
    head, *rows = text[text.rindex("\nrun ") + 1 :].splitlines()
    assert head.split()[:3] == ["run", "verdict", "tokens"]
    assert [row.split()[0] for row in rows] == [
        f"silu-{name}-s0" for name in ("0.1B-wd48", "0.2B-wd51", "0.4B-wd53", "0.8B-wd55")
    ]
    assert "advising on silu-0.1B-wd48-s0" in said.stderr


def test_json_is_one_document(root) -> None:
    document = json.loads(call(root, "advised", "--scale", "3B", "--json").stdout)
    json.dumps(document, allow_nan=False)
    assert document["quantity"] == "limit"
    assert document["precision"] == 0.1
    assert {run["verdict"] for run in document["runs"]} <= {"stop", "done", "extend", "cannot say"}
    assert [each["verdict"] for each in document["planned"]] == ["predicted", "predicted"]
    (family,) = document["new_runs"]
    assert family["target"] == 3e9
    assert family["runs"][0]["gpu_hours"] > 0
    ratio = json.loads(call(root, "advised", "--tokens", "800B", "--json").stdout)
    assert (ratio["quantity"], ratio["tokens"]) == ("ratio", 8e11)
    tokens = json.loads(call(root, "advised", "--ratio", 0.37, "--json").stdout)
    assert (tokens["quantity"], tokens["ratio"]) == ("tokens", 0.37)


def test_nothing_has_started(tmp_path) -> None:
    advised_store(tmp_path, lambda run: None)
    text = call(tmp_path, "advised").stdout
    assert "no run has started" in text
    assert "silu-0.4B-wd53-s0: cannot say: no other run differs from it" in text


def test_what_is_not_there_or_not_right(root) -> None:
    with pytest.raises(NotFoundError):
        call(root, "nobody")
    for wrong in (
        ["--precision", 0],
        ["--tokens", "many"],
        ["--tokens", "1B", "--ratio", 0.1],
        ["--ratio", "nan"],
        ["--scale", "large"],
    ):
        with pytest.raises(DefinitionError):
            call(root, "advised", *wrong)


def test_help_has_examples() -> None:
    text = CliRunner().invoke(advise_command, ["--help"]).stdout
    assert "sparsing advise quickstart --precision" in text
