"""Where fetched corpora lie: a folder of the user, one sub-folder per corpus."""

from __future__ import annotations

import os
from pathlib import Path

from study.errors import DefinitionError

DOCUMENTS = "documents.jsonl"
"""One JSON object per document, its text under the key `text`."""


def corpora_folder() -> Path:
    """`SPARSING_DATA`, or `~/.cache/sparsing/corpora`."""
    chosen = os.environ.get("SPARSING_DATA")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache/sparsing/corpora"


def corpus_file(name: str) -> Path:
    """The documents of the fetched corpus `name`; DefinitionError if it was not fetched."""
    path = corpora_folder() / name / DOCUMENTS
    if not path.is_file():
        raise DefinitionError(
            f"source fetched {name}: not in {corpora_folder()}; run 'sparsing data fetch {name}'"
        )
    return path
