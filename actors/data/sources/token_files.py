"""Text that is tokenized already: Megatron-LM, datatrove, flat files, Hugging Face data sets.

A document of tokens is handed on as a string, one character for each token: token i is the code
point U+0800 + i, surrogates left out. So it is drawn from, cut and compared as text is, where each
character from U+0800 on is a word of its own; a tokenizer of such characters gives the ids back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsing.actors.data.sources.columns import batches, open_arrow
from sparsing.actors.data.sources.files import Files, SourceFile
from sparsing.actors.data.sources.megatron import read_index
from sparsing.actors.data.sources.piece import Piece
from sparsing.actors.data.sources.wording import describe, unreadable
from sparsing.study.definition.data import Source
from sparsing.study.errors import DamagedError, DefinitionError
from sparsing.study.store.io.objects import ObjectPath

FIRST, SURROGATES, SURROGATE_COUNT = 0x800, 0xD800, 0x800
MOST_IDS = 0x110000 - FIRST - SURROGATE_COUNT
"""More entries than this have no character."""
HEADERS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
"""Magic number and version of modded-nanogpt's and llm.c's header, and the dtype behind it."""
HEADER_BYTES = 1024
SCAN_TOKENS = 2**20
COLUMN = "input_ids"


class TokenIds(NamedTuple):
    """What ids mean: those of the study's tokenizer."""

    vocabulary_size: int
    end_of_document: int


def as_text(ids: np.ndarray) -> str:
    """Ids as characters."""
    points = ids.astype("<u4") + np.uint32(FIRST)
    points[points >= SURROGATES] += np.uint32(SURROGATE_COUNT)
    return points.tobytes().decode("utf-32-le")


