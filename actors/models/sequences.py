"""Validation sequences as measuring sees them: of several domains, weighted, perhaps padded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sparsing.actors.data.prepared import Half, PreparedData

PADDING = -1
"""Token id that fills short sequences at their end; it counts in no mean."""


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Sequences of one or more domains, which count by the domains' weights."""

    tokens: np.ndarray
    """int64 (n, positions + 1); PADDING behind the end of short ones."""
    domain: np.ndarray
    """Index into `domains` of each sequence, int64 (n,)."""
    domains: tuple[str, ...]
    """Names of the domains."""
    shares: np.ndarray
    """Weight of each domain in the mixture; they sum to 1."""
    prefix: tuple[int, ...] = ()
    """Token ids that the model sees before each sequence (BOS): measured nowhere themselves."""
    unpredicted: frozenset[int] = frozenset()
    """Token ids that no model has to predict (BOS); they are read where they stand."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def positions(self) -> int:
        """Tokens that a sequence trains on, or holds, with its padding."""
        return self.tokens.shape[1] - 1

    @cached_property
    def counted(self) -> np.ndarray:
        """Positions with a next token that has to be predicted, bool (n, positions)."""
        following = self.tokens[:, 1:]
        return (following != PADDING) & ~np.isin(following, list(self.unpredicted))

    @cached_property
    def counts(self) -> np.ndarray:
        """Tokens of each sequence that are counted, int64 (n,)."""
        return self.counted.sum(1)

    @cached_property
    def domain_tokens(self) -> np.ndarray:
        """Tokens of each domain, (domains,)."""
        return np.bincount(self.domain, self.counts, minlength=len(self.domains))

    @cached_property
    def weights(self) -> np.ndarray:
        """Weight of one token of each sequence, (n,) float64; over all tokens they sum to 1."""
        present = np.where(self.domain_tokens > 0, self.shares, 0)
        return (present / present.sum() / np.maximum(self.domain_tokens, 1))[self.domain]

    @property
    def effective_tokens(self) -> float:
        """Tokens of equal weight whose mean would scatter as this one's."""
        return 1 / float(self.weights**2 @ self.counts)

    def mean(self, sums: np.ndarray) -> float:
        """Mean over tokens, by the domains' weights, of what is summed over each sequence."""
        return float(self.weights @ sums)

    def sample(self, share: float) -> Sequences:
        """About this share of each domain's sequences, evenly spread, at least one of each."""
        picked = []
        for index in range(len(self.domains)):
            mine = np.flatnonzero(self.domain == index)
            count = max(1, round(share * len(mine))) if len(mine) else 0
            picked.append(mine[np.linspace(0, len(mine) - 1, count).astype(int)])
        return self.take(np.concatenate(picked))

    def take(self, rows: np.ndarray) -> Sequences:
        """The sequences of these indices."""
        return replace(self, tokens=self.tokens[rows], domain=self.domain[rows])

    def batches(self, tokens: int) -> Iterator[slice]:
        """Slices of sequences that hold about this number of tokens each, at least one sequence."""
        size = max(1, tokens // self.positions)
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))


def of_half(data: PreparedData, half: Half) -> Sequences:
    """One half of a study's validation set."""
    parts = [data.validation(domain, half) for domain in data.domains]
    return Sequences(
        tokens=np.concatenate(parts),
        domain=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        domains=data.domains,
        shares=np.array([data.weights[domain] for domain in data.domains]),
    )


def of_stream(
    ids: np.ndarray, positions: int, domain: str = "text", prefix: tuple[int, ...] = ()
) -> Sequences:
    """A stream of token ids cut into sequences that train `positions` tokens; the last is padded.

    Neighbours share one token, the last target of one being the first input of the next.

    Args:
        prefix: what the model sees before each sequence, and what its documents begin with.
    """
    if prefix:
        return _with_prefix(ids, positions, domain, prefix)
    count = max(1, -(-(len(ids) - 1) // positions))
    filled = np.full(count * positions + 1, PADDING, dtype=np.int64)
    filled[: len(ids)] = ids
    windows = np.lib.stride_tricks.sliding_window_view(filled, positions + 1)[::positions]
    zeros = np.zeros(count, dtype=np.int64)
    return Sequences(tokens=windows.copy(), domain=zeros, domains=(domain,), shares=np.ones(1))


def _with_prefix(
    ids: np.ndarray, positions: int, domain: str, prefix: tuple[int, ...]
) -> Sequences:
    """As `of_stream`; where a document begins with a sequence, its prefix is not there twice."""
    rows: list[np.ndarray] = []
    start, head = 0, np.array(prefix)
    while not rows or start < len(ids) - 1:
        if np.array_equal(ids[start : start + len(head)], head):
            start += len(head)
        row = np.full(positions + 1, PADDING, dtype=np.int64)
        part = ids[start : start + positions + 1]
        row[: len(part)] = part
        rows.append(row)
        start += positions
    return Sequences(
        tokens=np.stack(rows),
        domain=np.zeros(len(rows), dtype=np.int64),
        domains=(domain,),
        shares=np.ones(1),
        prefix=prefix,
        unpredicted=frozenset(prefix),
    )
