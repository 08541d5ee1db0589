"""Tokenizers that exist: a `tokenizer.json`, or a folder of Hugging Face that holds one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from sparsing.actors.data.tokenizers import END_OF_DOCUMENT, BpeTokenizer
from sparsing.study.definition.data import Tokenizer
from sparsing.study.errors import DefinitionError

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
KNOWN_ENDS = (END_OF_DOCUMENT, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""Names that end a document in the tokenizers people have, where nothing says which."""


def from_file(wanted: Tokenizer) -> BpeTokenizer:
    """The tokenizer of a definition's `{kind: file, path: ...}`.

    Raises DefinitionError where it is not there, is none, or has no such end of document.
    """
    path = file_of(wanted)
    try:
        inner = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DefinitionError(
            f"data.tokenizer: {path}: no such file; give a tokenizer.json, or a folder with one"
        ) from None
    except Exception as error:  # the library raises plain Exception for a broken file
        raise DefinitionError(f"data.tokenizer: {path} is no tokenizer: {error}") from error
    # Truncation, padding and templates are for models' inputs, not for training text.
    inner.no_truncation()
    inner.no_padding()
    vocabulary = inner.get_vocab()
    end = wanted.end_of_document or _configured_end(path.parent / CONFIG)
    candidates = [end] if end else [each for each in KNOWN_ENDS if each in vocabulary]
    if not candidates or candidates[0] not in vocabulary:
        said = f"has no token {candidates[0]!r}" if candidates else "does not say what ends one"
        raise DefinitionError(
            f"data.tokenizer: {path} {said}; write end_of_document: its token behind a document"
        )
    return BpeTokenizer(inner, candidates[0])


def file_of(wanted: Tokenizer) -> Path:
    """The tokenizer's file."""
    path = Path(str(wanted.path)).expanduser()
    return path / FILE if path.is_dir() else path


def _configured_end(path: Path) -> str | None:
    """What a Hugging Face folder calls the end of a sequence."""
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        end = config.get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(end, dict):
        end = end.get("content")
    return end if isinstance(end, str) else None
