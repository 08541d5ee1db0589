"""Removing a study from a store: all of it, or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sparsing.study.errors import SparsingError
from sparsing.study.store.control.lease_watch import is_held
from sparsing.study.store.io.durable import sync_folder

REMOVING = ".removing-"
"""Start of the name of a study's folder while it is removed: it is no study any more."""


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; links are counted as links."""
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:  # a writer has just replaced it
                continue
    return total


def remove_study(folder: Path) -> None:
    """Remove a study's folder; prepared data, which studies share, stay.

    The folder gets another name first, so that a removal that is interrupted leaves no half study.

    Raises:
        SparsingError: a controller is at work on the study.
    """
    if is_held(folder):
        raise SparsingError(
            f"{folder.name} is at work; sparsing stop {folder.name} ends it first",
            code="study_at_work",
            study=folder.name,
        )
    hidden = folder.with_name(f"{REMOVING}{folder.name}")
    if hidden.exists():
        shutil.rmtree(hidden)
    folder.rename(hidden)
    sync_folder(folder.parent)
    shutil.rmtree(hidden)
