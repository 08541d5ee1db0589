"""A source on an object store gives what the same files on a disk give."""

from __future__ import annotations

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3 import s3_server

from sparsing.actors.data.sources.files import files_of
from sparsing.actors.data.sources.identity import digest_of, identities
from sparsing.actors.data.sources.reading import documents
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError
from sparsing.study.store.io.objects import place_of

PYTHON = os.environ.get("SPARSING_S3_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="SPARSING_S3_PYTHON names no Python with moto")


@pytest.fixture
def bucket(monkeypatch):
    with s3_server(str(PYTHON)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield "s3://bucket/corpus"


def test_jsonl_gzip_and_parquet(bucket, tmp_path):
    rows = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(200))
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.jsonl").write_text(rows)
    (tmp_path / "deep" / "b.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / ".hidden.jsonl").write_text(rows)
    pq.write_table(pa.table({"text": ["x", "y"]}), tmp_path / "c.parquet")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            target = place_of(f"{bucket}/{path.relative_to(tmp_path).as_posix()}")
            target.replace_by(path.read_bytes())  # type: ignore[union-attr]
    for kind in ("jsonl", "parquet"):
        here, there = (Source(kind=kind, path=str(root)) for root in (tmp_path, bucket))
        assert list(documents(there)) == list(documents(here))
        assert files_of(there).files == files_of(here).files
        assert digest_of(identities(there)) == digest_of(identities(here))
    one = Source(kind="jsonl", path=f"{bucket}/a.jsonl")
    assert len(list(documents(one))) == 200
    with pytest.raises(DefinitionError, match=r"no \.jsonl"):
        files_of(Source(kind="jsonl", path=f"{bucket}/none"))
