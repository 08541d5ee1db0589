"""From a definition's sources to a prepared folder, made once and then found by its content hash.

The hash covers the definition's data part and, for every source, names, sizes and content of its
files (a Hugging Face data set: its library's fingerprint); so a changed corpus is another data set,
and a moved or touched one is not. The folder appears whole, by renaming: a preparation that is
interrupted, or runs twice at once, leaves no half of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sparsing.actors.data import tokenizers
from sparsing.actors.data.build import Domain, Progress, build
from sparsing.actors.data.folders import appearing
from sparsing.actors.data.passages import limited
from sparsing.actors.data.prepared import FORMAT, HALVES, PreparedData, open_prepared
from sparsing.actors.data.sources.identity import Identity, digest_of, identities
from sparsing.actors.data.sources.reading import documents
from sparsing.actors.data.validation import tokens_per_half
from sparsing.study.definition.data import Data, Source
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError

__all__ = ["PreparedData", "content_hash", "open_prepared", "precheck", "prepare"]

Identities = dict[str, list[Identity]]
"""What identifies the files of each domain's source."""


def prepare(
    study: Study, root: Path, progress: Progress | None = None, *, known: Identities | None = None
) -> PreparedData:
    """The study's data under `root`, made now if they are not there.

    `progress` is called with a line for people at each part. `known` is what identifies the
    sources, where that was found out just now. Raises DefinitionError for what is wrong with a
    source, or too little text for the validation set.
    """
    say = progress or (lambda line: None)
    precheck(study.data)
    root = Path(root)
    found = known or identify(study.data)
    folder = root / content_hash(study.data, found)
    with appearing(folder, say) as made:
        if made:
            tokenizer, domains = build(study.data, made, root / "tokenizers", say)
            tokenizers.save(tokenizer, made / "tokenizer.json")
            _write_metadata(study.data, tokenizer, domains, found, made)
    return open_prepared(folder)


def identify(data: Data) -> Identities:
    """What identifies each domain's source; DefinitionError with all that cannot be read."""
    problems: list[str] = []
    found: Identities = {}
    for domain, source in sorted(data.domains.items()):
        try:
            found[domain] = identities(source)
        except DefinitionError as error:
            problems.append(f"data.domains.{domain}: {error}")
    if problems:
        raise DefinitionError("\n".join(problems))
    return found


def content_hash(data: Data, found: Identities | None = None) -> str:
    """What a prepared folder is called: a hash of the definition's data and its sources' content.

    Where a source lies is no part of it.
    """
    definition = data.model_dump(mode="json")
    for source in definition["domains"].values():
        del source["path"]
    found = found or identify(data)
    content = {
        "format": FORMAT,
        "data": definition,
        "sources": {domain: digest_of(each) for domain, each in sorted(found.items())},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def precheck(data: Data) -> None:
    """What can be said at once, having read only as much text as validation needs.

    Raises DefinitionError with all that is wrong, a line for each: sources that are missing or
    unreadable, or too small for the validation set.
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
    size = 0
    for text in limited(documents(source), max_bytes):
        size += len(text.encode())
        if size >= needed:
            return
    raise DefinitionError(
        f"{size} bytes of text cannot give {needed} validation tokens; lower "
        "data.validation.tokens, or give more text"
    )


def _write_metadata(
    data: Data,
    tokenizer: tokenizers.Tokenizer,
    domains: list[Domain],
    found: Identities,
    folder: Path,
) -> None:
    """Write metadata.json, with size and SHA-256 of all other files, and flush all to disk."""
    metadata = {
        "format": FORMAT,
        "vocabulary_size": tokenizer.vocabulary_size,
        "end_of_document": tokenizer.end_of_document,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "sequence_tokens": data.sequence_tokens,
        "definition": data.model_dump(mode="json"),
        "domains": {d.name: _domain_metadata(d, found[d.name]) for d in domains},
        "files": {p.relative_to(folder).as_posix(): _file_metadata(p) for p in _files(folder)},
    }
    path = folder / "metadata.json"
    path.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    _file_metadata(path)


def _domain_metadata(domain: Domain, found: list[Identity]) -> dict[str, Any]:
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
        "source": digest_of(found),
        "source_files": len(found),
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _file_metadata(path: Path) -> dict[str, Any]:
    """Size and SHA-256, once the file is safe on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}
