"""A source cut into parts that can be worked on apart: by file, and large files by ranges.

The cut is a function of the source's files alone, so that any number of workers, at any time, finds
the same parts.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparsing.actors.data.sources.files import Files
from sparsing.actors.data.sources.lines import COMPRESSED
from sparsing.actors.data.sources.piece import Part, Piece
from sparsing.study.definition.data import Source

SMALLEST_PART_BYTES = 4 * 2**20
LARGEST_PART_BYTES = 256 * 2**20
PARTS = 1024
"""A source is cut in about this number of parts, unless a part gets too small or too large."""
PART_FILES = 10_000
"""Files of a part at most."""
TEXT_PIECE_BYTES = 16 * 2**20
"""A text file that is cut is cut into documents of this size."""
WHOLE_TEXT_BYTES = 64 * 2**20
"""A larger text file is cut."""
ROWS_OF_BYTES = 2_000
"""Bytes of a row of a Hugging Face data set, a guess for where to cut it."""


def part_bytes(total: int) -> int:
    """Bytes of a part of a source of `total` bytes."""
    return max(SMALLEST_PART_BYTES, min(LARGEST_PART_BYTES, total // PARTS))


def whole_pieces(source: Source, files: Files) -> Iterator[Piece]:
    """Every file whole, but a text that is too large for one document."""
    if source.kind == "huggingface":
        yield Piece(0)
    for number, file in enumerate(files.files):
        cut = source.kind == "text" and file.size > WHOLE_TEXT_BYTES
        yield from _ranges(number, file.size, WHOLE_TEXT_BYTES) if cut else [Piece(number)]


def parts_of(source: Source, files: Files) -> list[Part]:
    """The parts of a source: their documents, one after the other, are those of `documents`.

    Raises DefinitionError, ArrowException or OSError where a large file cannot be opened.
    """
    if source.kind == "huggingface":
        return [(piece,) for piece in _dataset_ranges(source)]
    size = part_bytes(files.size)
    parts: list[Part] = []
    small: list[Piece] = []
    gathered = 0
    for number, file in enumerate(files.files):
        if file.size > size and (pieces := list(_cut(source, files, number, size))):
            parts += [tuple(small)] * bool(small) + [(piece,) for piece in pieces]
            small, gathered = [], 0
            continue
        small.append(Piece(number))
        gathered += file.size
        if gathered >= size or len(small) >= PART_FILES:
            parts.append(tuple(small))
            small, gathered = [], 0
    return [*parts, tuple(small)] if small else parts


def _cut(source: Source, files: Files, number: int, size: int) -> Iterator[Piece]:
    """The pieces of a large file; none where it has to be read whole."""
    file = files.files[number]
    if source.kind in ("jsonl", "fetched") and not file.name.endswith(COMPRESSED):
        yield from _ranges(number, file.size, size)
    elif source.kind == "text" and file.size > WHOLE_TEXT_BYTES:
        yield from _ranges(number, file.size, WHOLE_TEXT_BYTES)
    elif source.kind == "parquet":
        yield from _row_groups(files, number, size)
    elif source.kind == "tokens":
        from sparsing.actors.data.sources.token_files import token_ranges

        yield from token_ranges(source, files, number, size)


def _ranges(number: int, total: int, size: int) -> Iterator[Piece]:
    for start in range(0, total, size):
        yield Piece(number, start, start + size if start + size < total else None)


def _row_groups(files: Files, number: int, size: int) -> Iterator[Piece]:
    from sparsing.actors.data.sources.columns import open_parquet

    file = open_parquet(files, number)
    try:
        sizes = [file.metadata.row_group(g).total_byte_size for g in range(file.num_row_groups)]
    finally:
        file.close(force=True)
    start, gathered = 0, 0
    for group, one in enumerate(sizes):
        gathered += one
        if gathered >= size and group + 1 < len(sizes):
            yield Piece(number, start, group + 1)
            start, gathered = group + 1, 0
    yield Piece(number, start, None)


def _dataset_ranges(source: Source) -> Iterator[Piece]:
    from sparsing.actors.data.sources.columns import dataset

    rows = len(dataset(source))
    step = max(1, part_bytes(rows * ROWS_OF_BYTES) // ROWS_OF_BYTES)
    for start in range(0, max(rows, 1), step):
        yield Piece(0, start, min(rows, start + step))
