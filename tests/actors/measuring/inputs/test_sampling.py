"""A sample over the whole of a large text, the same at every call, in bounded memory."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsing.actors.data.sources import files
from sparsing.actors.measuring.inputs.sampling import sampled
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError

LINES = 60_000


def line(index: int) -> str:
    return f"{index:06d} the sea is wide and the boat is small and the wind comes from the west"


def write(folder: Path, kind: str) -> Path:
    """Lines that say where they stand, in one file of each kind."""
    texts = [line(i) for i in range(LINES)]
    path = folder / f"text.{kind}"
    if kind == "txt":
        path.write_text("\n".join(texts))
    elif kind == "parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=500)
    else:
        rows = "\n".join(json.dumps({"text": text}) for text in texts).encode()
        path.write_bytes(gzip.compress(rows, 1) if kind.endswith("gz") else rows)
    return path


def source(path: Path) -> Source:
    kinds = {"txt": "text", "parquet": "parquet"}
    return Source(kind=kinds.get(path.name.split(".")[1], "jsonl"), path=str(path))


@pytest.mark.parametrize("kind", ["txt", "jsonl", "jsonl.gz", "parquet"])
def test_a_sample_is_spread_over_the_whole_and_always_the_same(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    found = list(sampled(source(path), 2**19))
    assert found == list(sampled(source(path), 2**19))
    text = "\n".join(found)
    assert 2**19 <= len(text) < 1.2 * 2**19
    places = [int(each[:6]) for each in text.split("\n")]
    assert len(set(places)) == len(places)
    assert np.mean(places) == pytest.approx(LINES / 2, rel=0.2)
    whole = text.split("\n")[:-1]  # the last may be cut
    assert whole == [line(place) for place in places[:-1]]


def test_little_more_than_wanted_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "txt")
    tracemalloc.start()
    total = sum(len(text) for text in sampled(source(path), 2**18))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total < 2**19
    assert peak < 3 * 2**20 < path.stat().st_size


def test_what_is_small_is_taken_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    assert list(sampled(Source(kind="text", path=str(tmp_path)), 2**20)) == ["one", "two"]
    (tmp_path / "long.txt").write_text("no newline " * 10_000)
    assert sum(map(len, sampled(Source(kind="text", path=str(tmp_path)), 1000))) < 1100


def test_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n" * 5000)
    for wanted in (10, 10_000):
        with pytest.raises(DefinitionError):
            list(sampled(source(tmp_path / "a.txt"), wanted))
    assert files.files_of(source(tmp_path / "a.txt")).size == 5000
