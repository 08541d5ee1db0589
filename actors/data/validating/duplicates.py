"""Which validation candidates resemble other text: an exact join over shingles.

The candidates are few, the training text is much. So the candidates' shingles are indexed, and all
other text streams past: overlaps are counted exactly, where MinHash would estimate them for pairs
that LSH may miss, and would hash all training text a hundred times over.

The resemblance of a candidate V to a text D is the Jaccard similarity of V and a stretch of D that
is as long as V (D itself, if it is shorter) and holds all the shingles that they share: with o
shared shingles o / (|V| + min(|D|, |V|) - o). It does not depend on where D is cut, so that a copy
is found wherever it stands in a long document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.actors.data.validating.shingles import shingles

if TYPE_CHECKING:
    import scipy.sparse

FILTER_BITS = 24


class DuplicateSearch:
    """The greatest resemblance of each candidate to any text shown so far."""

    def __init__(self, texts: list[str], documents: list[int], threshold: float) -> None:
        """Index the candidates `texts`, each a part of the document of that number."""
        self.resemblance = np.zeros(len(texts))
        """Per candidate; values under the threshold are not exact, but 0."""
        self._documents, self._threshold = np.array(documents, dtype=np.int64), threshold
        hashes, owners = shingles(texts)
        self._known, index = np.unique(hashes, return_inverse=True)
        shape = len(self._known), len(texts)
        self._postings = _incidence(index, owners, shape)
        self._sizes = np.asarray(self._postings.sum(axis=0), dtype=np.int64).ravel()
        self._make_filter()

    def _make_filter(self) -> None:
        self._filter = np.zeros(2**FILTER_BITS, dtype=bool)
        self._filter[self._known >> np.uint64(64 - FILTER_BITS)] = True

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_filter"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_filter()

    def anew(self) -> DuplicateSearch:
        """The same search, which has seen nothing yet; it shares the index."""
        other = DuplicateSearch.__new__(DuplicateSearch)
        other.__dict__.update(self.__dict__)
        other.resemblance = np.zeros_like(self.resemblance)
        return other

    def show(self, texts: list[tuple[str, int]]) -> None:
        """Compare all candidates with texts, except those of the document given with the text.

        A text that concerns all candidates comes with -1.
        """
        labels = np.array([document for _, document in texts], dtype=np.int64)
        self._compare([text for text, _ in texts], excluded=self._documents, labels=labels)

    def show_each_other(self, texts: list[str]) -> None:
        """Compare the candidates with each other; `texts` as at the beginning."""
        numbers = np.arange(len(texts))
        self._compare(texts, excluded=numbers, labels=numbers)

    def _compare(self, texts: list[str], excluded: np.ndarray, labels: np.ndarray) -> None:
        hashes, units = shingles(texts)
        # Most shingles occur in no candidate; a bitmap says so at the price of one look-up.
        maybe = np.flatnonzero(self._filter[hashes >> np.uint64(64 - FILTER_BITS)])
        if not len(maybe):
            return
        index = np.searchsorted(self._known, hashes[maybe])
        index[index == len(self._known)] = 0
        hit = self._known[index] == hashes[maybe]
        seen = _incidence(units[maybe][hit], index[hit], (len(texts), len(self._known)))
        shared = (seen @ self._postings).tocoo()
        near = shared.data >= self._threshold * self._sizes[shared.col]
        near &= labels[shared.row] != excluded[shared.col]
        for unit in np.unique(shared.row[near]):
            size = len(np.unique(hashes[units == unit]))
            pairs = near & (shared.row == unit)
            self._record(shared.col[pairs], shared.data[pairs], size)

    def _record(self, candidates: np.ndarray, overlaps: np.ndarray, size: int) -> None:
        sizes = self._sizes[candidates]
        values = overlaps / (sizes + np.minimum(size, sizes) - overlaps)
        values[values < self._threshold] = 0
        self.resemblance[candidates] = np.maximum(self.resemblance[candidates], values)


def _incidence(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    """Sparse matrix with a one at each distinct (row, column)."""
    import scipy.sparse  # here, for `sparsing plan` looks at data and has no need of it

    matrix = scipy.sparse.csr_array(
        (np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
