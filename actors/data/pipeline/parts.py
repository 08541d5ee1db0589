"""A part's tokens on disk, in the format of Megatron-LM: `.bin` and `.idx`, and a mark of ours.

    part-000012.bin     token ids, each document closed by its end-of-document token
    part-000012.idx     Megatron's index: dtype, tokens of each document
    part-000012.json    counts and digests; written last, so a part without it does not count

So our tokens are such files for others as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sparsing.actors.data.sources.megatron import index_bytes
from sparsing.actors.data.sources.reading import Tally
from sparsing.actors.data.tokenizers import Encoder, dtype_of


@dataclass(frozen=True, kw_only=True)
class PartTokens:
    """What a committed part holds."""

    tokens: int
    documents: int
    bytes: int
    """UTF-8 bytes of its text."""
    text_digest: str
    """SHA-256 of its documents' text."""
    files: dict[str, dict[str, Any]]
    """Size and SHA-256 of `.bin` and `.idx`, by suffix."""
    tally: Tally


class PartWriter:
    """Writes a part aside, and names it when it is whole."""

    def __init__(self, path: Path, tokenizer: Encoder) -> None:
        """Begin a part; `path` is without suffix."""
        self._path, self._tokenizer = path, tokenizer
        self._dtype = dtype_of(tokenizer.vocabulary_size)
        self._end = np.array([tokenizer.end_of_document], dtype=self._dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        self._file: BinaryIO = self._aside.open("wb")
        self._lengths: list[int] = []
        self._open = 0
        self._sha, self._text_sha = hashlib.sha256(), hashlib.sha256()
        self._bytes = 0

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._aside.unlink(missing_ok=True)

    def saw(self, text: bytes) -> None:
        """Count a document's text."""
        self._text_sha.update(len(text).to_bytes(8, "little"))
        self._text_sha.update(text)
        self._bytes += len(text)

    def write(self, pieces: list[tuple[str, bool]]) -> None:
        """Append texts; True closes a document behind its piece."""
        encoded = self._tokenizer.encode([text for text, _ in pieces])
        arrays: list[np.ndarray] = []
        for ids, (_, closes) in zip(encoded, pieces, strict=True):
            arrays.append(ids)
            self._open += len(ids)
            if closes:
                arrays.append(self._end)
                self._lengths.append(self._open + 1)
                self._open = 0
        if arrays:
            data = np.concatenate(arrays).tobytes()
            self._sha.update(data)
            self._file.write(data)

    def commit(self, tally: Tally) -> PartTokens:
        """Flush all to disk, give it its name, and mark it; the same part may be there already."""
        size = self._file.tell()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        index = index_bytes(np.array(self._lengths, dtype=np.int64), self._dtype)
        made = PartTokens(
            tokens=sum(self._lengths),
            documents=len(self._lengths),
            bytes=self._bytes,
            text_digest=self._text_sha.hexdigest(),
            files={
                ".bin": {"bytes": size, "sha256": self._sha.hexdigest()},
                ".idx": {"bytes": len(index), "sha256": hashlib.sha256(index).hexdigest()},
            },
            tally=tally,
        )
        os.replace(self._aside, named(self._path, ".bin"))
        put(named(self._path, ".idx"), index)
        put(named(self._path, ".json"), json.dumps(asdict(made)).encode())
        return made


def named(path: Path, suffix: str) -> Path:
    """A file of a part."""
    return path.with_name(path.name + suffix)


def put(path: Path, content: bytes) -> None:
    """Write a file aside, durably, and name it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def committed(path: Path) -> PartTokens | None:
    """What a part holds; None where it is not there whole."""
    try:
        values = json.loads(named(path, ".json").read_bytes())
        part = PartTokens(**values | {"tally": Tally(**values["tally"])})
        sizes = {suffix: named(path, suffix).stat().st_size for suffix in part.files}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return None
    if any(sizes[suffix] != about["bytes"] for suffix, about in part.files.items()):
        return None
    return part
