"""The search for near duplicates is exact: a brute-force search over sets of words agrees."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.actors.data.validating.duplicates import DuplicateSearch
from sparsing.actors.data.validating.shingles import WORDS, shingles

WORD = re.compile("[A-Za-z0-9_\u0080-\u07ff]+|[\u0800-\U0010ffff]")


def naive_shingles(text: str) -> set[tuple[str, ...]]:
    words = [re.sub("[A-Z]", lambda m: m[0].lower(), w) for w in WORD.findall(text)]
    last = max(1, len(words) - WORDS + 1) if words else 0
    return {tuple(words[i : i + WORDS]) for i in range(last)}


def naive_resemblance(candidate: str, text: str) -> float:
    a, b = naive_shingles(candidate), naive_shingles(text)
    shared = len(a & b)
    return shared / (len(a) + min(len(a), len(b)) - shared) if shared else 0.0


encodable = st.text(st.characters(exclude_categories=["Cs"]))
words = st.lists(
    st.sampled_from(["ab", "Ab", "c_1", "é", "中", "文", "😀", "\n", "-", "x"]), max_size=25
)
texts = st.lists(words.map(" ".join) | words.map("".join) | encodable, min_size=1, max_size=5)


@given(texts)
@settings(deadline=None, max_examples=200)
def test_shingles_are_those_of_a_plain_program(several):
    hashes, owners = shingles(several)
    naive = [naive_shingles(text) for text in several]
    for number, expected in enumerate(naive):
        assert len(set(hashes[owners == number].tolist())) == len(expected)
    assert len(set(hashes.tolist())) == len(set().union(*naive))


@given(texts, texts, st.floats(0.05, 1))
@settings(deadline=None, max_examples=200)
def test_resemblance_is_that_of_a_plain_program(candidates, others, threshold):
    search = DuplicateSearch(candidates, list(range(len(candidates))), threshold)
    search.show([(text, -1) for text in others])
    for candidate, found in zip(candidates, search.resemblance, strict=True):
        expected = max(naive_resemblance(candidate, text) for text in others)
        assert found == pytest.approx(expected if expected >= threshold else 0)


def prose(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(2000)]
    return [rng.choice(vocabulary) for _ in range(count)]


def planted(copy: list[str], *, before: int) -> list[tuple[str, int]]:
    """A long document that holds `copy` behind `before` words of its own, as `show` wants it."""
    return [(" ".join([*prose(1, before), *copy, *prose(2, 3000)]), -1)]


def test_copies_are_found_wherever_they_stand():
    passage = prose(0, 300)
    for before in (0, 1, 777, 5000):
        search = DuplicateSearch([" ".join(passage)], [0], 0.7)
        search.show(planted(passage, before=before))
        assert search.resemblance.tolist() == [1]


@pytest.mark.parametrize(("every", "dropped"), [(100, True), (50, True), (10, False), (3, False)])
def test_near_copies_are_found_from_the_threshold_on(every, dropped):
    """Every n-th word is changed, and with it five shingles: 5/n of them."""
    passage = prose(0, 300)
    edited = [f"new{i}" if i % every == every // 2 else w for i, w in enumerate(passage)]
    search = DuplicateSearch([" ".join(passage)], [0], 0.7)
    search.show(planted(edited, before=100))
    assert (search.resemblance[0] >= 0.7) == dropped


def test_distinct_texts_are_left():
    search = DuplicateSearch([" ".join(prose(i, 300)) for i in range(20)], list(range(20)), 0.1)
    search.show([(" ".join(prose(100 + i, 3000)), -1) for i in range(20)])
    assert not search.resemblance.any()


def test_a_document_does_not_speak_against_its_own_passage():
    passage = " ".join(prose(0, 300))
    search = DuplicateSearch([passage, passage + " more"], [7, 8], 0.7)
    search.show([(passage, 7)])
    assert search.resemblance[0] == 0
    assert search.resemblance[1] > 0.9


def test_candidates_speak_against_each_other():
    same, other = " ".join(prose(0, 300)), " ".join(prose(1, 300))
    search = DuplicateSearch([same, other, same], [0, 0, 0], 0.7)
    search.show_each_other([same, other, same])
    assert search.resemblance.tolist() == [1, 0, 1]


def test_minhash_agrees_where_it_finds_something():
    """datasketch's MinHash LSH finds nothing that this search does not."""
    datasketch = pytest.importorskip("datasketch")
    rng = random.Random(3)
    originals = [prose(i, 200) for i in range(30)]
    edited = [
        [f"n{rng.random()}" if rng.random() < share else w for w in words]
        for words, share in zip(originals, np.linspace(0, 0.15, 30), strict=True)
    ]
    lsh = datasketch.MinHashLSH(threshold=0.7, num_perm=128)
    for number, words in enumerate(originals):
        lsh.insert(number, minhash(datasketch, words))
    candidates = {n for words in edited for n in lsh.query(minhash(datasketch, words))}
    verified = {
        n for n in candidates
        if naive_resemblance(" ".join(originals[n]), " ".join(edited[n])) >= 0.7
    }  # fmt: skip
    search = DuplicateSearch([" ".join(w) for w in originals], list(range(30)), 0.7)
    search.show([(" ".join(words), -1) for words in edited])
    found = set(np.flatnonzero(search.resemblance).tolist())
    assert len(verified) > 5
    assert verified <= found


def minhash(datasketch, words: list[str]):
    result = datasketch.MinHash(num_perm=128)
    result.update_batch([" ".join(s).encode() for s in naive_shingles(" ".join(words))])
    return result
