"""A sample of a text that may be far larger than what is measured on.

The files are cut into small stretches, of which random ones are read, the same at every call: text
and lines uniformly over the bytes of the file or folder, rows by row groups. A stretch of plain
text begins and ends with a line. Of a compressed file, which can only be read from its beginning,
the documents with the smallest random keys are kept. What is smaller than wanted is taken whole.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np

from sparsing.actors.data.sources.columns import open_parquet
from sparsing.actors.data.sources.files import Files, files_of
from sparsing.actors.data.sources.lines import COMPRESSED
from sparsing.actors.data.sources.piece import Piece
from sparsing.actors.data.sources.pieces import parts_of
from sparsing.actors.data.sources.reading import Tally, documents, empty, piece_documents
from sparsing.study.definition.data import Source

STRETCH_BYTES = 2**14
"""Of plain text or lines: some sequences."""

MOST_DOCUMENT_CHARACTERS = 2**17
"""Taken of a document, from its beginning, where there is more text than wanted."""

GROUP_SHARE = 1 / 16
"""Of what is wanted, from one row group at most, where there are many."""


def sampled(source: Source, wanted_bytes: int) -> Iterator[str]:
    """Documents, or stretches of them, of about this number of bytes; fewer if there are fewer.

    Raises:
        DefinitionError: a file is missing, unreadable, or holds no text.
    """
    files = files_of(source)
    compressed = any(file.name.endswith(COMPRESSED) for file in files.files)
    if files.files and files.size <= wanted_bytes and not compressed and source.kind != "parquet":
        yield from documents(source)
        return
    if compressed:
        yield from _smallest_keys(source, wanted_bytes)
        return
    found = False
    for text in _of_stretches(source, files, wanted_bytes):
        found = True
        yield text
    if not found:
        raise empty(source)


def _of_stretches(source: Source, files: Files, wanted: int) -> Iterator[str]:
    random = np.random.default_rng(0)
    stretches = _stretches(source, files)
    by_bytes = source.kind in ("text", "jsonl")
    left, tally = wanted, Tally()
    for index in random.permutation(len(stretches)):
        quota = left if by_bytes or len(stretches) < 2 / GROUP_SHARE else wanted * GROUP_SHARE
        for text in piece_documents(source, files, stretches[index], tally):
            taken = text[: left if source.kind == "text" else MOST_DOCUMENT_CHARACTERS]
            yield taken
            size = len(taken.encode())
            left, quota = left - size, quota - size
            if quota <= 0:
                break
        if left <= 0:
            return


def _stretches(source: Source, files: Files) -> list[Piece]:
    if source.kind == "parquet":
        return [
            Piece(number, group, group + 1)
            for number in range(len(files.files))
            for group in range(_row_groups(files, number))
        ]
    if source.kind not in ("text", "jsonl"):
        return [piece for part in parts_of(source, files) for piece in part]
    # A stretch takes the lines that begin in it; a file of few bytes is one.
    size = max(STRETCH_BYTES, files.size // 2**18)
    return [
        Piece(number, start, start + size)
        for number, file in enumerate(files.files)
        for start in range(0, file.size, size)
    ]


def _row_groups(files: Files, number: int) -> int:
    file = open_parquet(files, number)
    try:
        return int(file.num_row_groups)
    finally:
        file.close(force=True)


def _smallest_keys(source: Source, wanted: int) -> Iterator[str]:
    """The documents with the smallest random keys that hold what is wanted together."""
    random = np.random.default_rng(0)
    kept: list[tuple[float, int, str]] = []
    held = 0
    for number, text in enumerate(documents(source)):
        key = -float(random.random())
        if held >= wanted and key <= kept[0][0]:
            continue
        taken = text[:MOST_DOCUMENT_CHARACTERS]
        heapq.heappush(kept, (key, number, taken))
        held += len(taken.encode())
        while held - len(kept[0][2].encode()) >= wanted:
            held -= len(heapq.heappop(kept)[2].encode())
    yield from (text for _, _, text in sorted(kept, key=lambda each: each[1]))
