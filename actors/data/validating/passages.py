"""Documents cut into passages: the pieces that are drawn for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

SECTION_PASSAGES = 16
"""Passages of a section. A long document (a book) counts as its sections where validation is split
in halves, for else a corpus of one book could not be split."""


class Passage(NamedTuple):
    """A piece of a document."""

    text: str
    rank: int
    """Seeded 64-bit hash of the text: those of the lowest rank are drawn."""
    document: int
    """Number of its document in the source."""
    section: int
    """Number of its section in the document."""

    @property
    def group(self) -> tuple[int, int]:
        """Document and section: what the two halves of validation never share."""
        return self.document, self.section


def limited(documents: Iterable[str], max_bytes: int | None) -> Generator[str, None, bool]:
    """The documents up to `max_bytes` of UTF-8; the last one is cut at the end of a line.

    Returns whether there was so much text.
    """
    left = max_bytes
    for text in documents:
        if left is None:
            yield text
            continue
        size = len(text.encode())
        if size > left:
            text = text.encode()[:left].decode("utf-8", "ignore")
            text = text[: text.rfind("\n") + 1] or text
        if text:
            yield text
        left -= size
        if left <= 0:
            return True
    return False


def split(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters whose join is `text`.

    Each is cut at the last blank line in its second half, else at the last line's end there, else
    at the last space, else at `size`.
    """
    start = 0
    while len(text) - start > size:
        end = start + size
        for mark in ("\n\n", "\n", " "):
            found = text.rfind(mark, start + size // 2, end)
            if found >= 0:
                end = found + len(mark)
                break
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def passages(documents: Iterable[str], size: int, first: int = 0) -> Iterator[list[Passage]]:
    """The passages of each document, in order; documents are numbered from `first`."""
    for document, text in enumerate(documents, first):
        yield [
            Passage(piece, rank(piece), document, number // SECTION_PASSAGES)
            for number, piece in enumerate(split(text, size))
        ]


def rank(text: str) -> int:
    """Seeded 64-bit hash of a text; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=b"validation").digest())


def stretches(text: str, size: int, overlap: int) -> Iterator[str]:
    """`text` in pieces of `size` characters that overlap: what is shorter is whole in one."""
    for start in range(0, max(1, len(text) - overlap), size):
        yield text[start : start + size + overlap]
