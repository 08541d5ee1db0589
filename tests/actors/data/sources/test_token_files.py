"""Tokens that exist are taken as they are, in every format, and checked against the tokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsing.actors.data.prepare import precheck, prepare
from sparsing.actors.data.sources import pieces
from sparsing.actors.data.sources.megatron import index_bytes
from sparsing.actors.data.sources.token_files import MOST_IDS, as_ids, as_text
from sparsing.actors.data.tokenizers import END_OF_DOCUMENT, train_bpe
from sparsing.actors.data.validating.duplicates import DuplicateSearch
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError

WORDS = [f"{a}{b}" for a in "abcdefgh" for b in range(300)]


def prose(seed: object, count: int) -> str:
    rng = random.Random(str(seed))
    return " ".join(rng.choice(WORDS) for _ in range(count))


TEXTS = [prose(i, 120 + 17 * (i % 7)) for i in range(150)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    inner = train_bpe(TEXTS, 600)
    (folder / "tokenizer.json").write_text(inner.json)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END_OF_DOCUMENT}))
    return folder


def study(domains: dict[str, dict], path: Path, **data: object) -> Study:
    settings = {
        "tokenizer": {"kind": "file", "path": str(path)},
        "sequence_tokens": 128,
        "validation": {"tokens": 4096},
    }
    return Study.model_validate(
        {
            "name": "s",
            "axes": {"scale": [{"d_h": 32, "layers": 2}]},
            "tokens": 1000,
            "data": settings | {"domains": domains} | data,
        }
    )


@pytest.fixture(scope="module")
def of_text(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    source = {"kind": "jsonl", "path": str(folder / "a.jsonl")}
    return prepare(study({"web": source}, tokenizer), folder / "data")


def all_tokens(data, domain: str = "web") -> np.ndarray:
    names = data.metadata["domains"][domain]["train_files"]
    return np.concatenate([np.fromfile(data.path / name, "<u2") for name in names])


def documents(data) -> list[np.ndarray]:
    tokens = all_tokens(data)
    ends = np.flatnonzero(tokens == data.metadata["end_of_document"]) + 1
    return np.split(tokens, ends)[:-1]


def megatron(folder: Path, found: list[np.ndarray]) -> dict:
    np.concatenate(found).astype("<u2").tofile(folder / "a.bin")
    lengths = np.array([len(each) for each in found])
    (folder / "a.idx").write_bytes(index_bytes(lengths, np.dtype("<u2")))
    return {"format": "megatron"}


def datatrove(folder: Path, found: list[np.ndarray]) -> dict:
    np.concatenate(found).astype("<u4").tofile(folder / "a.ds")
    np.cumsum([len(each) for each in found]).astype("<u8").tofile(folder / "a.ds.index")
    return {"dtype": "uint32"}


def flat(folder: Path, found: list[np.ndarray]) -> dict:
    np.concatenate(found).astype("<u2").tofile(folder / "a.bin")
    return {}


def with_header(folder: Path, found: list[np.ndarray]) -> dict:
    tokens = np.concatenate(found).astype("<u2")
    head = np.zeros(256, "<i4")
    head[:3] = 20240520, 1, len(tokens)
    (folder / "a.bin").write_bytes(head.tobytes() + tokens.tobytes())
    return {"format": "flat"}


def huggingface(folder: Path, found: list[np.ndarray]) -> dict:
    table = pa.table({"input_ids": pa.array([each.tolist() for each in found])})
    with (
        pa.OSFile(str(folder / "data-00000.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=20)
    return {}


FORMATS = [megatron, datatrove, flat, with_header, huggingface]


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("part_bytes", [20_000, 10**9])
def test_every_format_gives_the_same_tokens(
    make, part_bytes, of_text, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(pieces, "SMALLEST_PART_BYTES", part_bytes)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    more = make(corpus, documents(of_text))
    wanted = study({"web": {"kind": "tokens", "path": str(corpus)} | more}, tokenizer)
    data = prepare(wanted, tmp_path / "data")
    assert np.array_equal(all_tokens(data), all_tokens(of_text))
    assert data.metadata["domains"]["web"]["documents"] == len(TEXTS)
    held = sum(np.count_nonzero(data.validation("web", h)[:, :-1] >= 0) for h in
               ("choose", "report"))  # fmt: skip
    assert held == 4096
    assert abs(len(data.train("web")) + held - len(all_tokens(data))) < 600
    assert not resembling(data)


def resembling(data) -> list[int]:
    """Validation passages that resemble training, in tokens."""
    end = data.metadata["end_of_document"]
    search_in = np.split(np.asarray(data.train("web")), np.flatnonzero(
        np.asarray(data.train("web")) == end) + 1)  # fmt: skip
    held = [np.fromfile(data.path / "web" / f"{h}.bin", "<u2") for h in ("choose", "report")]
    cut = [p for half in held for p in np.split(half, np.flatnonzero(half == end) + 1)]
    texts = [as_text(each[:-1]) for each in cut if len(each) > 20]
    search = DuplicateSearch(texts, list(range(len(texts))), 0.5)
    search.show([(as_text(each), -1) for each in search_in])
    return np.flatnonzero(search.resemblance).tolist()


def test_duplicates_are_found_between_text_and_tokens(of_text, tokenizer, tmp_path):
    """Half of the text's documents are in the tokens too: none of these is in validation."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    own = [prose(("own", i), 200) for i in range(60)]
    copied = documents(of_text)[:75]
    encoded = of_text.tokenizer.encode(own)
    end = of_text.metadata["end_of_document"]
    flat(corpus, copied + [np.append(ids, end).astype("<u2") for ids in encoded])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    domains = {
        "text": {"kind": "jsonl", "path": str(tmp_path / "a.jsonl")},
        "tokens": {"kind": "tokens", "path": str(corpus)},
    }
    data = prepare(study(domains, tokenizer, validation={"tokens": 2048}), tmp_path / "data")
    for domain, unique in (("text", TEXTS[75:]), ("tokens", own)):
        files = [data.path / domain / f"{half}.bin" for half in ("choose", "report")]
        held = [data.tokenizer.decode(np.fromfile(file, "<u2")) for file in files]
        pieces_held = [p for text in held for p in text.split(END_OF_DOCUMENT) if len(p) > 200]
        assert pieces_held
        for piece in pieces_held:
            assert any(piece.strip()[40:160] in text for text in unique)


