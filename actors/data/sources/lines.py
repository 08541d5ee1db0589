"""Lines of files, with bounded memory: plain, gzip and Zstandard, whole or a range of bytes."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa

LONGEST_LINE_BYTES = 64 * 2**20
"""A longer line is refused: a document of it would take a worker's memory many times over."""
CHUNK_BYTES = 2**20
BOM = b"\xef\xbb\xbf"
OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")
COMPRESSED = (".gz", ".zst")


class LineTooLongError(ValueError):
    """A line over LONGEST_LINE_BYTES."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        """Byte at which it begins."""
        size = LONGEST_LINE_BYTES // 2**20
        super().__init__(f"a line of more than {size} MiB, which is no document of text")


def decompressed(file: BinaryIO, name: str) -> BinaryIO:
    """The file's content, decompressed as its name says."""
    if name.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if name.endswith(".zst"):
        return cast(BinaryIO, _Zstandard(file))
    return file


class _Zstandard(io.RawIOBase):
    """A Zstandard stream of pyarrow as a file, whose errors are OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """This number of bytes at most; b"" at the end."""
        return self._stream.read(size if size >= 0 else None)


def lines(
    file: BinaryIO, name: str, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in bytes `start` to `end` of a file: where, and without their newline.

    A compressed file is read whole. A byte-order mark of UTF-8 at the file's beginning is left
    out. Memory is bounded by the longest line allowed.

    Raises:
        LineTooLongError: with where the line begins.
        UnicodeError: the file is UTF-16.
        OSError, EOFError: it cannot be read, or is cut.
    """
    content = decompressed(file, name)
    skipping = start > 0
    at = start
    if start:
        # Where a line ends right before `start`, one begins there: so look one byte back.
        at = start - 1
        content.seek(at)
    rest, mark = b"", 0
    while chunk := _read(content):
        if at == 0 and not rest:
            _refuse_utf16(chunk)
            if chunk.startswith(BOM):
                chunk, mark = chunk[len(BOM) :], len(BOM)
        pieces = (rest + chunk).split(b"\n") if b"\n" in chunk else None
        if pieces is None:
            rest = rest + chunk if not skipping else b""
            at = at + len(chunk) if skipping else at
            if len(rest) > LONGEST_LINE_BYTES:
                raise LineTooLongError(at)
            continue
        rest = pieces.pop()
        for piece in pieces:
            if skipping:
                skipping = False
            else:
                if end is not None and at >= end:
                    return
                yield at, piece
            at, mark = at + mark + len(piece) + 1, 0
    if rest and not skipping and (end is None or at < end):
        yield at, rest


def _read(content: BinaryIO) -> bytes:
    """The next chunk; a damaged stream is an OSError, whatever its library raises."""
    try:
        return content.read(CHUNK_BYTES)
    except (zlib.error, pa.ArrowException) as error:
        raise OSError(str(error)) from error


def _refuse_utf16(chunk: bytes) -> None:
    if chunk.startswith(OTHER_BOMS):
        raise UnicodeError("it begins as UTF-16 does, not UTF-8")
