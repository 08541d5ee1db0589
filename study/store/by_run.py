"""What is known of each run from a table, read again only for the runs that have new rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from sparsing.study.store.format.partition import State
from sparsing.study.store.study_store import StudyStore

T = TypeVar("T")
States = dict[str, dict[str, State]]
"""By table, the state of each run: how a store stood when it was last asked for each table."""


class ByRun(Generic[T]):
    """What `read` knows of each run from a table; for any number of threads.

    read: from ids of runs to what is known of each of them, where anything is.
    """

    def __init__(
        self, store: StudyStore, table: str, read: Callable[[list[str]], dict[str, T]]
    ) -> None:
        self._store, self._table, self._read = store, table, read
        self._known: dict[str, T] = {}
        self._seen: dict[str, State] = {}
        self._lock = threading.Lock()

    def now(self, seen: States | None = None) -> dict[str, T]:
        """By run, as the store stands; runs without rows are left out.

        seen: shared by those who are asked at one moment, so that a table is listed once.
        """
        with self._lock:
            seen = {} if seen is None else seen
            if self._table not in seen:
                seen[self._table] = self._store.states(self._table)
            states = seen[self._table]
            changed = [run for run, state in states.items() if state != self._seen.get(run)]
            if changed:
                self._known = self._known | self._read(changed)
            self._seen = states
            return self._known
