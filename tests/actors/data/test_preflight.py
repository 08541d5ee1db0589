"""A look at the data before anything starts: what is there, what is wanted, what is wrong."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from sparsing.actors.data.preflight import forecast
from sparsing.actors.data.prepare import prepare
from sparsing.study.commands.main import cli
from sparsing.study.definition.load import load_study
from sparsing.study.definition.model import Study

rng = random.Random(0)
TEXTS = [" ".join(f"w{rng.randrange(3000)}" for _ in range(200 + i % 90)) for i in range(400)]


def jsonl(folder: Path) -> dict:
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "a.jsonl").write_text(rows)
    return {"kind": "jsonl", "path": str(folder / "a.jsonl")}


def packed(folder: Path) -> dict:
    for number in range(4):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[number::4])
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    return {"kind": "jsonl", "path": str(folder)}


def parquet(folder: Path) -> dict:
    pq.write_table(pa.table({"text": TEXTS}), folder / "a.parquet", row_group_size=50)
    return {"kind": "parquet", "path": str(folder)}


def text(folder: Path) -> dict:
    for number, each in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(each)
    return {"kind": "text", "path": str(folder)}


def study(domains: dict[str, dict], tokens: int = 100_000) -> Study:
    return Study.model_validate(
        {
            "name": "s",
            "axes": {"scale": [{"d_h": 32, "layers": 2}]},
            "tokens": tokens,
            "optimization": {"batch_tokens": 1024, "warmup_tokens": 1024},
            "data": {
                "domains": domains,
                "tokenizer": {"kind": "bytes"},
                "sequence_tokens": 128,
                "validation": {"tokens": 1024},
            },
        }
    )


@pytest.mark.parametrize("make", [jsonl, packed, parquet, text])
def test_the_estimate_is_near_what_is_prepared(make, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    wanted = study({"web": make(corpus)})
    found = forecast(wanted)
    [domain] = found.domains
    made = prepare(wanted, tmp_path / "data").metadata["domains"]["web"]
    assert domain.tokens == pytest.approx(made["train_tokens"], rel=0.1)
    assert domain.text_bytes == pytest.approx(made["bytes"], rel=0.1)
    assert domain.epochs == pytest.approx(domain.tokens_wanted / made["train_tokens"], rel=0.1)
    assert found.disk_bytes == pytest.approx(2 * made["train_tokens"], rel=0.1)
    assert not found.assumed
    assert not found.warnings


def test_more_than_one_epoch_is_warned_of(tmp_path):
    [warning] = forecast(study({"web": jsonl(tmp_path)}, tokens=2_000_000)).warnings
    assert warning.startswith("data.domains.web: the longest run sees its text about")


def test_all_problems_are_said_at_once_with_their_places(tmp_path):
    jsonl(tmp_path)
    definition = tmp_path / "s.yaml"
    definition.write_text(
        "name: s\n"
        "axes: {scale: [{d_h: 32, layers: 2}]}\n"
        "tokens: 100K\n"
        "optimization: {batch_tokens: 1024}\n"
        "data:\n"
        "  sequence_tokens: 128\n"
        "  validation: {tokens: 1024}\n"
        "  domains:\n"
        "    a: {kind: jsonl, path: none.jsonl}\n"
        "    b: {kind: jsonl, path: a.jsonl, field: body}\n"
        "    c: {kind: jsonl, path: a.jsonl}\n"
    )
    problems = {d.domain: d.problem for d in forecast(load_study(str(definition))).domains}
    assert "no such file" in str(problems["a"])
    assert "no 'body'" in str(problems["b"])
    assert problems["c"] is None
    result = CliRunner().invoke(cli, ["plan", str(definition)])
    assert result.exit_code == 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    assert [line.split(": ")[1].rpartition("s.yaml:")[2] for line in lines] == ["9:5", "10:5"]
    document = json.loads(CliRunner().invoke(cli, ["plan", str(definition), "--json"]).stdout)
    assert document["data"]["assumed"]
    assert [d["domain"] for d in document["data"]["domains"]] == ["a", "b", "c"]


def test_a_run_with_a_problem_leaves_no_study_behind(tmp_path):
    definition = tmp_path / "s.yaml"
    definition.write_text(
        "name: s\naxes: {scale: [{d_h: 32, layers: 2}]}\ntokens: 100K\n"
        "data: {sequence_tokens: 128, validation: {tokens: 1024}, "
        "domains: {a: {kind: jsonl, path: none.jsonl}}}\n"
    )
    for words in (["run"], ["data", "prepare"]):
        root = tmp_path / "store"
        result = CliRunner().invoke(cli, [*words, str(definition), "--store", str(root)])
        assert "no such file" in str(result.exception)
        assert not root.exists() or not list(root.glob("s-*"))
