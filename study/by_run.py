"""What is known of each run from a table, read again only for the runs that have new rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import polars as pl

from study.store import StudyStore

T = TypeVar("T")


class ByRun(Generic[T]):
    """What `read` makes of the rows of each run; for any number of threads.

    read: from rows of some runs to what is known of each of them. `newest` gives it only the
    last commit of each stream.
    """

    def __init__(
        self,
        store: StudyStore,
        table: str,
        read: Callable[[pl.LazyFrame], dict[str, T]],
        *,
        newest: bool = False,
    ) -> None:
        self._store, self._table, self._read, self._newest = store, table, read, newest
        self._known: dict[str, T] = {}
        self._seen: dict[str, frozenset[tuple[str, int]]] = {}
        self._lock = threading.Lock()

    def now(self) -> dict[str, T]:
        """By run, as the store stands; runs without rows are left out."""
        with self._lock:
            states = self._store.states(self._table)
            changed = [run for run, state in states.items() if state != self._seen.get(run)]
            if changed:
                rows = self._store.scan(self._table, changed, newest=self._newest)
                self._known = self._known | self._read(rows)
            self._seen = states
            return self._known
