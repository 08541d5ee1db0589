"""Sources give documents in a fixed order, and say what is wrong with them."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsing.actors.data.sources import documents, fingerprint
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError


def source(kind: str, path: Path | None = None, **more: str) -> Source:
    return Source(kind=kind, path=str(path) if path else None, **more)


def test_standard_library_is_sources_only_and_always_the_same():
    first = list(documents(source("python-stdlib")))
    assert len(first) > 300
    assert first == list(documents(source("python-stdlib")))
    names = [name for name, _, _ in fingerprint(source("python-stdlib"))]
    assert len(names) == len(set(names))
    assert "argparse.py" in names
    assert not [n for n in names if {"test", "tests", "site-packages"} & set(Path(n).parts)]


def test_text_folder_is_read_in_order_of_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("two")
    (tmp_path / "a.md").write_text("\ufeffone\r\nline\r\n", encoding="utf-8", newline="")
    (tmp_path / "c.txt").write_text("three")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "empty.txt").write_text("")
    assert list(documents(source("text", tmp_path))) == ["one\nline", "two", "three"]
    assert list(documents(source("text", tmp_path / "c.txt"))) == ["three"]


def test_jsonl_reads_the_field_also_from_gzip(tmp_path):
    rows = [json.dumps({"body": text}) for text in ("a", "b\ud800", None)]
    (tmp_path / "1.jsonl").write_text("\n".join(rows) + "\n\n")
    with gzip.open(tmp_path / "2.jsonl.gz", "wt") as file:
        file.write('{"body": "中"}')
    assert list(documents(source("jsonl", tmp_path, field="body"))) == ["a", "b?", "中"]


def test_parquet_reads_the_column(tmp_path):
    pq.write_table(pa.table({"text": ["x", None, "y"], "n": [1, 2, 3]}), tmp_path / "1.parquet")
    assert list(documents(source("parquet", tmp_path))) == ["x", "y"]


def test_huggingface_reads_a_local_data_set(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
    there = Source(kind="huggingface", name=str(tmp_path))
    assert list(documents(there)) == ["x", "y"]
    assert fingerprint(there) == fingerprint(there)
    with pytest.raises(DefinitionError, match="no 'body', only \\['text'\\]"):
        list(documents(Source(kind="huggingface", name=str(tmp_path), field="body")))
    with pytest.raises(DefinitionError, match="cannot load it"):
        list(documents(Source(kind="huggingface", name=str(tmp_path / "none"))))


def test_huggingface_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DefinitionError, match="pip install datasets"):
        list(documents(Source(kind="huggingface", name="x")))


def broken(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


CASES = {
    "missing": (lambda f: source("text", f / "none"), "no such file or folder"),
    "no suffix": (lambda f: source("parquet", f), "no .parquet files"),
    "empty": (lambda f: source("text", broken(f, "a.txt", b" \n".strip())), "holds no text"),
    "latin-1": (lambda f: source("text", broken(f, "a.txt", b"caf\xe9")), "convert it to UTF-8"),
    "not json": (lambda f: source("jsonl", broken(f, "a.jsonl", b'{"text"')), "a.jsonl:1"),
    "no key": (lambda f: source("jsonl", broken(f, "a.jsonl", b'{"body": "x"}')), "set 'field'"),
    "a list": (lambda f: source("jsonl", broken(f, "a.jsonl", b"[1]")), "only list"),
    "number": (lambda f: source("jsonl", broken(f, "a.jsonl", b'{"text": 1}')), "holds int"),
    "cut gzip": (
        lambda f: source("jsonl", broken(f, "a.jsonl.gz", gzip.compress(b"{}" * 99)[:20])),
        "unreadable",
    ),
    "no parquet": (lambda f: source("parquet", broken(f, "a.parquet", b"PAR1")), "unreadable"),
    "unknown corpus": (lambda f: source("fetched", name="poems"), "write one of prose"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_with_source_and_remedy(tmp_path, case):
    make, expected = CASES[case]
    with pytest.raises(DefinitionError, match=r"source [a-z]+ .*") as caught:
        list(documents(make(tmp_path)))
    assert expected in str(caught.value)


def test_missing_column_names_the_columns_there_are(tmp_path):
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "1.parquet")
    with pytest.raises(DefinitionError, match=r"only \['content'\]"):
        list(documents(source("parquet", tmp_path)))


def test_corpus_that_was_not_fetched_says_how_to(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSING_DATA", str(tmp_path))
    with pytest.raises(DefinitionError, match="run 'sparsing data fetch prose'"):
        list(documents(source("fetched", name="prose")))


def test_fingerprint_changes_with_the_content(tmp_path):
    path = broken(tmp_path, "a.txt", b"one")
    before = fingerprint(source("text", tmp_path))
    assert before == fingerprint(source("text", tmp_path))
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert fingerprint(source("text", tmp_path)) != before
