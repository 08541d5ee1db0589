"""Token ids that lie in several files, read as one array."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Any, overload

import numpy as np


class TokenStream:
    """A domain's training tokens: stretches of files, one after the other; read-only.

    Slices are arrays; `np.asarray` gives all of it. Files are mapped when they are first read.
    """

    def __init__(
        self, files: list[tuple[Path, np.dtype, int]], segments: np.ndarray, dtype: np.dtype
    ) -> None:
        """Make a stream.

        Args:
            files: path, dtype, and bytes before the first token.
            segments: int64 (n, 3): number of the file, first token in it, tokens.
            dtype: of what is read.
        """
        self.dtype = dtype
        self._files = files
        self._maps: dict[int, np.ndarray] = {}
        ends = np.cumsum(segments[:, 2])
        self._starts: list[int] = (ends - segments[:, 2]).tolist()
        self._segments: list[tuple[int, int, int]] = [tuple(row) for row in segments.tolist()]
        self._tokens = int(ends[-1]) if len(ends) else 0

    @property
    def shape(self) -> tuple[int]:
        """(tokens,)."""
        return (self._tokens,)

    def __len__(self) -> int:
        return self._tokens

    @overload
    def __getitem__(self, place: slice) -> np.ndarray: ...

    @overload
    def __getitem__(self, place: int) -> Any: ...

    def __getitem__(self, place: slice | int) -> Any:
        """Tokens of a slice, as an array; a token of an index."""
        if isinstance(place, slice) and place.step is None and place.start is not None:
            start, stop = place.start, place.stop
            if stop is not None and 0 <= start <= stop:
                return self.read(start, stop)  # as training reads
        if not isinstance(place, slice):
            index = range(self._tokens)[place]
            return self.read(index, index + 1)[0]
        start, stop, step = place.indices(self._tokens)
        if step == 1:
            return self.read(start, max(start, stop))
        return np.asarray(self)[place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read(0, self._tokens).astype(dtype or self.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens number start ... stop-1, as far as there are any; a view where they are in one."""
        stop = min(stop, self._tokens)
        if start >= stop:
            return np.empty(0, dtype=self.dtype)
        number = bisect_right(self._starts, start) - 1
        file, first, count = self._segments[number]
        at = start - self._starts[number]
        mapped = self._maps.get(file)
        if mapped is None:
            mapped = self._map(file)
        if at + stop - start <= count:
            return mapped[first + at : first + at + stop - start]
        parts = [mapped[first + at : first + count]]
        left = stop - start - len(parts[0])
        while left:
            number += 1
            file, first, count = self._segments[number]
            mapped = self._maps.get(file)
            mapped = self._map(file) if mapped is None else mapped
            parts.append(mapped[first : first + min(count, left)])
            left -= len(parts[-1])
        return np.concatenate(parts)

    def _map(self, number: int) -> np.ndarray:
        path, dtype, skipped = self._files[number]
        mapped = np.memmap(path, dtype=dtype, mode="r", offset=skipped)
        # As a plain array: slices of np.memmap cost ten times as much.
        self._maps[number] = mapped.view(np.ndarray)
        return self._maps[number]
