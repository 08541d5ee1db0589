"""Passages of the lowest ranks: what is drawn for validation, part by part or of a whole domain."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from sparsing.actors.data.validating.passages import Passage


@dataclass
class Pool:
    """Passages of the lowest ranks seen so far, just over `wanted_bytes` of them."""

    wanted_bytes: int
    kept: dict[int, Passage] = field(default_factory=dict)
    repeated: set[int] = field(default_factory=set)
    """Ranks kept of which a second passage with the same text was seen."""
    size: int = 0
    """Bytes of the passages kept."""
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

    def add(self, other: Pool) -> None:
        """See what another pool has kept: together they keep what one would that saw all."""
        for passage in other.kept.values():
            self.see(passage)
        self.repeated |= other.repeated & self.kept.keys()

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
    """UTF-8 bytes of the text that was seen."""


def draw_from(pool: Pool, documents: int, total_bytes: int) -> Draw:
    """The passages drawn: those of a pool, or half of the text if that is less."""
    kept: list[Passage] = []
    size = 0
    unique = [p for r, p in sorted(pool.kept.items()) if r not in pool.repeated]
    for passage in unique:
        size += len(passage.text.encode())
        if size > total_bytes / 2:
            break
        kept.append(passage)
    return Draw(
        passages=kept,
        exact_duplicates=len(pool.repeated),
        whole=len(kept) < len(unique) or pool.size <= pool.wanted_bytes,
        documents=documents,
        bytes=total_bytes,
    )


def merged(pools: Iterable[Pool], wanted_bytes: int) -> Pool:
    """One pool of all."""
    result = Pool(wanted_bytes)
    for pool in pools:
        result.add(pool)
    return result