def as_ids(text: str) -> np.ndarray:
    """Ids of characters, uint32."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").copy()
    points[points >= SURROGATES] -= np.uint32(SURROGATE_COUNT)
    return points - np.uint32(FIRST)


def format_of(source: Source, file: SourceFile) -> str:
    """How a file is stored: as the source says, or by its name and what lies beside it."""
    if source.format != "auto":
        return source.format
    if file.name.endswith(".ds"):
        return "datatrove"
    return "huggingface" if file.name.endswith(".arrow") else "bin"


def token_documents(
    source: Source, files: Files, piece: Piece, ids: TokenIds
) -> Iterator[np.ndarray]:
    """The documents of a piece, without the end of document behind each.

    Raises DefinitionError, with file and offset, where ids are not the tokenizer's, or an index
    does not match its data.
    """
    file = files.files[piece.file]
    path = local(source, files, file)
    for at, tokens in _documents(source, path, file, piece, ids):
        if len(tokens) and (largest := int(tokens.max())) >= ids.vocabulary_size:
            place = int(np.argmax(tokens >= ids.vocabulary_size))
            raise DefinitionError(
                f"{describe(source)}: {path}: token {at + place} is {largest}, but the tokenizer "
                f"has {ids.vocabulary_size} entries; give the tokenizer that made these tokens, "
                "and their dtype"
            )
        if len(tokens) and tokens[-1] == ids.end_of_document:
            tokens = tokens[:-1]
        yield tokens


def local(source: Source, files: Files, file: SourceFile) -> Path:
    """Where a file is on disk."""
    place = files.place(file)
    if isinstance(place, ObjectPath):
        raise DefinitionError(f"{describe(source)}: tokens are read from a disk; copy them there")
    return place


def _documents(
    source: Source, path: Path, file: SourceFile, piece: Piece, ids: TokenIds
) -> Iterator[tuple[int, np.ndarray]]:
    """First token and tokens of each document."""
    kind = format_of(source, file)
    try:
        if kind == "huggingface":
            yield from _arrow_rows(source, path)
            return
        if (found := indexed(source, path, kind)) is None:
            yield from _flat(source, path, piece, ids)
            return
        dtype, starts, lengths = found
        if not len(starts):
            return
        data = np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)
        for start, length in zip(
            starts[piece.start : piece.end], lengths[piece.start : piece.end], strict=True
        ):
            yield int(start), data[start : start + length]
    except (OSError, ValueError) as error:
        raise unreadable(source, path, error, "give a complete file") from error


def indexed(
    source: Source, path: Path, kind: str
) -> tuple[np.dtype, np.ndarray, np.ndarray] | None:
    """dtype, and first token and tokens of each document; None of files without an index.

    Raises DefinitionError where the index does not match the data.
    """
    size = path.stat().st_size
    if kind == "datatrove":
        dtype = np.dtype("<u2" if source.dtype == "uint16" else "<u4")
        index = path.with_name(path.name + ".index")
        if not index.exists():
            raise DefinitionError(f"{describe(source)}: {index}: no such file; it is needed")
        ends = np.fromfile(index, "<u8").astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
        lengths = ends - starts
    else:
        index = path.with_suffix(".idx")
        if not index.exists():
            if kind == "megatron":
                raise DefinitionError(f"{describe(source)}: {index}: no such file; it is needed")
            return None
        try:
            dtype, starts, lengths = read_index(index)
        except DamagedError as error:
            raise DefinitionError(f"{describe(source)}: {error}") from error
    covered = int(lengths.sum()) * dtype.itemsize
    if covered != size or (lengths < 0).any():
        raise DefinitionError(
            f"{describe(source)}: {index} covers {covered} bytes of {path}, which has {size}: they "
            "do not belong together, or one is cut"
            + ("; is 'dtype' right?" if kind == "datatrove" else "")
        )
    return dtype, starts, lengths


def flat_layout(source: Source, path: Path) -> tuple[np.dtype, int]:
    """dtype and bytes before the first token of a flat file."""
    with path.open("rb") as file:
        head = np.frombuffer(file.read(12), "<i4")
    if len(head) == 3 and (dtype := HEADERS.get((int(head[0]), int(head[1])))):
        found = (path.stat().st_size - HEADER_BYTES) // np.dtype(dtype).itemsize
        if found != head[2]:
            raise DefinitionError(
                f"{describe(source)}: {path}: its header says {head[2]} tokens, but {found} are "
                "there: it is cut"
            )
        return np.dtype(dtype), HEADER_BYTES
    dtype = "<u2" if source.dtype == "uint16" else "<u4"
    if path.stat().st_size % np.dtype(dtype).itemsize:
        raise DefinitionError(
            f"{describe(source)}: {path}: {path.stat().st_size} bytes are no whole number of "
            f"{source.dtype} tokens; is 'dtype' right?"
        )
    return np.dtype(dtype), 0


def _flat(
    source: Source, path: Path, piece: Piece, ids: TokenIds
) -> Iterator[tuple[int, np.ndarray]]:
    """Documents that begin in a range of tokens: behind an end of document, or at the beginning."""
    dtype, skipped = flat_layout(source, path)
    if path.stat().st_size <= skipped:
        return
    data = np.memmap(path, dtype=dtype, mode="r", offset=skipped).view(np.ndarray)
    end = len(data) if piece.end is None else min(piece.end, len(data))
    start = piece.start
    if start:
        start = _next_end(data, start - 1, ids.end_of_document) + 1
    while start < end:
        stop = _next_end(data, start, ids.end_of_document) + 1
        yield start, data[start : min(stop, len(data))]
        start = stop


def _next_end(data: np.ndarray, start: int, end_of_document: int) -> int:
    """Place of the next end of document from `start` on; the length where there is none."""
    for at in range(start, len(data), SCAN_TOKENS):
        found = np.flatnonzero(data[at : at + SCAN_TOKENS] == end_of_document)
        if len(found):
            return at + int(found[0])
    return len(data)


def _arrow_rows(source: Source, path: Path) -> Iterator[tuple[int, np.ndarray]]:
    with path.open("rb") as file:
        reader = open_arrow(file)
        if COLUMN not in reader.schema.names:
            raise DefinitionError(
                f"{describe(source)}: {path}: no column '{COLUMN}', only {reader.schema.names}"
            )
        at = 0
        for batch in batches(reader):
            column: Any = batch.column(COLUMN)
            for row in column:
                values = row.values
                tokens = np.empty(0, "<u4") if values is None else values.to_numpy(False)
                if len(tokens) and tokens.min() < 0:
                    raise DefinitionError(
                        f"{describe(source)}: {path}: token {at + int(np.argmin(tokens))} is "
                        "negative"
                    )
                yield at, tokens
                at += len(tokens)


def token_ranges(source: Source, files: Files, number: int, size: int) -> Iterator[Piece]:
    """The pieces of a large file of tokens: ranges of documents, or of tokens without an index."""
    file = files.files[number]
    path, kind = local(source, files, file), format_of(source, file)
    if kind == "huggingface":
        yield Piece(number)
        return
    if (found := indexed(source, path, kind)) is not None:
        dtype, _, lengths = found
        parts = np.cumsum(lengths) * dtype.itemsize // size
        starts = np.flatnonzero(np.diff(parts, prepend=-1))
    else:
        dtype, skipped = flat_layout(source, path)
        starts = np.arange(0, (file.size - skipped) // dtype.itemsize, size // dtype.itemsize)
    cuts = [int(start) for start in starts]
    for start, end in zip(cuts, [*cuts[1:], None], strict=True):
        yield Piece(number, start, end)


def companions(path: Path) -> list[Path]:
    """Files that say where documents are in a file of tokens."""
    beside = (path.with_suffix(".idx"), path.with_name(path.name + ".index"))
    return [each for each in beside if each != path and each.is_file()]


class IdsTokenizer:
    """Gives back the ids of documents that came as `as_text`."""

    def __init__(self, ids: TokenIds, dtype: np.dtype) -> None:
        self.vocabulary_size, self.end_of_document = ids
        self._dtype = dtype

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text."""
        return [as_ids(text).astype(self._dtype) for text in texts]
