"""From a definition's sources to a prepared folder, made once and then found by its content hash.

The hash covers the definition's data part and, for every source, names, sizes and content of its
files (a Hugging Face data set: its library's fingerprint); so a changed corpus is another data set,
and a moved or touched one is not. The folder appears whole, by renaming: a preparation that is
interrupted, or runs twice at once, leaves no half of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsing.actors.data import tokenizers
from sparsing.actors.data.folders import appearing
from sparsing.actors.data.pipeline.build import Build, Made
from sparsing.actors.data.pipeline.executors import executor_for
from sparsing.actors.data.pipeline.plan import Domain, existing_tokenizer
from sparsing.actors.data.pipeline.progress import Meter, Rows
from sparsing.actors.data.prepared import FORMAT, HALVES, PreparedData, open_prepared
from sparsing.actors.data.sources.files import files_of
from sparsing.actors.data.sources.identity import Identity, digest_of, identities
from sparsing.actors.data.sources.pieces import whole_pieces
from sparsing.actors.data.sources.reading import documents
from sparsing.actors.data.sources.token_files import MOST_IDS, TokenIds, token_documents
from sparsing.actors.data.tokenizer_files import file_of
from sparsing.actors.data.validating.halves import tokens_per_half
from sparsing.actors.data.validating.passages import limited
from sparsing.study.definition.data import Data, Source
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError, SparsingError

Progress = Callable[[str], None]

__all__ = ["PreparedData", "content_hash", "open_prepared", "precheck", "prepare"]

Identities = dict[str, list[Identity]]
"""What identifies the files of each domain's source."""


