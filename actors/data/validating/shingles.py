"""Shingles: hashes of every five words in a row, for finding near duplicates.

Words are runs of ASCII letters, digits, `_` and letters below U+0800, lower-cased in ASCII; every
character from U+0800 on (Chinese, Japanese, ...) is a word of its own, for such text has no spaces.
The work is done on whole byte arrays, since it has to be done for all of the training text.
"""

from __future__ import annotations

import numpy as np

WORDS = 5
"""Words of a shingle."""

_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
_POSITIONS = np.array(
    [0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 1],
    dtype=np.uint64,
)


def _byte_tables() -> tuple[np.ndarray, np.ndarray]:
    """For each byte: is it part of a word, and its random value (equal for both cases)."""
    byte = np.arange(256)
    folded = np.where((byte >= 65) & (byte <= 90), byte + 32, byte)
    is_word = (byte >= 128) | np.isin(folded, [*range(97, 123), *range(48, 58), 95])
    values = (folded.astype(np.uint64) + np.uint64(1)) * np.uint64(0xC2B2AE3D27D4EB4F)
    return is_word, values ^ (values >> np.uint64(29))


_IS_WORD, _VALUE = _byte_tables()


def shingles(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Shingle hashes of all texts, in order, and the number of the text that each is from.

    Two arrays (n,): uint64 and int64. A text of fewer than five words has one shingle, of all its
    words; a text without words has none.
    """
    pieces = [text.encode() for text in texts]
    data = np.frombuffer(b"\n".join(pieces) + b"\n", dtype=np.uint8)
    text_ends = np.cumsum([len(piece) + 1 for piece in pieces])
    starts, hashes = _words(data)
    text_of_word = np.searchsorted(text_ends, starts, side="right")
    return _windows(hashes, text_of_word)


def _words(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First byte and hash of every word: int64 and uint64 (words,)."""
    is_word = _IS_WORD[data]
    new = is_word & (data >= 0xE0)
    new[1:] |= is_word[1:] & ~is_word[:-1]
    # After a character that is a word of its own, what follows begins another.
    wide_end = np.zeros_like(new)
    wide_end[3:] = (data[:-3] >= 0xE0) & (data[:-3] < 0xF0)
    wide_end[4:] |= data[:-4] >= 0xF0
    continues = (data & 0xC0) == 0x80
    new[1:] |= wide_end[1:] & is_word[1:] & ~continues[1:]
    new[0] |= is_word[0]
    starts = np.flatnonzero(new)
    if not len(starts):
        return starts, np.empty(0, dtype=np.uint64)
    # A word's hash is the sum of value * base^(place in the word), by a table of powers.
    numbers = np.cumsum(new) - 1
    places = np.arange(len(data)) - starts[np.maximum(numbers, 0)]
    powers = np.cumprod(np.full(256, _BASE), dtype=np.uint64)
    terms = np.where(is_word, _VALUE[data] * powers[places & 255], np.uint64(0))
    return starts, np.add.reduceat(terms, starts)


def _windows(hashes: np.ndarray, text_of_word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Combine the hashes of each five words in a row that lie in one text."""
    mixed = (hashes ^ (hashes >> np.uint64(31))) * np.uint64(0x9FB21C651E98DF25)
    mixed ^= mixed >> np.uint64(28)
    # A shingle begins at every word; those that would reach into the next text are cut short, and
    # kept only where the text is shorter than a shingle.
    total = np.zeros_like(mixed)
    same = np.ones(len(mixed), dtype=bool)
    for offset in range(WORDS):
        tail = len(mixed) - offset
        if tail <= 0:
            same[:] = False
            break
        inside = text_of_word[offset:] == text_of_word[:tail]
        total[:tail] += np.where(inside, mixed[offset:] * _POSITIONS[offset], np.uint64(0))
        same[:tail] &= inside
        same[tail:] = False
    first = np.ones(len(mixed), dtype=bool)
    first[1:] = text_of_word[1:] != text_of_word[:-1]
    keep = same | (first & ~same)
    return total[keep], text_of_word[keep]
