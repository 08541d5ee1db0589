"""Tokenizers encode any text without loss, and come back from their JSON unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.actors.data.tokenizers import (
    END_OF_DOCUMENT,
    ByteTokenizer,
    dtype_of,
    load,
    save,
    train_bpe,
)
from sparsing.study.errors import SparsingError

SAMPLE = [
    "def add(first, second):\n    return first + second\n" * 20,
    "中文字符測試，綺殿千尋起。" * 20,
]
BPE = train_bpe(SAMPLE, 400)
encodable = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
@given(texts=st.lists(encodable, max_size=4))
@settings(deadline=None, max_examples=50)
def test_every_text_comes_back(tokenizer, texts):
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert tokenizer.decode(ids) == text
        assert ids.dtype == np.dtype("<u2")
        assert (ids < tokenizer.vocabulary_size).all()
        assert (ids != tokenizer.end_of_document).all()


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
def test_text_that_spells_the_end_of_document_does_not_end_it(tokenizer):
    text = f"a{END_OF_DOCUMENT}b"
    [ids] = tokenizer.encode([text])
    assert tokenizer.end_of_document not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.end_of_document]) == text + END_OF_DOCUMENT


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    save(tokenizer, tmp_path / "tokenizer.json")
    again = load(tmp_path / "tokenizer.json")
    assert again.fingerprint == tokenizer.fingerprint
    assert again.vocabulary_size == tokenizer.vocabulary_size
    text = f"return {END_OF_DOCUMENT} 綺殿"
    assert np.array_equal(again.encode([text])[0], tokenizer.encode([text])[0])


def test_bpe_learns_its_sample():
    assert BPE.vocabulary_size <= 400
    assert len(BPE.encode([SAMPLE[0]])[0]) < len(SAMPLE[0]) / 3


def test_broken_tokenizer_says_what_to_do(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SparsingError, match="prepare the data again"):
        load(tmp_path / "tokenizer.json")


def test_ids_are_as_wide_as_the_vocabulary_needs():
    assert dtype_of(2**16) == np.dtype("<u2")
    assert dtype_of(2**16 + 1) == np.dtype("<u4")
