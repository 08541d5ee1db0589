"""A data set is made once, whole, and its validation set shares nothing with training."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sparsing.actors.data.order import TrainingOrder
from sparsing.actors.data.prepare import content_hash, open_prepared, precheck, prepare
from sparsing.actors.data.validating.duplicates import DuplicateSearch
from sparsing.actors.data.validating.passages import limited, split
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError

HALVES = ("choose", "report")


def prose(seed: object, count: int) -> str:
    """Text of lines of words drawn at random: no two seeds resemble each other."""
    rng = random.Random(str(seed))
    words = [f"{rng.choice('abcdefgh')}{rng.randrange(500)}" for _ in range(count)]
    return "\n".join(" ".join(words[i : i + 10]) for i in range(0, count, 10))


def write_corpus(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def study(domains: dict[str, Path], **data: object) -> Study:
    sources = {
        name: {"kind": "jsonl", "path": str(path), "weight": 1.0 + number}
        for number, (name, path) in enumerate(domains.items())
    }
    settings = {"tokenizer": {"kind": "bytes"}, "sequence_tokens": 128}
    settings |= {"domains": sources, "validation": {"tokens": 8192}} | data
    axes = {"scale": [{"d_h": 32, "layers": 2}]}
    return Study.model_validate({"name": "s", "axes": axes, "tokens": 1000, "data": settings})


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpora")
    return {
        name: write_corpus(folder / f"{name}.jsonl", [prose((name, i), 400) for i in range(60)])
        for name in ("b", "a")
    }


@pytest.fixture(scope="module")
def prepared(corpora, tmp_path_factory):
    return prepare(study(corpora), tmp_path_factory.mktemp("prepared"))


def texts_of(data, ids: np.ndarray) -> list[str]:
    """The documents in a flat array of tokens."""
    return [t for t in data.tokenizer.decode(ids).split("<|endofdocument|>") if t]


def training_texts(data, domain: str) -> list[str]:
    return texts_of(data, np.asarray(data.train(domain)))


def whole_of(data, number: int) -> bytes:
    return np.asarray(data.train(data.domains[number])).astype(np.int64).tobytes()


def half_texts(data, domain: str, half: str) -> list[str]:
    """The passages of a half of validation, but the last, which is cut at the half's end."""
    return texts_of(data, np.fromfile(data.path / domain / f"{half}.bin", "<u2"))[:-1]


def validation_text(data, domain: str, half: str) -> str:
    sequences = data.validation(domain, half)
    return data.tokenizer.decode(np.append(sequences[:, :-1].ravel(), sequences[-1, -1]))


