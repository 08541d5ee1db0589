"""Plain documents from the files of the fetched packages, one function for each format."""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def text_files(pattern: str) -> Callable[[Path], Iterator[str]]:
    """A document for each file that the glob pattern finds, in natural order."""

    def documents(folder: Path) -> Iterator[str]:
        for path in sorted(folder.glob(pattern), key=_natural):
            yield path.read_text(encoding="utf-8")

    return documents


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key: numbers in a name count as numbers."""
    return [(int(part or 0), word) for word, part in re.findall(r"(\D*)(\d*)", path.name)]


PAGE_CHARACTERS = 4096
_SOURCE_TAG = re.compile(r"^ *\[[^\]]*(?:Webster|PJC|WordNet|AS)[^\]]*\]$\n?", re.MULTILINE)


def dictionary_pages(folder: Path) -> Iterator[str]:
    """GCIDE: consecutive entries, about 4,000 characters of them to a document.

    The tags of each entry's source ([1913 Webster]) and the files' headers are left out.
    """
    path = folder / "usr/share/dictd/gcide.dict.dz"
    with gzip.open(path, "rt", encoding="cp1252", errors="replace") as file:
        text = file.read()
    # An entry starts at the margin with its headword and pronunciation; its body is indented.
    entries = re.findall(r"^\S.*\\.*\n(?:(?: .*)?\n)*", text, flags=re.MULTILINE)
    page: list[str] = []
    for entry in entries:
        page.append(re.sub(r"\n{3,}", "\n\n", _SOURCE_TAG.sub("", entry)).strip())
        if sum(map(len, page)) >= PAGE_CHARACTERS:
            yield "\n\n".join(page)
            page = []
    if page:
        yield "\n\n".join(page)


METAMATH_DATABASES = ("set", "iset", "nf", "ql", "hol")
_METAMATH_HEADING = re.compile(r"^\$\(\s*\n(?=(?:####|#\*#\*|=-=-|-\.-\.))", re.MULTILINE)
_COMPRESSED_PROOF = re.compile(r"\$=\s+\(([^)]*)\)[A-Z?\s]+\$\.")


def metamath_sections(folder: Path) -> Iterator[str]:
    """Metamath databases, a document for each section.

    Of a compressed proof only the labels that it rests on are kept: its steps are letters whose
    meaning depends on their count, noise to a model of text.
    """
    for name in METAMATH_DATABASES:
        path = folder / f"usr/share/metamath/databases/{name}.mm"
        text = path.read_text(encoding="utf-8")
        text = _COMPRESSED_PROOF.sub(lambda proof: f"$= ({_one_space(proof[1])}) $.", text)
        # The first part is the file's head: contributors, licence, notes on editing.
        for section in _METAMATH_HEADING.split(text)[1:]:
            yield "$(\n" + section


def _one_space(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def poems_by_author(folder: Path) -> Iterator[str]:
    """Poems of Tang and Song, each author's consecutive poems in one document."""
    paths = [
        path
        for dynasty in ("tang", "song")
        for path in sorted(folder.glob(f"package/dist/quantangshi/poet.{dynasty}.*"), key=_natural)
    ]
    poems = itertools.chain.from_iterable(_poems(path) for path in paths)
    for author, group in itertools.groupby(poems, key=lambda poem: poem["author"]):
        texts = ["\n".join([poem["title"], *poem["paragraphs"]]) for poem in group]
        yield "\n\n".join([author, *texts])


def _poems(path: Path) -> list[dict[str, Any]]:
    poems = json.loads(path.read_text(encoding="utf-8"))
    return [poem for poem in poems if poem["paragraphs"]]
