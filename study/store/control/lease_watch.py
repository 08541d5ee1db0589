"""Whether a controller works on a study, told by who only reads its store.

A lease that is renewed is held; one that stays as it is for its whole span, by the watcher's own
clock, is not. No clock is compared with that of another machine, so that a first look at a lease
cannot tell how old it is: it counts as held until its span is over.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from sparsing.study.errors import SparsingError
from sparsing.study.store.control.lease import POLL_SECONDS, Record, now_seconds, study_cell
from sparsing.study.store.io.cells import FolderCell
from sparsing.study.store.io.objects import Place


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a watcher knows of a study's lease."""

    record: Record | None = None
    """None where no controller has ever worked on the study."""
    age_seconds: float = 0.0
    """Seconds for which the watcher has seen it unchanged."""
    renewed: bool = False
    """Whether the watcher has seen it change."""
    problem: str | None = None
    """Why the lease cannot be read, where it cannot."""

    @property
    def held(self) -> bool:
        """Whether a controller is at work; may be wrong for the lease's span after a first look."""
        record = self.record
        if record is None or record.released or record.process.gone:
            return False
        return self.age_seconds < record.seconds

    @property
    def certain(self) -> bool:
        """Whether `held` stands on what was seen, not on a first look."""
        return self.renewed or not self.held

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        record = self.record
        return {
            "at_work": self.held,
            "owner": record.owner if record else None,
            "token": record.token if record else None,
            "problem": self.problem,
        }


class LeaseWatch:
    """Looks at the lease of one study again and again; for any number of threads."""

    def __init__(self, study_path: str | Place) -> None:
        self._cell = study_cell(study_path)
        self._seen: tuple[bytes, str] | None = None
        self._since = now_seconds()
        self._changed = False
        self._lock = threading.Lock()

    def look(self) -> Sight:
        """What the store says now."""
        with self._lock:
            found, now = self._cell.read(), now_seconds()
            if found != self._seen:
                self._changed = self._seen is not None
                self._seen, self._since = found, now
            age_seconds = now - self._since
        try:
            record = Record.from_bytes(found[0]) if found else None
        except SparsingError as error:
            return Sight(problem=str(error))
        return Sight(record=record, age_seconds=age_seconds, renewed=self._changed)

    def look_until_certain(self) -> Sight:
        """What the store says, after a sign of the holder; waits for it, at most its span.

        In a folder a lease that was written within its span by the file system's clock is such a
        sign: only a clock that is wrong by as much as the holder has been dead for deceives it, and
        no longer than for the span.
        """
        while not (sight := self.look()).certain and not self._is_fresh(sight):
            time.sleep(POLL_SECONDS)
        return sight

    def _is_fresh(self, sight: Sight) -> bool:
        if not isinstance(self._cell, FolderCell) or sight.record is None:
            return False
        written = self._cell.written_at()
        return written is not None and 0.0 <= time.time() - written < sight.record.seconds


def is_held(study_path: str | Place) -> bool:
    """Whether a controller works on the study; waits for a sign of it, at most the lease's span.

    Raises:
        SparsingError: the lease is damaged.
    """
    watch = LeaseWatch(study_path)
    while not (sight := watch.look()).certain:
        time.sleep(POLL_SECONDS)
    if sight.problem:
        raise SparsingError(sight.problem)
    return sight.held