def test_api(prepared):
    assert prepared.domains == ("a", "b")
    assert prepared.weights == pytest.approx({"b": 1 / 3, "a": 2 / 3})
    assert prepared.vocabulary_size == prepared.tokenizer.vocabulary_size == 257
    for domain in prepared.domains:
        assert prepared.train(domain).shape == (prepared.train_tokens[domain],)
        for half in HALVES:
            sequences = prepared.validation(domain, half)
            assert sequences.shape == (8192 // 2 // 128, 129)
            assert sequences.dtype == np.int64
            assert np.array_equal(sequences[1:, 0], sequences[:-1, -1])


def test_nothing_is_lost_between_training_and_validation(prepared, corpora):
    """Training and validation together are all the corpus, but for the cut at a half's end."""
    for domain, path in corpora.items():
        whole = sum(len(json.loads(line)["text"]) for line in path.open())
        kept = np.count_nonzero(np.asarray(prepared.train(domain)) != 256)
        held = sum(len(validation_text(prepared, domain, half)) for half in HALVES)
        assert whole - 2 * 1024 <= kept + held <= whole + 1000


def test_halves_share_no_document_with_each_other(prepared, corpora):
    for domain, path in corpora.items():
        documents = [json.loads(line)["text"] for line in path.open()]
        found = {}
        for half in HALVES:
            pieces = half_texts(prepared, domain, half)
            found[half] = {i for i, d in enumerate(documents) for p in pieces if p in d}
            assert len(found[half]) > 2
        assert not found["choose"] & found["report"]


def test_no_validation_text_is_in_training(prepared):
    training = [
        t for d in prepared.domains for t in texts_of(prepared, np.asarray(prepared.train(d)))
    ]
    pieces = [
        piece
        for domain in prepared.domains
        for half in HALVES
        for piece in half_texts(prepared, domain, half)
    ]
    search = DuplicateSearch(pieces, list(range(len(pieces))), 0.05)
    search.show([(text, -1) for text in training])
    assert not search.resemblance.any()


def edited(text: str) -> str:
    """Every 60th word is another: Jaccard near 0.85."""
    words = text.split(" ")
    return " ".join(f"edit{i}" if i % 60 == 30 else word for i, word in enumerate(words))


def planted(kind: str) -> tuple[list[str], list[str]]:
    """Two domains; each document of the first has a copy, in the first or in the second."""
    own = [prose(i, 300) for i in range(40)]
    other = [prose(("other", i), 300) for i in range(40)]
    copies = {
        "exact": [own[i] for i in range(20)],
        "near": [edited(own[i]) for i in range(20)],
        "moved": [prose(("head", i), 57) + " " + own[i] + prose(i + 99, 40) for i in range(20)],
    }[kind.removesuffix(" elsewhere")]
    return (own, other + copies) if kind.endswith("elsewhere") else (own + copies, other)


@pytest.mark.parametrize("kind", ["exact", "near", "moved", "near elsewhere", "moved elsewhere"])
def test_planted_duplicates_are_kept_out_of_validation(kind, tmp_path):
    own, other = planted(kind)
    paths = {n: write_corpus(tmp_path / n, t) for n, t in (("own", own), ("other", other))}
    data = prepare(study(paths, validation={"tokens": 4096}), tmp_path / "prepared")
    pieces = [piece for half in HALVES for piece in half_texts(data, "own", half)]
    assert any(piece in text for piece in pieces for text in own[20:40])
    assert not any(piece in text for piece in pieces for text in own[:20])
    assert resembling(data, "own") == []
    about = data.metadata["domains"]["own"]
    dropped = about["exact_duplicates_dropped"] + about["near_duplicates_dropped"]
    assert dropped > 0
    assert kind != "near" or about["exact_duplicates_dropped"] == 0


def resembling(data, domain: str) -> list[str]:
    """Validation passages of `domain` that resemble training text, or each other."""
    pieces = [piece for half in HALVES for piece in half_texts(data, domain, half)]
    search = DuplicateSearch(pieces, list(range(len(pieces))), 0.7)
    search.show(
        [(text, -1) for d in data.domains for text in texts_of(data, np.asarray(data.train(d)))]
    )
    search.show_each_other(pieces)
    return [piece for piece, r in zip(pieces, search.resemblance, strict=True) if r]


@pytest.mark.parametrize("change", [edited, str], ids=["near", "exact"])
def test_repetitions_inside_a_document_are_kept_out_of_validation(change, tmp_path):
    """Each document is three passages, two of them versions of one."""
    passages = [(prose((i, "a"), 180), prose((i, "b"), 180)) for i in range(60)]
    documents = ["\n\n".join([a, change(a), b]) for a, b in passages]
    path = write_corpus(tmp_path / "a.jsonl", documents)
    data = prepare(study({"a": path}), tmp_path / "prepared")
    assert resembling(data, "a") == []
    kept = np.count_nonzero(np.asarray(data.train("a")) != 256)
    held = sum(len(validation_text(data, "a", half)) for half in HALVES)
    assert kept + held >= sum(map(len, documents)) - 2 * 1024


def test_copies_are_found_where_a_long_document_is_cut(tmp_path):
    """Documents are compared in stretches; a copy on the cut between two must not be missed."""
    own = [prose(i, 130)[:700] for i in range(60)]
    long = []
    for i, text in enumerate(own[:30]):
        filler = prose(("long", i), 20_000)
        long.append(filler[: 2**16 - 350] + text + filler[2**16 : 2**16 + 20_000])
    paths = {n: write_corpus(tmp_path / n, t) for n, t in (("own", own), ("long", long))}
    data = prepare(study(paths, validation={"tokens": 4096}), tmp_path / "prepared")
    pieces = [piece for half in HALVES for piece in half_texts(data, "own", half)]
    assert pieces
    assert all(any(piece in text for text in own[30:]) for piece in pieces)


def test_distinct_text_is_not_dropped(prepared):
    for about in prepared.metadata["domains"].values():
        assert about["exact_duplicates_dropped"] == about["near_duplicates_dropped"] == 0


def test_a_long_document_is_split_in_halves_by_sections(tmp_path):
    book = write_corpus(tmp_path / "book.jsonl", [prose("book", 40_000)])
    data = prepare(study({"book": book}), tmp_path / "prepared")
    assert len(data.validation("book", "choose")) == len(data.validation("book", "report")) == 32


def test_second_call_finds_the_first(prepared, corpora):
    before = (prepared.path / "metadata.json").stat().st_mtime_ns
    lines: list[str] = []
    again = prepare(study(corpora), prepared.path.parent, lines.append)
    assert again.path == prepared.path
    assert lines == []
    assert (prepared.path / "metadata.json").stat().st_mtime_ns == before


def test_the_order_of_domains_in_a_definition_changes_nothing(prepared, corpora):
    turned = study(corpora).data
    domains = dict(reversed(turned.domains.items()))
    assert content_hash(turned.model_copy(update={"domains": domains})) == prepared.path.name


def test_two_preparations_give_the_same_bytes(prepared, corpora, tmp_path):
    again = prepare(study(corpora), tmp_path)
    assert again.metadata["files"] == prepared.metadata["files"]


def test_changed_corpus_is_another_data_set(tmp_path):
    path = write_corpus(tmp_path / "a.jsonl", [prose(i, 300) for i in range(30)])
    first = content_hash(study({"a": path}).data)
    write_corpus(path, [prose(i, 300) for i in range(31)])
    assert content_hash(study({"a": path}).data) != first


def test_damage_is_noticed_when_opened(corpora, tmp_path):
    data = prepare(study(corpora), tmp_path)
    file = data.path / data.metadata["domains"]["a"]["train_files"][0]
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(SparsingError, match=r"part-000000.bin: damaged .* delete the folder"):
        open_prepared(data.path)
    file.unlink()
    with pytest.raises(SparsingError, match="missing"):
        open_prepared(data.path)
    (data.path / "metadata.json").write_text("{")
    with pytest.raises(SparsingError, match="delete the folder"):
        open_prepared(data.path)
    with pytest.raises(NotFoundError, match="no prepared data"):
        open_prepared(tmp_path / "none")


@pytest.mark.parametrize("tokenizer", [{"kind": "bytes"}, {"kind": "bpe", "vocabulary_size": 500}])
def test_order_over_a_real_data_set_resumes_anywhere(corpora, tmp_path, tokenizer):
    data = prepare(study(corpora, tokenizer=tokenizer), tmp_path)
    assert 257 <= data.vocabulary_size <= 500
    whole = TrainingOrder(data, 1).sequences(0, 300)
    resumed = TrainingOrder(open_prepared(data.path), 1).sequences(123, 177)
    assert np.array_equal(whole[123:], resumed)
    assert whole.max() < data.vocabulary_size
    counts = np.bincount(TrainingOrder(data, 1).domains_of(0, 640), minlength=2)
    assert np.abs(counts / 640 - [2 / 3, 1 / 3]).max() < 1 / 64
    rows = TrainingOrder(data, 1).domains_of(0, 300)
    for row, number in zip(whole[:50], rows[:50], strict=True):
        starts = data.train(data.domains[number])[:-128:128]
        assert row[0] in starts
        assert row[:129].tobytes() in whole_of(data, number)


def test_max_bytes_is_respected(corpora, tmp_path):
    data = prepare(study(corpora, max_bytes=30_000, validation={"tokens": 1024}), tmp_path)
    for about in data.metadata["domains"].values():
        assert 29_000 < about["bytes"] <= 30_000
        assert about["train_tokens"] < 31_000


def test_limit_cuts_the_last_document_at_a_line():
    assert list(limited(["中文\n", "ab\ncd\n"], 11)) == ["中文\n", "ab\n"]
    assert list(limited(["中文"], 4)) == ["中"]
    assert list(limited(["ab", "cd"], 2)) == ["ab"]


def test_passages_are_cut_at_paragraphs_and_lose_nothing():
    text = "\n\n".join("\n".join("word " * 15 for _ in range(6)) for _ in range(50))
    pieces = list(split(text, 1024))
    assert "".join(pieces) == text
    assert all(piece.endswith("\n\n") for piece in pieces[:-1])
    assert max(map(len, pieces)) <= 1024
    assert list(split("x" * 2500, 1024)) == ["x" * 1024, "x" * 1024, "x" * 452]


def test_too_little_text_says_how_much_there_is(tmp_path):
    paths = {n: write_corpus(tmp_path / n, [prose((n, i), 80) for i in range(30)]) for n in "ab"}
    with pytest.raises(DefinitionError) as caught:
        prepare(study(paths, validation={"tokens": 9216}), tmp_path / "prepared")
    message = str(caught.value)
    assert "data.domains.a: only" in message
    assert "data.domains.b: only" in message
    remedy = int(message.split("write data.validation.tokens: ")[1].split(",")[0])
    assert not shown(tmp_path / "prepared")
    made = prepare(study(paths, validation={"tokens": remedy}), tmp_path / "prepared")
    assert len(made.validation("a", "report")) == remedy // 2 // 128


def test_all_text_repeated_says_so(tmp_path):
    path = write_corpus(tmp_path / "a", [prose(i % 20, 300) for i in range(40)])
    with pytest.raises(DefinitionError, match=r"[1-9]\d* exact"):
        prepare(study({"a": path}), tmp_path / "prepared")


def test_precheck_names_every_problem_at_once(tmp_path):
    small = write_corpus(tmp_path / "small", [prose(1, 100)])
    wrong = study({"a": tmp_path / "none", "b": small, "c": tmp_path / "none"}).data
    with pytest.raises(DefinitionError) as caught:
        precheck(wrong)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"data.domains.{d}" for d in "abc"]
    assert "cannot give 8194 validation tokens" in lines[1]


