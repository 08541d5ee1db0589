"""What a worker does on a part: draw passages, sample text, write tokens, look for duplicates.

Each is a function of its job alone, in any process on any machine that sees the sources and the
data's folder; what it makes is the same whoever makes it.
"""

from __future__ import annotations

import functools
import io
import itertools
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsing.actors.data import tokenizers
from sparsing.actors.data.pipeline.parts import PartTokens, PartWriter, committed, put
from sparsing.actors.data.sources.files import Files
from sparsing.actors.data.sources.piece import Part, Piece
from sparsing.actors.data.sources.pieces import LARGEST_PART_BYTES, ROWS_OF_BYTES
from sparsing.actors.data.sources.reading import Tally, piece_documents
from sparsing.actors.data.sources.token_files import IdsTokenizer, TokenIds, as_ids, as_text
from sparsing.actors.data.validating.duplicates import DuplicateSearch
from sparsing.actors.data.validating.passages import limited, passages, split, stretches
from sparsing.actors.data.validating.passages import rank as rank_of
from sparsing.actors.data.validating.pool import Pool
from sparsing.study.definition.data import Source

BATCH_CHARACTERS = 2**20
"""Text that is tokenized and compared at once."""
STRETCH_CHARACTERS = 2**16
"""Longer texts are tokenized and compared in pieces of this length."""
SAMPLE_CHARACTERS = 4096
"""Passages of the tokenizer's sample."""
DOCUMENT_BITS = 32
"""A document's number is its part's, shifted by this number of bits, plus its place in the part."""


@dataclass(frozen=True, kw_only=True)
class PartInput:
    """A part of a source, with the files that it needs."""

    source: Source
    files: Files
    """Those of the part alone."""
    part: Part
    number: int
    """Place among the source's parts."""
    limit: int | None = None
    """Bytes of text that are read at most."""
    ids: TokenIds | None = None
    """Of the study's tokenizer, where the source holds tokens."""

    @property
    def size(self) -> int:
        """Bytes of its files and ranges, about what a worker reads."""
        if not self.files.files:
            return ROWS_OF_BYTES * ((self.part[0].end or 0) - self.part[0].start)
        return sum(self._size_of(piece) for piece in self.part)

    def _size_of(self, piece: Piece) -> int:
        size = self.files.files[piece.file].size
        if piece.is_whole:
            return size
        if self.source.kind in ("parquet", "arrow", "tokens"):  # ranges of rows and documents
            return min(size, LARGEST_PART_BYTES)
        return (size if piece.end is None else piece.end) - piece.start

    @property
    def name(self) -> str:
        """What its files are called."""
        limit = "" if self.limit is None else f"-first-{self.limit}"
        return f"part-{self.number:06d}{limit}"

    def documents(self, tally: Tally) -> Iterator[str]:
        """Its documents, in order."""
        texts = (
            piece_documents(self.source, self.files, piece, tally, self.ids) for piece in self.part
        )
        tally.reached = yield from limited(itertools.chain.from_iterable(texts), self.limit)


@dataclass(kw_only=True)
class DrawnPart:
    """What was drawn from a part, and what was counted while all of it was seen."""

    pool: Pool
    documents: int
    bytes: int
    tally: Tally


def measure_part(job: PartInput) -> int:
    """Bytes of text of a part."""
    return sum(len(text.encode()) for text in job.documents(Tally()))


@dataclass(frozen=True, kw_only=True)
class DrawJob:
    """Draw passages from a part."""

    input: PartInput
    wanted_bytes: int
    passage_characters: int


def draw_part(job: DrawJob) -> DrawnPart:
    """The passages of lowest rank of a part, just over `wanted_bytes` of them."""
    pool, tally = Pool(job.wanted_bytes), Tally()
    documents = total = 0
    base = job.input.number << DOCUMENT_BITS
    texts = job.input.documents(tally)
    for found in passages(texts, job.passage_characters, base):
        documents += 1
        for passage in found:
            total += pool.see(passage)
    return DrawnPart(pool=pool, documents=documents, bytes=total, tally=tally)


@dataclass(frozen=True, kw_only=True)
class SampleJob:
    """Draw text for the tokenizer from a part."""

    input: PartInput
    share: float
    """Of the text, at most 1."""


def sample_part(job: SampleJob) -> list[str]:
    """Passages of a part chosen by hash, about `share` of its text."""
    below = int(2**32 * min(1.0, job.share))
    # The low bits: the high ones decide what is drawn for validation.
    return [
        piece
        for text in job.input.documents(Tally())
        for piece in split(text, SAMPLE_CHARACTERS)
        if rank_of(piece) & (2**32 - 1) < below
    ]


@dataclass(frozen=True, kw_only=True)
class PartJob:
    """Make a part's tokens, and what the study's view of them needs, where they are not there."""

    input: PartInput
    domain: int
    """Number of the domain."""
    tokens: Path
    """The part's tokens, without suffix."""
    view: Path
    """What the view needs of the part."""
    tokenizer: Path
    index: Path
    """The search for duplicates, pickled."""
    drawn: dict[int, frozenset[int]]
    """Ranks of the passages drawn from the part, by place of their document in it."""
    passage_characters: int
    longest_passage: int
    """Characters of a passage of any domain."""
    as_tokens: bool = False
    """Is text also compared as its tokens, because other domains have only these?"""


@dataclass(frozen=True, kw_only=True)
class PartDone:
    """A part whose tokens and view are there."""

    domain: int
    number: int
    tokens: PartTokens
    tokenized: bool
    """Were its tokens made now?"""
    size: int
    """Bytes of its files."""


