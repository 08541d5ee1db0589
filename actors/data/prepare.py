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
from pathlib import Path
from typing import Any

from sparsing.actors.data import sources, tokenizers
from sparsing.actors.data.build import Domain, Progress, build
from sparsing.actors.data.folders import appearing
from sparsing.actors.data.prepared import FORMAT, HALVES, PreparedData, open_prepared
from sparsing.actors.data.validation import tokens_per_half
from sparsing.study.definition.data import Data, Source
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError

__all__ = ["PreparedData", "content_hash", "open_prepared", "precheck", "prepare"]


def prepare(study: Study, root: Path, progress: Progress | None = None) -> PreparedData:
    """The study's data under `root`, made now if it is not there.

    `progress` is called with a line for people at each part. Raises DefinitionError for what is
    wrong with a source, or too little text for the validation set.
    """
    precheck(study.data)
    root = Path(root)
    folder = root / content_hash(study.data)
    if not folder.exists():
        with appearing(folder) as made:
            tokenizer, domains = build(
                study.data, made, root / "tokenizers", progress or (lambda line: None)
            )
            tokenizers.save(tokenizer, made / "tokenizer.json")
            _write_metadata(study.data, tokenizer, domains, made)
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
    """What can be said at once, without reading more than the first document of each source.

    Raises DefinitionError with all that is wrong, a line for each: sources that are missing or
    unreadable, files too small for the validation set.
    """
    problems, needed = [], 2 * tokens_per_half(data)
    for domain, source in sorted(data.domains.items()):
        try:
            _precheck_source(source, data.max_bytes, needed)
        except DefinitionError as error:
            problems.append(f"data.domains.{domain}: {error}")
    if problems:
        raise DefinitionError("\n".join(problems))


def _precheck_source(source: Source, max_bytes: int | None, needed: int) -> None:
    next(iter(sources.documents(source)))
    size = sources.size_bytes(source)
    if size is not None and (size := min(size, max_bytes or size)) < needed:
        raise DefinitionError(
            f"{size} bytes of text cannot give {needed} validation tokens; lower "
            "data.validation.tokens, or give more text"
        )


def _write_metadata(
    data: Data, tokenizer: tokenizers.Tokenizer, domains: list[Domain], folder: Path
) -> None:
    """Write metadata.json, with size and SHA-256 of all other files, and flush all to disk."""
    metadata = {
        "format": FORMAT,
        "vocabulary_size": tokenizer.vocabulary_size,
        "end_of_document": tokenizer.end_of_document,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "sequence_tokens": data.sequence_tokens,
        "definition": data.model_dump(mode="json"),
        "domains": {domain.name: _domain_metadata(domain) for domain in domains},
        "files": {p.relative_to(folder).as_posix(): _file_metadata(p) for p in _files(folder)},
    }
    path = folder / "metadata.json"
    path.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    _file_metadata(path)


def _domain_metadata(domain: Domain) -> dict[str, Any]:
    total = sum(source.weight for source in domain.data.domains.values())
    return {
        "weight": domain.source.weight / total,
        "documents": domain.drawn.documents,
        "bytes": domain.drawn.bytes,
        "train_tokens": domain.train_tokens,
        "validation_tokens": {half: len(domain.found.tokens[half]) for half in HALVES},
        "validation_passages": domain.found.passages,
        "exact_duplicates_dropped": domain.found.exact_duplicates,
        "near_duplicates_dropped": domain.found.near_duplicates,
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _file_metadata(path: Path) -> dict[str, Any]:
    """Size and SHA-256, once the file is safe on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}
