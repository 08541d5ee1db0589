"""The order of training is a pure function of data, seed and number."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.actors.data.order import BLOCK, PERIOD, TrainingOrder, block_quotas, key, permute

TOKENS = 4


class Corpus(SimpleNamespace):
    """Domains whose token i of domain d is 1000 d + i: a sequence tells where it is from."""

    def train(self, domain: str) -> np.ndarray:
        return self.arrays[domain]

    def train_sequences(self, domain: str) -> int:
        return (len(self.arrays[domain]) - 1) // TOKENS


def corpus(sizes: list[int], weights: list[float]) -> Corpus:
    domains = tuple("abcdefgh"[: len(sizes)])
    shares = np.array(weights) / sum(weights)
    return Corpus(
        domains=domains,
        weights=dict(zip(domains, shares.tolist(), strict=True)),
        sequence_tokens=TOKENS,
        arrays={
            d: np.arange(n * TOKENS + 1, dtype=np.uint32) + 100_000 * i
            for i, (d, n) in enumerate(zip(domains, sizes, strict=True))
        },
    )


corpora = st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 10)), min_size=1, max_size=5).map(
    lambda parts: corpus([n for n, _ in parts], [w for _, w in parts])
)


@given(corpora, st.integers(0, 2**31 - 1), st.integers(0, 10**7), st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_any_part_equals_that_part_of_the_whole(data, seed, first, count):
    order = TrainingOrder(data, seed)
    whole = order.sequences(first, count)
    assert whole.shape == (count, TOKENS + 1)
    assert whole.dtype == np.int64
    again = TrainingOrder(data, seed)
    one_by_one = [again.sequences(first + i, 1)[0] for i in range(0, count, 17)]
    assert np.array_equal(whole[::17], np.array(one_by_one).reshape(-1, TOKENS + 1))
    assert np.array_equal(order.domains_of(first, count), whole[:, 0] // 100_000)


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_shards_that_take_turns_see_the_global_order_together(shards):
    order = TrainingOrder(corpus([30, 7], [3, 1]), seed=5)
    batch, micro = 8, 8 // shards
    parts = [
        TrainingOrder(order.data, 5).sequences(step * batch + shard * micro, micro)
        for step in range(20)
        for shard in range(shards)
    ]
    assert np.array_equal(np.concatenate(parts), order.sequences(0, 20 * batch))


@given(corpora, st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_each_epoch_of_a_domain_holds_each_sequence_once(data, seed):
    domains, indices = TrainingOrder(data, seed).indices(0, 40 * BLOCK)
    for number, domain in enumerate(data.domains):
        mine, size = indices[domains == number], data.train_sequences(domain)
        for epoch in range(len(mine) // size):
            assert sorted(mine[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_differ():
    data = corpus([500], [1])
    first = TrainingOrder(data, 0).indices(0, 500)[1]
    second = TrainingOrder(data, 0).indices(500, 500)[1]
    other = TrainingOrder(data, 1).indices(0, 500)[1]
    assert (first == second).mean() < 0.05
    assert (first == other).mean() < 0.05
    assert abs(np.corrcoef(first, np.arange(500))[0, 1]) < 0.2


@given(st.lists(st.floats(1e-4, 100), min_size=1, max_size=8))
@settings(deadline=None)
def test_every_block_follows_the_weights_up_to_rounding(weights):
    shares = np.array(weights) / sum(weights)
    quotas = block_quotas(np.array(weights))
    assert (quotas.sum(axis=1) == BLOCK).all()
    assert np.abs(quotas - BLOCK * shares).max() < 1 + 1e-9
    assert np.abs(quotas.sum(axis=0) / (BLOCK * PERIOD) - shares).max() <= 1 / (BLOCK * PERIOD)
    running = np.cumsum(quotas, axis=0) - np.outer(np.arange(1, PERIOD + 1) * BLOCK, shares)
    assert np.abs(running).max() < 8


def test_equal_weights_are_met_exactly_in_every_block():
    assert (block_quotas(np.ones(4)) == BLOCK // 4).all()


@given(st.integers(1, 3000), st.integers(0, 2**63))
@settings(deadline=None)
def test_permute_is_a_permutation(size, secret):
    image = permute(np.arange(size), size, np.repeat(key(secret), size))
    assert sorted(image) == list(range(size))


def test_the_order_never_changes_between_versions():
    """A study that is resumed with a newer version must go on with the same sequences."""
    order = TrainingOrder(corpus([50, 20], [3, 1]), seed=7)
    domains, indices = order.indices(10**6, 8)
    assert domains.tolist() == GOLDEN[0]
    assert indices.tolist() == GOLDEN[1]


GOLDEN = ([0, 0, 0, 0, 0, 0, 0, 0], [41, 16, 40, 22, 13, 38, 30, 23])