def work_on_part(job: PartJob) -> PartDone:
    """Make what is missing of a part; each of both is committed by itself."""
    there = committed(job.tokens)
    tokenized = there is None
    if there is None or not job.view.exists():
        tokenizer: tokenizers.Encoder = _tokenizer(job.tokenizer)
        if job.input.ids is not None:
            dtype = tokenizers.dtype_of(tokenizer.vocabulary_size)
            tokenizer = IdsTokenizer(job.input.ids, dtype)
        if there is None:
            with PartWriter(job.tokens, tokenizer) as writer:
                tally = _stream(job, tokenizer, writer)
                there = writer.commit(tally)
        else:
            _stream(job, tokenizer, None)
    return PartDone(
        domain=job.domain,
        number=job.input.number,
        tokens=there,
        tokenized=tokenized,
        size=job.input.size,
    )


@functools.lru_cache(maxsize=2)
def _tokenizer(path: Path) -> tokenizers.Tokenizer:
    return tokenizers.load(path)


@functools.lru_cache(maxsize=1)
def _index(path: Path) -> DuplicateSearch:
    return pickle.loads(path.read_bytes())


def _stream(job: PartJob, tokenizer: tokenizers.Encoder, writer: PartWriter | None) -> Tally:
    """Read a part once: write its tokens if there is a writer, search it, write its view."""
    search = _index(job.index).anew()
    view = _View(tokenizer)
    shown: list[tuple[str, int]] = []
    texts: list[str] = []
    size, tally = 0, Tally()
    base = (job.domain << 56) + (job.input.number << DOCUMENT_BITS)
    for document, text in enumerate(job.input.documents(tally)):
        own = [(text, -1)]
        if ranks := job.drawn.get(document):
            # Passages drawn from other documents are compared with this one as it was.
            runs = runs_without(text, ranks, job.passage_characters)
            view.replace(document, runs)
            own = [(run, -1) for run in runs] + [(text, base + document)]
        if job.as_tokens:
            encoded = tokenizer.encode([one for one, _ in own])
            own += [(as_text(ids), n) for ids, (_, n) in zip(encoded, own, strict=True)]
        shown += own
        texts.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            _work_off(job, search, shown, writer, texts)
            shown, texts, size = [], [], 0
    _work_off(job, search, shown, writer, texts)
    put(job.view, view.as_bytes(search.resemblance))
    return tally


def _work_off(
    job: PartJob,
    search: DuplicateSearch,
    shown: list[tuple[str, int]],
    writer: PartWriter | None,
    texts: list[str],
) -> None:
    """Compare and write, some at a time: one document may be as long as many batches."""
    overlap = 2 * job.longest_passage
    parts = ((p, n) for one, n in shown for p in stretches(one, STRETCH_CHARACTERS, overlap))
    for some in _batches(parts):
        search.show(some)
    if writer:
        for text in texts:
            writer.saw(text.encode() if job.input.ids is None else as_ids(text).tobytes())
        for batch in _batches(piece for text in texts for piece in closed(text)):
            writer.write(batch)


def _batches(items: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Lists of texts of about BATCH_CHARACTERS in all."""
    batch: list[tuple[str, Any]] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[0])
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def closed(text: str) -> Iterator[tuple[str, bool]]:
    """A text in pieces to tokenize; a document ends behind the last."""
    for start in range(0, max(1, len(text)), STRETCH_CHARACTERS):
        end = start + STRETCH_CHARACTERS
        yield text[start:end], end >= len(text)


def runs_without(text: str, ranks: frozenset[int], size: int) -> list[str]:
    """The text between the passages of these ranks, as long as it goes."""
    runs: list[list[str]] = [[]]
    for piece in split(text, size):
        if rank_of(piece) in ranks:
            runs.append([])
        else:
            runs[-1].append(piece)
    return ["".join(run) for run in runs if run]


class _View:
    """What a view needs of a part: hits of the search, and documents without what was drawn."""

    def __init__(self, tokenizer: tokenizers.Encoder) -> None:
        self._tokenizer = tokenizer
        self._documents: list[int] = []
        self._tokens: list[np.ndarray] = []

    def replace(self, document: int, runs: list[str]) -> None:
        """These runs, each closed, stand for the document."""
        self._documents.append(document)
        self._tokens.append(encode_closed(self._tokenizer, runs))

    def as_bytes(self, resemblance: np.ndarray) -> bytes:
        """An .npz of it."""
        hits = np.flatnonzero(resemblance)
        empty = np.empty(0, dtype=tokenizers.dtype_of(self._tokenizer.vocabulary_size))
        buffer = io.BytesIO()
        np.savez(
            buffer,
            hits=hits,
            resemblance=resemblance[hits],
            documents=np.array(self._documents, dtype=np.int64),
            lengths=np.array([len(tokens) for tokens in self._tokens], dtype=np.int64),
            tokens=np.concatenate([empty, *self._tokens]),
        )
        return buffer.getvalue()


def encode_closed(tokenizer: tokenizers.Encoder, texts: list[str]) -> np.ndarray:
    """Tokens of texts, each closed by the end of document."""
    dtype = tokenizers.dtype_of(tokenizer.vocabulary_size)
    end = np.array([tokenizer.end_of_document], dtype=dtype)
    pieces = [piece for text in texts for piece in closed(text)]
    encoded = tokenizer.encode([text for text, _ in pieces])
    parts: list[np.ndarray] = [np.empty(0, dtype=dtype)]
    for ids, (_, closes) in zip(encoded, pieces, strict=True):
        parts += (ids, end) if closes else (ids,)
    return np.concatenate(parts)
