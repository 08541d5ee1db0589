"""A piece of a source: a file, or a range of it; and a part, which is worked on at once."""

from __future__ import annotations

from typing import NamedTuple


class Piece(NamedTuple):
    """A file, or a range of it."""

    file: int
    """Its place among the source's files."""
    start: int = 0
    """First byte, row group, record batch or row."""
    end: int | None = None
    """The one behind the last; None: up to the end."""

    @property
    def is_whole(self) -> bool:
        """Is it the whole file?"""
        return self.start == 0 and self.end is None


Part = tuple[Piece, ...]
"""What is worked on at once: one piece, or several small files."""
