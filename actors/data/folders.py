"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STALE_SECONDS = 24 * 3600
"""Temporary folders older than this were left by a process that was killed."""


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends, and vanishes if it raises.

    If `folder` appeared meanwhile (another process was quicker), that one stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder.parent)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        yield made
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():
                raise


def _remove_stale(parent: Path) -> None:
    for path in parent.glob(".making-*"):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
