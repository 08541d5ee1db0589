"""A prepared data set: memory-mapped tokens of each domain, validation halves, the tokenizer.

The folder (see `sparsing.actors.data.prepare`) is a view of the tokens in `<store>/data/tokens`:

    metadata.json                 domains, weights, counts, sizes and digests of every file
    tokenizer.json
    <domain>/train.npy            stretches of the tokens' files: number of the file (-1: patches),
                                  first token, tokens
    <domain>/patches.bin          documents that validation was drawn from, without it
    <domain>/choose.bin           validation, first half: to choose thresholds and the CETT value
    <domain>/report.bin           validation, second half: to report

Ids are flat, little-endian uint16 or uint32. Format 1, from before tokens were shared, has
`<domain>/train.bin` instead of stretches and patches.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sparsing.actors.data import tokenizers
from sparsing.actors.data.stream import TokenStream
from sparsing.study.errors import NotFoundError, SparsingError

FORMAT = 2
"""Version of the folder's layout and of everything that decides its content."""
FORMATS = (1, FORMAT)
"""What can be read."""

Half = Literal["choose", "report"]
HALVES: tuple[Half, Half] = ("choose", "report")


class PreparedData:
    """Read access to a prepared folder. Opens no file before it is asked for tokens."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        self.path = path
        self.metadata = metadata
        self.vocabulary_size: int = metadata["vocabulary_size"]
        """Entries of the tokenizer, the end-of-document token among them."""
        self.sequence_tokens: int = metadata["sequence_tokens"]
        """Tokens that a sequence trains on; its array has one more."""
        self.domains: tuple[str, ...] = tuple(metadata["domains"])
        """Sorted, so that the order of keys in a definition does not matter."""
        self.weights: dict[str, float] = {d: metadata["domains"][d]["weight"] for d in self.domains}
        """Share of each domain in training; they sum to 1."""
        self.train_tokens: dict[str, int] = {
            d: metadata["domains"][d]["train_tokens"] for d in self.domains
        }
        """Tokens of each domain, one epoch."""
        self._train: dict[str, np.ndarray | TokenStream] = {}

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer that made these tokens."""
        return tokenizers.load(self.path / "tokenizer.json")

    def train(self, domain: str) -> np.ndarray | TokenStream:
        """All training tokens of `domain`, memory-mapped: (train_tokens,), uint16 or uint32."""
        if domain not in self._train:
            old = self.metadata["format"] == 1
            self._train[domain] = self._map(domain, "train") if old else self._stream(domain)
        return self._train[domain]

    def _stream(self, domain: str) -> TokenStream:
        dtype = tokenizers.dtype_of(self.vocabulary_size)
        names = self.metadata["domains"][domain]["train_files"]
        files = [(self.path / name, dtype, 0) for name in names]
        files.append((self.path / domain / "patches.bin", dtype, 0))
        segments = np.load(self.path / domain / "train.npy")
        segments[segments[:, 0] < 0, 0] = len(names)
        return TokenStream(files, segments, dtype)

    def train_sequences(self, domain: str) -> int:
        """Sequences of one epoch; sequence i is train[i * S : i * S + S + 1], S sequence_tokens."""
        return (self.train_tokens[domain] - 1) // self.sequence_tokens

    def validation(self, domain: str, half: Half) -> np.ndarray:
        """Validation sequences: int64 (n_sequences, sequence_tokens + 1).

        Neighbours share one token, the last target of one being the first input of the next.
        """
        tokens = self._map(domain, half).astype(np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(tokens, self.sequence_tokens + 1)
        return windows[:: self.sequence_tokens].copy()

    def _map(self, domain: str, part: str) -> np.ndarray:
        dtype = tokenizers.dtype_of(self.vocabulary_size)
        mapped = np.memmap(self.path / domain / f"{part}.bin", dtype=dtype, mode="r")
        # As a plain array: slices of np.memmap cost ten times as much.
        return mapped.view(np.ndarray)


def open_prepared(path: Path) -> PreparedData:
    """The data set in folder `path`.

    Raises NotFoundError if there is none, SparsingError if a file is missing or cut short.
    """
    path = Path(path)
    try:
        metadata = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no prepared data; 'sparsing run' makes it") from error
    except (OSError, ValueError) as error:
        raise SparsingError(f"{path}/metadata.json: {error}; {_REMEDY}") from error
    if metadata.get("format") not in FORMATS:
        raise SparsingError(f"{path}: format {metadata.get('format')}, not {FORMAT}; {_REMEDY}")
    for name, about in metadata["files"].items():
        file = path / name
        size = file.stat().st_size if file.exists() else None
        if size != about["bytes"]:
            found = "missing" if size is None else f"{size} bytes instead of {about['bytes']}"
            raise SparsingError(f"{file}: damaged ({found}); {_REMEDY}")
    return PreparedData(path, metadata)


_REMEDY = "delete the folder, then the same command makes it again"