@given(st.lists(st.integers(0, MOST_IDS - 1)))
def test_ids_come_back_from_their_characters(ids):
    text = as_text(np.array(ids, dtype="<u4"))
    assert as_ids(text).tolist() == ids
    text.encode()


def broken_megatron(folder: Path, found: list[np.ndarray]) -> dict:
    megatron(folder, found)
    with (folder / "a.bin").open("ab") as file:
        file.write(b"\0\0")
    return {"format": "megatron"}


def cut_index(folder: Path, found: list[np.ndarray]) -> dict:
    megatron(folder, found)
    (folder / "a.idx").write_bytes((folder / "a.idx").read_bytes()[:-9])
    return {}


def no_index(folder: Path, found: list[np.ndarray]) -> dict:
    megatron(folder, found)
    (folder / "a.idx").unlink()
    return {"format": "megatron"}


def large_id(folder: Path, found: list[np.ndarray]) -> dict:
    return flat(folder, [np.append(found[0][:10], 60_000), *found])


def odd_bytes(folder: Path, found: list[np.ndarray]) -> dict:
    flat(folder, found)
    with (folder / "a.bin").open("ab") as file:
        file.write(b"\0")
    return {}


def cut_header(folder: Path, found: list[np.ndarray]) -> dict:
    with_header(folder, found)
    (folder / "a.bin").write_bytes((folder / "a.bin").read_bytes()[:-4])
    return {}


BROKEN = {
    "data longer than the index": (broken_megatron, r"a\.bin.*do not belong together"),
    "cut index": (cut_index, r"a\.idx.*it is cut"),
    "no index": (no_index, r"a\.idx: no such file"),
    "id beyond the vocabulary": (large_id, r"a\.bin: token 10 is 60000"),
    "half a token": (odd_bytes, r"a\.bin.*no whole number"),
    "header says more": (cut_header, r"a\.bin.*it is cut"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said_with_file_and_place(case, of_text, tokenizer, tmp_path):
    make, said = BROKEN[case]
    more = make(tmp_path, documents(of_text))
    wanted = study({"web": {"kind": "tokens", "path": str(tmp_path)} | more}, tokenizer)
    with pytest.raises(DefinitionError, match=said):
        precheck(wanted.data)


def test_tokens_need_their_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="the tokenizer that made them"):
        study({"web": {"kind": "tokens", "path": str(tmp_path)}}, tmp_path,
              tokenizer={"kind": "bpe"})  # fmt: skip


def test_a_tokenizer_file_says_what_ends_a_document(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    path.write_text(json.dumps(content).replace("endofdocument", "fin"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    domains = {"web": {"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}}
    with pytest.raises(DefinitionError, match="end_of_document"):
        precheck(study(domains, path).data)
    named = {"kind": "file", "path": str(path), "end_of_document": "<|fin|>"}
    data = prepare(study(domains, path, tokenizer=named), tmp_path / "data")
    assert data.tokenizer.end_of_document == data.metadata["end_of_document"]
    assert data.tokenizer.decode(documents(data)[0][:-1]) == TEXTS[0]
    path.write_text("{")
    with pytest.raises(DefinitionError, match="is no tokenizer"):
        precheck(study(domains, path, tokenizer=named).data)
