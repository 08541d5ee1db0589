"""What is known of each run from a table, read again only for the runs that have new rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from study.store import StudyStore

SETTLED_NS = 2 * 10**9
"""A folder that changed later than this before a look may change again without a new time."""

T = TypeVar("T")


class ByRun(Generic[T]):
    """What `read` knows of each run from a table; for any number of threads.

    read: from ids of runs to what is known of each of them, where anything is.
    """

    def __init__(
        self, store: StudyStore, table: str, read: Callable[[list[str]], dict[str, T]]
    ) -> None:
        self._store, self._table, self._read = store, table, read
        self._known: dict[str, T] = {}
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def now(self) -> dict[str, T]:
        """By run, as the store stands; runs without rows are left out."""
        with self._lock:
            settled = time.time_ns() - SETTLED_NS
            times = self._store.changed_ns(self._table)
            changed = [run for run, at in times.items() if at != self._seen.get(run)]
            if changed:
                self._known = self._known | self._read(changed)
            self._seen = {run: at for run, at in times.items() if at < settled}
            return self._known
