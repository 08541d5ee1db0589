"""The scripts and styles of the pages, as they come with the package."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from sparsing.analysis.service.documents import Document

FOLDER = Path(__file__).parent / "web/page"
TYPES = {".js": "text/javascript", ".css": "text/css"}


@lru_cache(1)
def assets() -> dict[str, Document]:
    """The scripts and styles by their names, as they are in the package."""
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in TYPES)
    return {path.name: Document.of(path.read_bytes(), TYPES[path.suffix]) for path in files}


def assets_version() -> str:
    """Differs where scripts or styles do: a page that stays open for weeks loads itself again."""
    tags = "".join(document.tag for document in assets().values())
    return hashlib.blake2b(tags.encode(), digest_size=8).hexdigest()
