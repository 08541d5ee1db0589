"""From a definition's sources to a prepared folder, made once and then found by its content hash.

The hash covers the definition's data part and, for every source, names, sizes and modification
times of its files (a Hugging Face data set: its library's fingerprint); so a changed corpus is
another data set. The folder appears whole, by renaming: a preparation that is interrupted, or runs
twice at once, leaves no half of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from actors.data import sources, tokenizers
from actors.data.duplicates import DuplicateSearch
from actors.data.passages import Passage, limited, passages, stretches
from actors.data.prepared import FORMAT, HALVES, PreparedData, open_prepared
from actors.data.tokenizers import Tokenizer, dtype_of, make_tokenizer
from actors.data.validation import Draw, Halves, draw, halves, shortage, tokens_per_half
from study.definition import Data, Source, Study
from study.errors import DefinitionError

__all__ = ["PreparedData", "content_hash", "open_prepared", "precheck", "prepare"]

Progress = Callable[[str], None]

BATCH_CHARACTERS = 2**20
"""Text that is tokenized and compared at once."""
STRETCH_CHARACTERS = 2**16
"""Longer texts are compared and tokenized in pieces of this length."""


def prepare(study: Study, root: Path, progress: Progress | None = None) -> PreparedData:
    """The study's data under `root`, made now if it is not there.

    `progress` is called with a line for people at each part. Raises DefinitionError for what is
    wrong with a source, or too little text for the validation set.
    """
    root = Path(root)
    folder = root / content_hash(study.data)
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=root) as temporary:
            made = Path(temporary, "data")
            made.mkdir()
            _make(study.data, made, root / "tokenizers", progress or (lambda line: None))
            _publish(made, folder)
    return open_prepared(folder)


def content_hash(data: Data) -> str:
    """What a prepared folder is called: a hash of the definition's data and its sources."""
    content = {
        "format": FORMAT,
        "data": data.model_dump(mode="json"),
        "sources": {d: sources.fingerprint(s) for d, s in sorted(data.domains.items())},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def precheck(data: Data) -> None:
    """What can be said without reading the sources: raises DefinitionError as `prepare` would.

    Every source is there and gives a first document, and its files can hold the validation set.
    """
    needed = 2 * tokens_per_half(data)
    for domain, source in data.domains.items():
        next(iter(sources.documents(source)))
        size = sources.size_bytes(source)
        if size is not None and min(size, data.max_bytes or size) < needed:
            raise DefinitionError(
                f"data.domains.{domain}: {min(size, data.max_bytes or size)} bytes of text cannot "
                f"give {needed} validation tokens; lower data.validation.tokens, or give more text"
            )


def _publish(made: Path, folder: Path) -> None:
    """Rename; if another preparation was quicker, its folder holds the same, and stays."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.exists():
            raise


class _Domain:
    """One domain while it is prepared."""

    def __init__(self, name: str, source: Source, data: Data) -> None:
        self.name, self.source, self.data = name, source, data
        bytes_per_token = 1 if data.tokenizer.kind == "bytes" else 4
        self.passage_characters = min(2**14, max(2**10, data.sequence_tokens * bytes_per_token))
        """A passage is about one sequence long, so that validation sees training's contexts."""

    def documents(self) -> Iterator[list[Passage]]:
        """The passages of every document, read anew."""
        texts = limited(sources.documents(self.source), self.data.max_bytes)
        return passages(texts, self.passage_characters)

    def draw(self, generosity: int) -> Draw:
        """Passages for validation, `generosity` times as many as needed if none is dropped."""
        bytes_per_token = 1 if self.data.tokenizer.kind == "bytes" else 6
        wanted = 2 * tokens_per_half(self.data) * bytes_per_token * generosity
        return draw(self.documents(), wanted + 4 * self.passage_characters)


GENEROSITIES = (2, 8, 32, 1024)
"""How much more is drawn than needed; the next one if too many were duplicates."""


def _make(data: Data, folder: Path, cache: Path, progress: Progress) -> None:
    """Write everything into `folder`, the metadata last."""
    domains = [_Domain(name, source, data) for name, source in sorted(data.domains.items())]
    draws = {}
    for domain in domains:
        progress(f"{domain.name}: drawing validation passages")
        draws[domain.name] = domain.draw(GENEROSITIES[0])
    sample: list[str] = []
    if data.tokenizer.kind == "bpe":
        progress("training the tokenizer")
        sample = [text for domain in domains for text in _sample(domain, draws[domain.name])]
    tokenizer = make_tokenizer(data.tokenizer, sample, cache)
    tokenizers.save(tokenizer, folder / "tokenizer.json")
    about = {
        domain.name: _make_domain(domain, draws[domain.name], tokenizer, folder, progress)
        for domain in domains
    }
    _write_metadata(data, tokenizer, about, folder)


def _sample(domain: _Domain, drawn: Draw) -> Iterator[str]:
    """The domain's share of the tokenizer's sample: passages chosen by hash, none of validation."""
    data = domain.data
    share = domain.source.weight / sum(source.weight for source in data.domains.values())
    limit = int(2**32 * min(1.0, data.tokenizer.sample_bytes * share / drawn.bytes))
    excluded = drawn.ranks
    for document in domain.documents():
        for passage in document:
            if passage.rank & (2**32 - 1) < limit and passage.rank not in excluded:
                yield passage.text


def _make_domain(
    domain: _Domain, drawn: Draw, tokenizer: Tokenizer, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write one domain's files; what the metadata says of it."""
    (folder / domain.name).mkdir()
    half_tokens = tokens_per_half(domain.data)
    for generosity in GENEROSITIES[1:]:
        progress(f"{domain.name}: tokenizing {drawn.bytes / 1e6:.1f} MB, searching duplicates")
        with _TokenFile(folder / domain.name / "train.bin", tokenizer) as train:
            search = _stream(domain, drawn, train)
            found = halves(drawn, search, tokenizer, half_tokens)
            train.write([(p.text, True) for p in drawn.passages if p.rank not in found.used])
        if not (problem := shortage(domain.name, drawn, found, domain.data)):
            break
        if drawn.whole or generosity == GENEROSITIES[-1]:
            raise problem
        drawn = domain.draw(generosity)
    for half in HALVES:
        found.tokens[half].tofile(folder / domain.name / f"{half}.bin")
    return _domain_metadata(domain, drawn, found, train.tokens)


def _domain_metadata(domain: _Domain, drawn: Draw, found: Halves, tokens: int) -> dict[str, Any]:
    if tokens <= domain.data.sequence_tokens:
        raise DefinitionError(
            f"data.domains.{domain.name}: {tokens} training tokens are left, not even one sequence "
            f"of {domain.data.sequence_tokens}; give more text or shorten sequence_tokens"
        )
    total = sum(source.weight for source in domain.data.domains.values())
    return {
        "weight": domain.source.weight / total,
        "documents": drawn.documents,
        "bytes": drawn.bytes,
        "train_tokens": tokens,
        "validation_tokens": {half: len(found.tokens[half]) for half in HALVES},
        "validation_passages": found.passages,
        "exact_duplicates_dropped": found.exact_duplicates,
        "near_duplicates_dropped": found.near_duplicates,
    }


def _stream(domain: _Domain, drawn: Draw, train: _TokenFile) -> DuplicateSearch:
    """Write everything not drawn to `train`, and compare the passages drawn with all other text."""
    search = DuplicateSearch(
        [p.text for p in drawn.passages],
        [p.document for p in drawn.passages],
        domain.data.validation.near_duplicate_jaccard,
    )
    excluded, overlap = drawn.ranks, 2 * domain.passage_characters
    shown: list[tuple[str, int]] = []
    pieces: list[tuple[str, bool]] = []
    size = 0
    for document in domain.documents():
        runs = list(_runs(document, excluded))
        texts = [(text, -1) for text in runs]
        if len(runs) != 1 or len(runs[0]) != sum(len(p.text) for p in document):
            texts.append(("".join(p.text for p in document), document[0].document))
        for text, number in texts:
            shown += [(s, number) for s in stretches(text, STRETCH_CHARACTERS, overlap)]
        for run in runs:
            cut = list(stretches(run, STRETCH_CHARACTERS, 0))
            pieces += [(text, text is cut[-1]) for text in cut]
        size += sum(len(text) for text, _ in texts)
        if size >= BATCH_CHARACTERS:
            search.show([s for s, _ in shown], not_for=[number for _, number in shown])
            train.write(pieces)
            shown, pieces, size = [], [], 0
    if shown:
        search.show([s for s, _ in shown], not_for=[number for _, number in shown])
    train.write(pieces)
    return search


def _runs(document: list[Passage], excluded: set[int]) -> Iterator[str]:
    """The text between the passages drawn, as long as it goes."""
    run: list[str] = []
    for passage in document:
        if passage.rank not in excluded:
            run.append(passage.text)
        elif run:
            yield "".join(run)
            run = []
    if run:
        yield "".join(run)


class _TokenFile:
    """A flat file of token ids that is being written."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.path, self.tokenizer, self.tokens = path, tokenizer, 0

    def __enter__(self) -> _TokenFile:
        self.file: BinaryIO = self.path.open("wb")
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def write(self, pieces: list[tuple[str, bool]]) -> None:
        """Append texts; True closes a document behind its piece."""
        end = np.array([self.tokenizer.end_of_document], dtype_of(self.tokenizer.vocabulary_size))
        encoded = self.tokenizer.encode([text for text, _ in pieces])
        for ids, (_, is_end) in zip(encoded, pieces, strict=True):
            for part in (ids, end) if is_end else (ids,):
                self.file.write(part.tobytes())
                self.tokens += len(part)


def _write_metadata(data: Data, tokenizer: Tokenizer, about: dict[str, Any], folder: Path) -> None:
    """Write metadata.json, with size and SHA-256 of all other files, and flush all to disk."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    metadata = {
        "format": FORMAT,
        "vocabulary_size": tokenizer.vocabulary_size,
        "end_of_document": tokenizer.end_of_document,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "sequence_tokens": data.sequence_tokens,
        "definition": data.model_dump(mode="json"),
        "domains": about,
        "files": files,
    }
    with (folder / "metadata.json").open("w", encoding="utf-8") as file:
        json.dump(metadata, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
