"""How long rows wait until they are durable, as far as the store itself tells."""

from __future__ import annotations

from contextlib import suppress

import polars as pl

from sparsing.study.store.format.partition import LOG, list_names
from sparsing.study.store.io.objects import ObjectPath, Place
from sparsing.study.store.study_store import StudyStore


def read_commit_delays(store: StudyStore, runs: list[str]) -> dict[str, float]:
    """Seconds from the making of the oldest row of a run's newest commit of steps to its writing.

    By two clocks: that of the machine that made the row, and that of the store's file system. Runs
    whose rows are all sealed, or are written at just this moment, are left out.
    """
    return {run: delay for run in runs if (delay := _delay(store, run)) is not None}


def _delay(store: StudyStore, run: str) -> float | None:
    folder = store.partition("steps", run)
    written = _log_times(folder)
    if not written:
        return None
    made = store.scan("steps", run, newest=True).select(pl.col("written_at").min())
    oldest = made.collect().item()
    if oldest is None or _log_times(folder) != written:
        return None
    return max(0.0, max(written.values()) - oldest.timestamp())


def _log_times(folder: Place) -> dict[str, float]:
    """When each live log of a partition was last written to."""
    if isinstance(folder, ObjectPath):
        objects = folder.list()[0]
        return {name: stat.st_mtime for name, stat in objects.items() if LOG.fullmatch(name)}
    times = {}
    for name in list_names(folder):
        if LOG.fullmatch(name):
            with suppress(FileNotFoundError):  # sealed since
                times[name] = (folder / name).stat().st_mtime
    return times
