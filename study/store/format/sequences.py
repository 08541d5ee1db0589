"""Sets of sequence numbers, kept as ranges."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

Range = tuple[int, int]
"""First and last number, both included."""


class Coverage:
    """A set of sequence numbers that only grows; for any number of threads."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._lock = threading.Lock()
        self.update(ranges)

    def update(self, ranges: Iterable[Range]) -> None:
        """Add all numbers of some ranges."""
        with self._lock:
            for first, last in ranges:
                self._add(first, last)

    def _add(self, first: int, last: int) -> None:
        low = bisect_left(self._lasts, first - 1)
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high], self._lasts[low:high] = [first], [last]

    def __contains__(self, seq: int) -> bool:
        with self._lock:
            at = bisect_right(self._firsts, seq) - 1
            return at >= 0 and seq <= self._lasts[at]

    @property
    def ranges(self) -> list[Range]:
        """The longest ranges, in order."""
        with self._lock:
            return list(zip(self._firsts, self._lasts, strict=True))

    @property
    def next_seq(self) -> int:
        """One more than the largest number; 0 when empty."""
        with self._lock:
            return self._lasts[-1] + 1 if self._lasts else 0


def contiguous(numbers: Sequence[int]) -> Iterator[Range]:
    """The longest ranges without a gap of increasing numbers."""
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield numbers[start], numbers[i - 1]
            start = i
