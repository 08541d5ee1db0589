"""Parts, one after the other, give the documents of the whole source."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsing.actors.data.sources import pieces, reading
from sparsing.actors.data.sources.files import files_of
from sparsing.actors.data.sources.pieces import parts_of
from sparsing.actors.data.sources.reading import Tally, documents, piece_documents
from sparsing.study.definition.data import Source

TEXTS = [f"document {i} " + "word " * (i * 7 % 200) for i in range(300)]


def jsonl(folder: Path) -> Source:
    for name, part in (("a", TEXTS[:200]), ("b", TEXTS[200:210]), ("c", TEXTS[210:])):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in part)
        (folder / f"{name}.jsonl").write_text(rows)
    return Source(kind="jsonl", path=str(folder))


def parquet(folder: Path) -> Source:
    table = pa.table({"text": TEXTS})
    pq.write_table(table, folder / "a.parquet", row_group_size=40)
    pq.write_table(table[:9], folder / "b.parquet")
    return Source(kind="parquet", path=str(folder))


def text(folder: Path) -> Source:
    (folder / "a.txt").write_text("\n".join(TEXTS))
    (folder / "b.txt").write_text("short")
    return Source(kind="text", path=str(folder))


def huggingface(folder: Path) -> Source:
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    return Source(kind="huggingface", name=str(folder))


@pytest.mark.parametrize("make", [jsonl, parquet, text, huggingface])
@pytest.mark.parametrize("size", [500, 5_000, 10**9])
def test_parts_give_what_the_whole_gives(make, size, tmp_path, monkeypatch):
    for name in ("SMALLEST_PART_BYTES", "LARGEST_PART_BYTES", "WHOLE_TEXT_BYTES"):
        monkeypatch.setattr(pieces, name, size)
    monkeypatch.setattr(reading, "TEXT_PIECE_BYTES", size)
    source = make(tmp_path)
    files = files_of(source)
    parts = parts_of(source, files)
    tally = Tally()
    found = [t for part in parts for piece in part for t in piece_documents(
        source, files, piece, tally)]  # fmt: skip
    assert found == list(documents(source))
    assert tally.rows == len(found)
    assert len(parts) > 3 or size > 5_000 or make is parquet
