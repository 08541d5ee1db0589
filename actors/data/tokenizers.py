"""Text to token ids and back: bytes, or byte-level BPE of the `tokenizers` library."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from sparsing.study.errors import SparsingError

END_OF_DOCUMENT = "<|endofdocument|>"


class Encoder(Protocol):
    """What makes ids of documents."""

    vocabulary_size: int
    """Token ids are 0 ... vocabulary_size - 1."""
    end_of_document: int
    """Id that closes every document; no text is encoded to it."""

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text, of dtype `dtype_of(vocabulary_size)`, nothing added."""


class Tokenizer(Encoder, Protocol):
    """What the rest of the project needs of a tokenizer."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids; incomplete UTF-8 becomes U+FFFD."""

    @property
    def json(self) -> str:
        """Everything that `load` needs."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `json`: equal fingerprints, equal ids."""


def dtype_of(vocabulary_size: int) -> np.dtype:
    """Little-endian uint16 where it is wide enough for every id, else uint32."""
    return np.dtype("<u2" if vocabulary_size <= 2**16 else "<u4")


class ByteTokenizer:
    """Ids 0 ... 255 are the bytes of UTF-8, 256 ends a document."""

    vocabulary_size = 257
    end_of_document = 256
    json = json.dumps({"kind": "bytes"})

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Bytes of each text, uint16."""
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype("<u2") for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids, ends of documents spelled out."""
        mark = END_OF_DOCUMENT.encode()
        return b"".join(mark if i == 256 else bytes([int(i)]) for i in ids).decode(errors="replace")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `json`."""
        return hashlib.sha256(self.json.encode()).hexdigest()


class BpeTokenizer:
    """A tokenizer of the `tokenizers` library.

    Of ours, byte-level BPE, every text can be encoded, and decodes to itself.
    """

    def __init__(self, inner: tokenizers.Tokenizer, end_of_document: str = END_OF_DOCUMENT) -> None:
        # A document that spells the special token out must not end there.
        inner.encode_special_tokens = True
        self._inner, self._end = inner, end_of_document
        vocabulary = inner.get_vocab()
        self.vocabulary_size = max(inner.get_vocab_size(), max(vocabulary.values(), default=0) + 1)
        self.end_of_document = int(vocabulary[end_of_document])

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text, uint16 or uint32."""
        dtype = dtype_of(self.vocabulary_size)
        encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=dtype) for encoding in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids, ends of documents spelled out."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=False)

    @property
    def json(self) -> str:
        """The `tokenizers` library's own JSON; beside it the end of document, if it is not ours."""
        inner = self._inner.to_str()
        if self._end == END_OF_DOCUMENT:
            return inner
        return json.dumps({"kind": "file", "end_of_document": self._end, "tokenizer": inner})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `json`."""
        return hashlib.sha256(self.json.encode()).hexdigest()


def train_bpe(sample: list[str], vocabulary_size: int) -> BpeTokenizer:
    """A BPE tokenizer trained on `sample`; a small sample may give fewer entries than asked."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(sample, trainer)
    return BpeTokenizer(inner)


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokenizer as JSON; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(tokenizer.json, encoding="utf-8")
    partial.replace(path)


def load(path: Path) -> Tokenizer:
    """The tokenizer that `save` wrote; SparsingError if the file is not one."""
    try:
        text = path.read_text(encoding="utf-8")
        about = json.loads(text)
        if about.get("kind") == "bytes":
            return ByteTokenizer()
        if about.get("kind") == "file":
            inner = tokenizers.Tokenizer.from_str(about["tokenizer"])
            return BpeTokenizer(inner, about["end_of_document"])
        return BpeTokenizer(tokenizers.Tokenizer.from_str(text))
    except Exception as error:  # the library raises plain Exception for a broken file
        message = f"{path} is no tokenizer ({error}); delete its folder and prepare the data again"
        raise SparsingError(message) from error