def prepare(
    study: Study,
    root: Path,
    progress: Progress | None = None,
    *,
    known: Identities | None = None,
    workers: int | None = None,
    rows: Rows | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> PreparedData:
    """The study's data under `root`, made now if they are not there.

    Args:
        study: its definition.
        root: folder of prepared data, which all workers see.
        progress: called with a line for people at times.
        known: what identifies the sources, where that was found out just now.
        workers: tasks at a time where this process is connected to Ray; None: as many as it has
            CPUs. A small corpus is prepared in this process.
        rows: called with rows of the table `preparation` at times.
        stopping: asked after each part whether to stop, with StoppedError.

    Raises DefinitionError for what is wrong with a source, or too little text for the validation
    set.
    """
    say = progress or (lambda line: None)
    root = Path(root)
    found = known or identify(study.data)
    folder = root / content_hash(study.data, found)
    if not folder.exists():
        precheck(study.data)
    try:
        with appearing(folder, say) as made:
            if made:
                _make(study.data, found, root, made, Meter(say, rows, stopping), workers)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise SparsingError(
            f"the disk of {root} is full; what is finished is kept: free some space, then the same "
            "command again goes on"
        ) from error
    return open_prepared(folder)


def _make(
    data: Data, found: Identities, root: Path, folder: Path, meter: Meter, workers: int | None
) -> None:
    """Make all tokens that are missing, and the study's view of them in `folder`."""
    domains = [
        Domain(name=name, number=number, source=source, data=data, identities=found[name])
        for number, (name, source) in enumerate(sorted(data.domains.items()))
    ]
    sizes = (sum(file.size for file in found[domain.name]) for domain in domains)
    most = data.max_bytes
    size = sum(each if most is None else min(each, most) for each in sizes)
    build = Build(domains, root, executor_for(size, workers), meter)
    build.draw()
    key = build.view_key()
    if not _copy_view(root, key, folder):
        build.write(folder)
        tokenizers.save(build.tokenizer, folder / "tokenizer.json")
        _write_metadata(data, build, key, found, folder)
    else:
        _reweigh(data, folder)


def _copy_view(root: Path, key: str, folder: Path) -> bool:
    """Copy the view of another study of the same draw, if there is one; whether there was."""
    for path in sorted(root.glob("*/metadata.json")):
        try:
            metadata = json.loads(path.read_text(encoding="utf-8"))
            if metadata.get("view") == key:
                open_prepared(path.parent)
                shutil.copytree(path.parent, folder, dirs_exist_ok=True)
                return True
        except (OSError, ValueError, SparsingError):
            continue
    return False


def _reweigh(data: Data, folder: Path) -> None:
    """Say in a copied view what the definition says that is no part of a view: weights."""
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["definition"] = data.model_dump(mode="json")
    for name, about in metadata["domains"].items():
        about["weight"] = _share(data, name)
    metadata["made"] = {"parts_tokenized": 0, "view": "copied"}
    path.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    _file_metadata(path)


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
    if data.tokenizer.kind == "file":
        definition["tokenizer"]["path"] = _tokenizer_digest(data)
    found = found or identify(data)
    content = {
        "format": FORMAT,
        "data": definition,
        "sources": {domain: digest_of(each) for domain, each in sorted(found.items())},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _precheck_tokens(source: Source, needed: int, ids: TokenIds | None) -> None:
    if ids is None:
        raise DefinitionError(
            "tokens need the tokenizer that made them; write tokenizer: {kind: file, path: ...}"
        )
    if ids.vocabulary_size > MOST_IDS:
        raise DefinitionError(f"a tokenizer of over {MOST_IDS:,} entries is not supported")
    files, tokens = files_of(source), 0
    for piece in whole_pieces(source, files):
        for document in token_documents(source, files, piece, ids):
            tokens += len(document) + 1
            if tokens >= needed:
                return
    raise DefinitionError(
        f"{tokens} tokens cannot give {needed} validation tokens; lower data.validation.tokens, "
        "or give more"
    )


def _tokenizer_digest(data: Data) -> str:
    try:
        return hashlib.sha256(file_of(data.tokenizer).read_bytes()).hexdigest()
    except OSError as error:
        raise DefinitionError(
            f"data.tokenizer: {file_of(data.tokenizer)} cannot be read: {error.strerror}"
        ) from error


def precheck(data: Data) -> None:
    """What can be said at once, having read only as much text as validation needs.

    Raises DefinitionError with all that is wrong, a line for each: sources that are missing or
    unreadable, or too small for the validation set.
    """
    tokens_per_half(data)
    problems = []
    there = existing_tokenizer(data)
    ids = TokenIds(there.vocabulary_size, there.end_of_document) if there else None
    for domain, source in sorted(data.domains.items()):
        if problem := source_problem(source, data, ids):
            problems.append(f"data.domains.{domain}: {problem}")
    if problems:
        raise DefinitionError("\n".join(problems))


def source_problem(source: Source, data: Data, ids: TokenIds | None) -> str | None:
    """What is wrong with a source, as far as its beginning tells; None if nothing.

    `ids` are those of the study's tokenizer, where it needs no training.
    """
    try:
        _precheck_source(source, data.max_bytes, 2 * tokens_per_half(data), ids)
    except DefinitionError as error:
        return str(error)
    return None


def _precheck_source(
    source: Source, max_bytes: int | None, needed: int, ids: TokenIds | None
) -> None:
    if source.kind == "tokens":
        _precheck_tokens(source, needed, ids)
        return
    size = 0
    for text in limited(documents(source), max_bytes):
        size += len(text.encode())
        if size >= needed:
            return
    raise DefinitionError(
        f"{size} bytes of text cannot give {needed} validation tokens; lower "
        "data.validation.tokens, or give more text"
    )


def _write_metadata(data: Data, build: Build, key: str, found: Identities, folder: Path) -> None:
    """Write metadata.json, with size and SHA-256 of all other files, and flush all to disk."""
    tokens = {
        f"../{name.removesuffix('.bin')}{suffix}": about
        for made in build.made.values()
        for name, part in made.parts
        for suffix, about in part.files.items()
    }
    own = {p.relative_to(folder).as_posix(): _file_metadata(p) for p in _files(folder)}
    metadata = {
        "format": FORMAT,
        "vocabulary_size": build.tokenizer.vocabulary_size,
        "end_of_document": build.tokenizer.end_of_document,
        "tokenizer_fingerprint": build.tokenizer.fingerprint,
        "sequence_tokens": data.sequence_tokens,
        "definition": data.model_dump(mode="json"),
        "view": key,
        "domains": {
            d.name: _domain_metadata(d, build.made[d.name], found[d.name]) for d in build.domains
        },
        "made": {"parts_tokenized": sum(made.tokenized for made in build.made.values())},
        "files": own | tokens,
    }
    path = folder / "metadata.json"
    path.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    _file_metadata(path)


def _share(data: Data, domain: str) -> float:
    total = sum(source.weight for source in data.domains.values())
    return data.domains[domain].weight / total


def _domain_metadata(domain: Domain, made: Made, found: list[Identity]) -> dict[str, Any]:
    broken = made.broken
    return {
        "weight": _share(domain.data, domain.name),
        "documents": made.documents,
        "bytes": made.bytes,
        "train_tokens": domain.train_tokens,
        "train_files": [f"../{name}" for name, _ in made.parts],
        "validation_tokens": {half: len(domain.found.tokens[half]) for half in HALVES},
        "validation_passages": domain.found.passages,
        "exact_duplicates_dropped": domain.found.exact_duplicates,
        "near_duplicates_dropped": domain.found.near_duplicates,
        "broken_rows": broken.broken_rows,
        "broken_files": broken.broken_files,
        "broken": broken.broken,
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
