"""The order of training: which sequence comes when, as a pure function of data, seed and number.

Sequence number g of a run belongs to block g // BLOCK. Each block holds every domain by its weight,
rounded up or down to a whole sequence, shuffled by the seed. The k-th sequence of a domain in the
whole run is number k mod n of its epoch k // n, and each epoch is a seeded permutation of the
domain's n sequences (a Feistel cipher), so that no list of the corpus is ever made: access to any
number costs the same, and shards or a resumed run need nothing but the number.
"""

from __future__ import annotations

import functools

import numpy as np

from sparsing.actors.data.prepared import PreparedData

BLOCK = 64
"""Sequences that share out the domains' weights among them."""
PERIOD = 1024
"""Blocks after which the rounding of the weights repeats; a power of two."""


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: uint64 to well-mixed uint64, the same on every platform."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key(*parts: int | np.ndarray) -> np.ndarray:
    """A uint64 key (or an array of keys) from whole numbers, order-sensitive."""
    result = np.zeros(1, dtype=np.uint64)
    for part in parts:
        result = mix(result * np.uint64(0x9E3779B97F4A7C15) + np.asarray(part, dtype=np.uint64))
    return result


ROUND_KEYS = np.concatenate([key(number) for number in range(6)])
"""One for each round of the Feistel cipher."""


def permute(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Image of each position under the permutation of 0 ... size-1 that its key selects.

    positions, keys: int64 and uint64 (n,). Feistel on the smallest even number of bits that holds
    `size`; images beyond it are sent round again (cycle walking), which keeps it a permutation.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    result = positions.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for round_key in ROUND_KEYS:
            left, right = right, left ^ (mix(keys[outside] + round_key + right) & mask)
        result[outside] = (left << half) | right
        outside = result >= np.uint64(size)
    return result.astype(np.int64)


def block_quotas(weights: np.ndarray) -> np.ndarray:
    """Sequences of each domain in each block of a period: int64 (PERIOD, domains).

    Systematic sampling: block b takes the BLOCK points (i + u_b) / BLOCK of [0, 1), cut into the
    domains' intervals; so each quota is BLOCK * weight rounded up or down. The offsets u_b run
    through a lattice in bit-reversed order, so that no domain is rounded down for long.
    """
    bits = PERIOD.bit_length() - 1
    reverse = np.array([int(f"{b:0{bits}b}"[::-1], 2) for b in range(PERIOD)])
    offsets = (reverse + 0.5) / PERIOD
    ends = np.cumsum(weights)[:-1] / np.sum(weights)
    below = np.clip(np.ceil(BLOCK * ends[None, :] - offsets[:, None]), 0, BLOCK)
    edges = np.hstack([np.zeros((PERIOD, 1)), below, np.full((PERIOD, 1), BLOCK)])
    return np.diff(edges, axis=1).astype(np.int64)


class TrainingOrder:
    """The global order of training sequences of one run."""

    def __init__(self, data: PreparedData, seed: int) -> None:
        self.data, self.seed = data, seed
        self._quotas = block_quotas(np.array([data.weights[d] for d in data.domains]))
        self._before = np.cumsum(self._quotas, axis=0) - self._quotas
        """Sequences of each domain in the period's earlier blocks: (PERIOD, domains)."""
        self._sizes = np.array([data.train_sequences(d) for d in data.domains])
        # A batch is often less than a block: the same block is asked for again and again.
        self._block = functools.lru_cache(maxsize=4)(self._make_block)

    def sequences(self, first: int, count: int) -> np.ndarray:
        """Sequences number first ... first+count-1: int64 (count, sequence_tokens + 1)."""
        tokens = self.data.sequence_tokens
        result = np.empty((count, tokens + 1), dtype=np.int64)
        streams = [self.data.train(domain) for domain in self.data.domains]
        for row, (domain, index) in enumerate(zip(*self.indices(first, count), strict=True)):
            start = index * tokens
            result[row] = streams[domain][start : start + tokens + 1]
        return result

    def domains_of(self, first: int, count: int) -> np.ndarray:
        """Domain of each sequence, as index into `data.domains`: int64 (count,)."""
        return self.indices(first, count)[0]

    def indices(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Domain, and index among the domain's sequences: two int64 (count,)."""
        if first < 0 or count < 0:
            raise ValueError(f"sequences from {first}, {count} of them: both must be >= 0")
        if not count:
            return (np.empty(0, dtype=np.int64),) * 2
        blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
        whole = np.concatenate([self._block(block) for block in blocks], axis=1)
        skip = first % BLOCK
        domains, indices = whole[:, skip : skip + count]
        return domains, indices

    def _make_block(self, block: int) -> np.ndarray:
        """Domains and indices of one block: int64 (2, BLOCK)."""
        domains, occurrences = self._places(block)
        indices = np.empty(BLOCK, dtype=np.int64)
        for domain, size in enumerate(self._sizes):
            here = domains == domain
            epochs, positions = np.divmod(occurrences[here], size)
            indices[here] = permute(positions, int(size), key(self.seed, 1, domain, epochs))
        return np.stack([domains, indices])

    def _places(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Domain of each sequence of a block, shuffled, and how many of it the run had before."""
        period, place = divmod(block, PERIOD)
        quotas = self._quotas[place]
        before = period * self._quotas.sum(axis=0) + self._before[place]
        shuffle = np.argsort(key(self.seed, 0, block, np.arange(BLOCK)), kind="stable")
        domains = np.repeat(np.arange(len(quotas)), quotas)[shuffle]
        by_domain = np.argsort(domains, kind="stable")
        within = np.arange(BLOCK) - np.repeat(np.cumsum(quotas) - quotas, quotas)
        occurrences = np.empty(BLOCK, dtype=np.int64)
        occurrences[by_domain] = before[domains[by_domain]] + within
        return domains, occurrences