def test_half_of_the_validation_must_hold_a_sequence(corpora, tmp_path):
    with pytest.raises(DefinitionError, match="write at least 256"):
        prepare(study(corpora, validation={"tokens": 255}), tmp_path)


PREPARE = """
import sys
from pathlib import Path
from sparsing.actors.data.prepare import prepare
from sparsing.study.definition.model import Study
study = Study.model_validate_json(Path(sys.argv[1]).read_text())
print(prepare(study, Path(sys.argv[2]), lambda line: print(line, flush=True)).path.name)
"""


def shown(root: Path) -> list[str]:
    """Prepared data sets in a folder."""
    return [path.parent.name for path in root.glob("[!.]*/metadata.json")]


def start(definition: Path, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARE, str(definition), str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def definition(corpora, tmp_path) -> Iterator[Path]:
    path = tmp_path / "study.json"
    path.write_text(study(corpora).model_dump_json())
    return path


def test_concurrent_preparations_agree(definition, prepared, tmp_path):
    processes = [start(definition, tmp_path / "root") for _ in range(2)]
    names = {process.communicate()[0].splitlines()[-1] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert names == {prepared.path.name}
    assert shown(tmp_path / "root") == [prepared.path.name]


def test_a_killed_preparation_is_harmless(definition, prepared, tmp_path):
    process = start(definition, tmp_path / "root")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    study_again = Study.model_validate_json(definition.read_text())
    again = prepare(study_again, tmp_path / "root")
    assert again.metadata["files"] == prepared.metadata["files"]
