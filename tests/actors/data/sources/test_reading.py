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

from sparsing.actors.data.sources.identity import digest_of, identities
from sparsing.actors.data.sources.reading import documents
from sparsing.study.definition.data import Filter, Source
from sparsing.study.errors import DefinitionError


def source(kind: str, path: Path | None = None, **more: str) -> Source:
    return Source(kind=kind, path=str(path) if path else None, **more)


def test_standard_library_is_sources_only_and_always_the_same():
    first = list(documents(source("python-stdlib")))
    assert len(first) > 300
    assert first == list(documents(source("python-stdlib")))
    names = [name for name, _, _ in identities(source("python-stdlib"))]
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
    assert identities(there) == identities(there)
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


def test_a_source_is_identified_by_names_and_content_never_by_times(tmp_path):
    path = broken(tmp_path, "a.txt", b"one")

    def identity() -> str:
        return digest_of(identities(source("text", tmp_path)))

    before = identity()
    os.utime(path, ns=(1, 1))
    assert identity() == before
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert identity() != before
    path.write_bytes(b"one")
    assert identity() == before
    path.rename(tmp_path / "b.txt")
    assert identity() != before


def test_the_sample_of_a_large_file_holds_its_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsing.actors.data.sources.identity.WHOLE_BYTES", 2**22)
    path = tmp_path / "a.txt"
    found = set()
    for changed in (None, 0, 6 * 2**20 - 1):
        content = bytearray(6 * 2**20)
        if changed is not None:
            content[changed] = 1
        path.write_bytes(content)
        found.add(digest_of(identities(source("text", path))))
    assert len(found) == 3


def test_jsonl_with_a_byte_order_mark(tmp_path):
    path = broken(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n{"text": "y"}\n')
    assert list(documents(source("jsonl", path))) == ["x", "y"]


def test_fields_inside_others_and_a_filter(tmp_path):
    rows = [
        {"meta": {"text": text, "score": score}, "language": language}
        for text, score, language in [("a", 1.0, "en"), ("b", 3.5, "en"), ("c", 4.0, "de")]
    ]
    (tmp_path / "1.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "1.parquet")
    with (
        pa.OSFile(str(tmp_path / "1.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
    for kind in ("jsonl", "parquet", "arrow"):
        inside = Source(kind=kind, path=str(tmp_path), field="meta.text")
        assert list(documents(inside)) == ["a", "b", "c"]
        english = inside.model_copy(update={"filter": Filter(field="language", values=("en",))})
        assert list(documents(english)) == ["a", "b"]
        good = inside.model_copy(update={"filter": Filter(field="meta.score", minimum=3.0)})
        assert list(documents(good)) == ["b", "c"]


def test_broken_lines_are_left_out_up_to_a_share(tmp_path):
    rows = ['{"text": "x"}'] * 97 + ["{", '{"no": 1}', "[]"]
    path = broken(tmp_path, "a.jsonl", "\n".join(rows).encode())
    some = Source(kind="jsonl", path=str(path), max_broken_share=0.03)
    assert len(list(documents(some))) == 97
    with pytest.raises(DefinitionError, match="3 of 100 rows") as caught:
        list(documents(some.model_copy(update={"max_broken_share": 0.02})))
    assert "a.jsonl:98" in str(caught.value)


def test_a_broken_file_is_left_out_up_to_a_share(tmp_path):
    for number in range(4):
        broken(tmp_path, f"{number}.jsonl", b'{"text": "x"}\n')
    broken(tmp_path, "4.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 999)[:40])
    with pytest.raises(DefinitionError, match=r"4\.jsonl\.gz"):
        list(documents(source("jsonl", tmp_path)))
    assert len(list(documents(Source(kind="jsonl", path=str(tmp_path), max_broken_share=0.2)))) >= 4
    with pytest.raises(DefinitionError, match="1 of 5 files"):
        list(documents(Source(kind="jsonl", path=str(tmp_path), max_broken_share=0.1)))
