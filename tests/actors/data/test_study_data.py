"""What a study was first trained on stays its data, whatever becomes of the corpus."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from sparsing.actors.data.prepare import prepare
from sparsing.actors.data.study_data import data_of_study, prepared_of
from sparsing.study.definition.model import Study
from sparsing.study.errors import DamagedError, DefinitionError, NotFoundError, SparsingError
from sparsing.study.query.configurations import configurations
from sparsing.study.store.care.check import check_store
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.training_data import RECORD, epoch_warnings, read_record


def write_corpus(path: Path, seed: int = 0) -> None:
    rng = random.Random(seed)
    texts = [" ".join(f"w{rng.randrange(2000)}" for _ in range(300)) for _ in range(60)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture
def corpus(tmp_path) -> Path:
    write_corpus(tmp_path / "corpus.jsonl")
    return tmp_path / "corpus.jsonl"


@pytest.fixture
def store(corpus, tmp_path) -> StudyStore:
    study = Study.model_validate(
        {
            "name": "s",
            "axes": {"scale": [{"d_h": 32, "layers": 2}]},
            "tokens": 200_000,
            "optimization": {"batch_tokens": 1024, "warmup_tokens": 1024},
            "data": {
                "domains": {"web": {"kind": "jsonl", "path": str(corpus)}},
                "tokenizer": {"kind": "bytes"},
                "sequence_tokens": 128,
                "validation": {"tokens": 4096},
            },
        }
    )
    return StudyStore.create(tmp_path / "store", study)


def say(line: str) -> None:
    """Nobody listens."""


def begin(store: StudyStore) -> None:
    """A first step in the store."""
    with store.writer("steps", run="relu-d32x2-wd16-s0", attempt=1) as writer:
        row = {"step": 1, "tokens": 1024, "loss": 5.0, "learning_rate": 0.1}
        writer.append(1, [row | {"tokens_per_second": 1.0, "step_seconds": 1.0}])


def test_a_changed_corpus_changes_nothing_once_recorded(store, corpus):
    first = data_of_study(store, say)
    write_corpus(corpus, seed=1)
    again = data_of_study(store, say)
    assert again.path == first.path
    assert len(list((store.path.parent / "data").glob("*/metadata.json"))) == 1
    corpus.unlink()
    assert data_of_study(store, say).path == prepared_of(store).path == first.path


def test_data_that_are_gone_are_made_again_from_the_same_sources(store, corpus):
    first = data_of_study(store, say)
    shutil.rmtree(first.path)
    with pytest.raises(NotFoundError):
        prepared_of(store)
    os.utime(corpus)
    assert data_of_study(store, say).metadata["files"] == first.metadata["files"]


def test_data_that_are_gone_are_not_made_from_other_sources(store, corpus):
    shutil.rmtree(data_of_study(store, say).path)
    write_corpus(corpus, seed=1)
    with pytest.raises(DefinitionError) as caught:
        data_of_study(store, say)
    assert "corpus.jsonl changed" in str(caught.value)
    assert "data.domains.web" in str(caught.value)
    corpus.rename(corpus.with_name("other.jsonl"))
    with pytest.raises(DefinitionError, match="no such file"):
        data_of_study(store, say)


def test_other_data_in_their_place_are_refused(store):
    data = data_of_study(store, say)
    metadata = data.metadata | {"tokenizer_fingerprint": "0" * 64}
    (data.path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(SparsingError, match="another tokenizer"):
        data_of_study(store, say)


def test_a_study_from_before_records_is_adopted_once(store, corpus):
    first = prepare(store.study, store.path.parent / "data")
    begin(store)
    write_corpus(corpus, seed=1)
    assert data_of_study(store, say).path == first.path
    record = read_record(store.path)
    assert record is not None
    assert record.adopted
    assert record.prepared == first.path.name
    written = (store.path / RECORD).stat().st_mtime_ns
    data_of_study(store, say)
    assert (store.path / RECORD).stat().st_mtime_ns == written


def test_a_study_from_before_records_whose_data_are_unclear_is_refused(store, corpus):
    begin(store)
    with pytest.raises(NotFoundError, match="before its data were"):
        data_of_study(store, say)
    for seed in (0, 1):
        write_corpus(corpus, seed)
        prepare(store.study, store.path.parent / "data")
    with pytest.raises(DefinitionError, match="several data sets"):
        data_of_study(store, say)


def test_epochs_are_said_and_above_one_warned_of(store):
    lines: list[str] = []
    data = data_of_study(store, lines.append)
    record = read_record(store.path)
    assert record is not None
    expected = 200_000 / data.train_tokens["web"]
    assert expected > 1
    assert record.epochs(200_000)["web"] == pytest.approx(expected)
    assert record.first_repeat_tokens() == (data.train_tokens["web"], "web")
    assert any(line.startswith("warning: web") for line in lines)
    assert not epoch_warnings(record, [])


def test_store_check_reads_the_data_and_finds_each_damage(store):
    data = data_of_study(store, say)
    assert not check_store(store).damage
    file = data.path / data.metadata["domains"]["web"]["train_files"][0]
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    [finding] = check_store(store).damage
    assert finding.kind == "data"
    assert finding.path.endswith("part-000000.bin")
    file.unlink()
    assert [f.kind for f in check_store(store).damage] == ["data"]


def test_a_damaged_record_is_said(store):
    data_of_study(store, say)
    (store.path / RECORD).write_text("{")
    with pytest.raises(DamagedError, match=RECORD):
        data_of_study(store, say)


def test_epochs_stand_in_the_table_of_runs(store):
    assert configurations(store)["epochs"].to_list() == [None]
    data = data_of_study(store, say)
    [epochs] = configurations(store)["epochs"].to_list()
    assert json.loads(epochs)["web"] == pytest.approx(200_000 / data.train_tokens["web"], rel=1e-2)
