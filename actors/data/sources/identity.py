"""What identifies a source: names, sizes and content of its files; never their times.

Small files are hashed whole. Of large ones a sample is: evenly spaced blocks, the first and the
last among them; what was read for tokens is hashed whole, part by part, when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from sparsing.actors.data.sources.columns import dataset
from sparsing.actors.data.sources.files import Files, SourceFile, files_of
from sparsing.actors.data.sources.token_files import companions, local
from sparsing.actors.data.sources.wording import unreadable
from sparsing.study.definition.data import Source

WHOLE_BYTES = 16 * 2**20
"""Files up to this size are hashed whole."""
BLOCKS = 64
BLOCK_BYTES = 64 * 2**10
AT_ONCE = 8
"""Files read at the same time."""
CHUNK_FILES = 10_000
"""Files whose work is handed out at once: a million of waiting tasks would be a gigabyte."""
DIGEST_BYTES = 16


class Identity(NamedTuple):
    """A file as a study remembers it."""

    name: str
    size: int
    digest: str
    """Of its content: 128 bits of BLAKE2b, in hexadecimal digits."""


def identities(source: Source, files: Files | None = None) -> list[Identity]:
    """What identifies each file of a source, in order.

    A Hugging Face data set is one entry, with the fingerprint that its library keeps. Raises
    DefinitionError as `documents` does.
    """
    if source.kind == "huggingface":
        return [Identity(str(source.name), len(dataset(source)), dataset(source)._fingerprint)]
    files = files or files_of(source)

    def digest(file: SourceFile) -> str:
        try:
            own = _digest(files, file)
            if source.kind != "tokens":
                return own
            beside = [_whole_digest(path) for path in companions(local(source, files, file))]
            return " ".join([own, *beside])
        except OSError as error:
            raise unreadable(source, files.place(file), error, "make it readable") from error

    found: list[Identity] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(files.files), CHUNK_FILES):
            some = files.files[start : start + CHUNK_FILES]
            digests = pool.map(digest, some)
            found += [Identity(f.name, f.size, d) for f, d in zip(some, digests, strict=True)]
    return found


def digest_of(found: list[Identity]) -> str:
    """One digest for all files of a source."""
    total = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for each in found:
        total.update(
            f"{each.name}\0{each.size}\0{each.digest}\n".encode("utf-8", "surrogateescape")
        )
    return total.hexdigest()


def _digest(files: Files, file: SourceFile) -> str:
    result = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with files.open_unbuffered(file) as opened:
        for start, length in _blocks(file.size):
            opened.seek(start)
            while length and (data := opened.read(length)):
                result.update(data)
                length -= len(data)
    return result.hexdigest()


def _whole_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    if size <= WHOLE_BYTES:
        yield 0, size
        return
    for number in range(BLOCKS):
        yield number * (size - BLOCK_BYTES) // (BLOCKS - 1), BLOCK_BYTES


def text_key(source: Source) -> dict[str, Any]:
    """What of a source's definition decides which documents it has, besides its files."""
    return source.model_dump(mode="json", include={"kind", "field", "config", "split"}) | {
        "filter": source.filter.model_dump(mode="json") if source.filter else None,
        "max_broken_share": source.max_broken_share,
        **({"format": source.format, "dtype": source.dtype} if source.kind == "tokens" else {}),
    }
