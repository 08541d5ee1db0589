"""A study that is followed: refitted on a thread of its own, and read by any number of others."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

from sparsing.analysis.refitting.law_points import read_law_points
from sparsing.analysis.refitting.refit import Refitter
from sparsing.study.status.exporter import StudyMetrics
from sparsing.study.status.study_status import StatusReader
from sparsing.study.store.by_run import ByRun
from sparsing.study.store.study_store import DEFINITION, StudyStore
from sparsing.study.store.tables import TABLES
from sparsing.study.version import code_version

log = logging.getLogger("sparsing.laws")

TURN_SECONDS = 1.0
"""Time between two looks at a study."""
BEHIND_SECONDS = 10.0
"""Behind: a measurement older than this is in no fit, or the last look is older than this."""


class FollowedStudy:
    """Looks at a study once a second, and refits what is new unless it only `refits=False` watches.

    A context manager: the thread runs inside.
    """

    def __init__(self, store: StudyStore, *, refits: bool = True) -> None:
        self.store, self.refits = store, refits
        self.status = StatusReader(store)
        self._refitter = Refitter(store, code_version=code_version())
        laws = ByRun(store, "fits", partial(read_law_points, store))
        self.metrics = StudyMetrics(store, self.status.read, self._refitter.lag_seconds, laws.now)
        self._one_turn = threading.Lock()
        self._stopping = threading.Event()
        self._error: str | None = None
        self._looked_at: float | None = None
        self._made = time.monotonic()
        self._thread = threading.Thread(target=self._follow, name="refitter", daemon=True)

    def __enter__(self) -> FollowedStudy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._refitter.stop()
        self._thread.join()

    def refit(self) -> int:
        """Refit what is new, now; returns the number of fits appended.

        Raises StoreError and OSError where the store cannot be read or written.
        """
        with self._one_turn:
            fits = self._refitter.refit()
            self._looked_at, self._error = time.monotonic(), None
            return fits

    def problem(self) -> str | None:
        """Why the service of this study is not ready; None when it is."""
        if not (self.store.place / DEFINITION).is_file():
            return f"there is no {self.store.place / DEFINITION} any more"
        if not self._thread.is_alive():
            return "the thread that follows the store has ended"
        if self._error:
            return self._error
        if self._looked_at is None:
            return "the first look at the study has not ended yet"
        since = time.monotonic() - self._looked_at
        behind = max(since, (self._refitter.lag_seconds() or 0.0) if self.refits else 0.0)
        return f"fits are {behind:.0f} s behind" if behind > BEHIND_SECONDS else None

    def trouble(self) -> str | None:
        """`problem`, but not for a first look that has just begun, which is no trouble."""
        young = time.monotonic() - self._made < BEHIND_SECONDS
        nothing_yet = self._looked_at is None and self._error is None
        return None if young and nothing_yet else self.problem()

    def version(self) -> object:
        """Differs from what it was when a table got new rows since."""
        return {table: self.store.states(table) for table in TABLES}

    def _follow(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._turn()
            except Exception as error:  # said by `problem`, and tried again
                self._note(error)
            self._stopping.wait(max(0.0, began + TURN_SECONDS - time.monotonic()))

    def _turn(self) -> None:
        if self._looked_at is None:
            self.metrics.now({})  # so that the first scrape has little to read
        if self.refits:
            self.refit()
        else:
            with self._one_turn:
                self._refitter.look()
            self._looked_at, self._error = time.monotonic(), None

    def _note(self, error: Exception) -> None:
        said = str(error) or type(error).__name__
        if said != self._error:
            log.warning("%s: %s", self.store.study_id, said)
        self._error = said
