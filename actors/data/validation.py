"""Validation of one domain: passages drawn by hash, deduplicated, split in two halves.

Drawn are the passages of the lowest rank (a seeded hash of their text), more than needed. Dropped
is every one that other text repeats or resembles: training text, or another passage drawn. Of
the rest, in order of rank, the halves are filled; what was not needed returns to training. So
training lacks nothing but the passages of the two halves, and holds nothing that resembles them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from sparsing.actors.data.passages import Passage
from sparsing.actors.data.prepared import HALVES
from sparsing.actors.data.tokenizers import Tokenizer
from sparsing.study.definition.data import Data
from sparsing.study.errors import DefinitionError


@dataclass(kw_only=True)
class Draw:
    """The passages drawn from a domain, and what was counted while all were seen."""

    passages: list[Passage]
    """By rank; none of them repeated exactly."""
    exact_duplicates: int
    """Of the lowest-ranked passages: dropped, for their text occurs again."""
    whole: bool
    """Was all drawn that may be (half of the text)?"""
    documents: int
    bytes: int
    """UTF-8 bytes of the whole domain."""

    @property
    def ranks(self) -> set[int]:
        """Ranks of the passages drawn: they are known by it."""
        return {passage.rank for passage in self.passages}


def draw(documents: Iterable[list[Passage]], wanted_bytes: int) -> Draw:
    """The passages of lowest rank, `wanted_bytes` of them, or half of the text if that is less."""
    pool = _Pool(wanted_bytes)
    total_documents = total_bytes = 0
    for passages in documents:
        total_documents += 1
        for passage in passages:
            total_bytes += pool.see(passage)
    kept, size = [], 0
    unique = [p for r, p in sorted(pool.kept.items()) if r not in pool.repeated]
    for passage in unique:
        size += len(passage.text.encode())
        if size > total_bytes / 2:
            break
        kept.append(passage)
    return Draw(
        passages=kept,
        exact_duplicates=len(pool.repeated),
        whole=len(kept) < len(unique) or pool.size <= wanted_bytes,
        documents=total_documents,
        bytes=total_bytes,
    )


@dataclass
class _Pool:
    """Passages of the lowest ranks seen so far, just over `wanted_bytes` of them."""

    wanted_bytes: int
    kept: dict[int, Passage] = field(default_factory=dict)
    repeated: set[int] = field(default_factory=set)
    """Ranks kept of which a second passage with the same text was seen."""
    size: int = 0
    _heap: list[int] = field(default_factory=list)

    def see(self, passage: Passage) -> int:
        """Keep it if its rank is low enough; returns its bytes."""
        size = len(passage.text.encode())
        if passage.rank in self.kept:
            self.repeated.add(passage.rank)
        elif self.size <= self.wanted_bytes or passage.rank < -self._heap[0]:
            self.kept[passage.rank] = passage
            heapq.heappush(self._heap, -passage.rank)
            self.size += size
            self._shrink()
        return size

    def _shrink(self) -> None:
        while self._heap:
            highest = self.kept[-self._heap[0]]
            size = len(highest.text.encode())
            if self.size - size <= self.wanted_bytes:
                return
            heapq.heappop(self._heap)
            del self.kept[highest.rank]
            self.repeated.discard(highest.rank)
            self.size -= size


@dataclass(kw_only=True)
class Halves:
    """The validation set of a domain, and what became of the passages drawn."""

    tokens: dict[str, np.ndarray]
    """Per half: flat ids, each passage closed by the end of document."""
    used: set[int]
    """Ranks of the passages in it; all others belong to training."""
    near_duplicates: int
    exact_duplicates: int
    passages: dict[str, int]
    """Passages in each half."""


def tokens_per_half(data: Data) -> int:
    """Tokens of each half's flat array: whole sequences and the last one's target.

    Raises DefinitionError if half of `validation.tokens` is less than one sequence.
    """
    sequences = data.validation.tokens // 2 // data.sequence_tokens
    if not sequences:
        raise DefinitionError(
            f"data.validation.tokens is {data.validation.tokens}: each half needs a sequence of "
            f"{data.sequence_tokens} tokens; write at least {2 * data.sequence_tokens}"
        )
    return sequences * data.sequence_tokens + 1


def halves(drawn: Draw, resemblance: np.ndarray, tokenizer: Tokenizer, half_tokens: int) -> Halves:
    """Fill both halves to `half_tokens` at most with passages that resemble nothing else.

    `resemblance` is that of each passage drawn to any other text, 0 if under the threshold. A half
    may end up short: see `shortage`.
    """
    result = Halves(
        tokens={},
        used=set(),
        exact_duplicates=drawn.exact_duplicates + int(np.sum(resemblance == 1)),
        near_duplicates=int(np.sum((resemblance > 0) & (resemblance < 1))),
        passages=dict.fromkeys(HALVES, 0),
    )
    clean = [p for p, r in zip(drawn.passages, resemblance, strict=True) if r == 0]
    parts = _fill(clean, tokenizer, half_tokens, result)
    for half in HALVES:
        empty = np.empty(0, dtype=np.uint16)
        result.tokens[half] = np.concatenate([empty, *parts[half]])[:half_tokens]
    return result


def _fill(
    clean: list[Passage], tokenizer: Tokenizer, half_tokens: int, result: Halves
) -> dict[str, list[np.ndarray]]:
    """Give passages, by rank, to the halves, all of one document's section to the same half."""
    sizes: dict[str, int] = dict.fromkeys(HALVES, 0)
    parts: dict[str, list[np.ndarray]] = {half: [] for half in HALVES}
    half_of: dict[tuple[int, int], str] = {}
    for passage in clean:
        emptier = min(HALVES, key=sizes.__getitem__)
        half = half_of.get(passage.group, emptier)
        if sizes[half] >= half_tokens:
            continue
        half_of[passage.group] = half
        ids = tokenizer.encode([passage.text])[0]
        parts[half].append(np.append(ids, np.array(tokenizer.end_of_document, dtype=ids.dtype)))
        sizes[half] += len(parts[half][-1])
        result.used.add(passage.rank)
        result.passages[half] += 1
    return parts


def shortage(domain: str, drawn: Draw, found: Halves, data: Data) -> str | None:
    """What is wrong if a half is short, with what to write instead; None if both are full."""
    wanted = tokens_per_half(data)
    least = min(len(found.tokens[half]) for half in HALVES)
    if least >= wanted:
        return None
    possible = max(0, least - 1) // data.sequence_tokens * data.sequence_tokens * 2
    remedy = f"write data.validation.tokens: {possible}" if possible else "shorten sequence_tokens"
    return (
        f"data.domains.{domain}: only {2 * least} of {2 * (wanted - 1)} validation tokens can be "
        f"had from {drawn.documents} documents of {drawn.bytes} bytes (at most half of the text, "
        f"{found.exact_duplicates} exact and {found.near_duplicates} near duplicates dropped); "
        f"{remedy}, or give more text"
    )
