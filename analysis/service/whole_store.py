"""All studies of a store, served as they come and go."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack

from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.service.app import Served
from sparsing.analysis.service.targets import announced
from sparsing.study.errors import SparsingError
from sparsing.study.store.io.objects import Place
from sparsing.study.store.study_store import StudyStore, list_studies

log = logging.getLogger("sparsing.laws")

LOOK_SECONDS = 5.0
"""Between looks at which studies there are."""


class WholeStore:
    """Keeps what is served in line with a store, which need not be there yet.

    A context manager: at its end no study is followed any more.
    """

    def __init__(self, root: str | Place, served: Served, refits: bool, host: str) -> None:
        self._root, self._served, self._refits, self._host = root, served, refits, host
        self._followed: dict[str, ExitStack] = {}
        self._unreadable: dict[str, str] = {}
        self._next_look = 0.0

    def __enter__(self) -> WholeStore:
        return self

    def __exit__(self, *_: object) -> None:
        for study_id in list(self._followed):
            self._drop(study_id)

    def look(self, port: int) -> None:
        """Follow studies that have come, and drop those that are gone, if it is time to look.

        Args:
            port: where they are served.
        """
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        there = list_studies(self._root)
        for study_id in [each for each in self._followed if each not in there]:
            self._drop(study_id)
        for study_id in there:
            if study_id not in self._followed:
                self._follow(study_id, port)

    def _follow(self, study_id: str, port: int) -> None:
        try:
            study = FollowedStudy(StudyStore.open(self._root, study_id), refits=self._refits)
        except SparsingError as error:
            if self._unreadable.get(study_id) != str(error):
                log.warning("%s is not served: %s", study_id, error)
            self._unreadable[study_id] = str(error)
            return
        running = ExitStack()
        running.enter_context(study)
        running.enter_context(announced([study.store], self._host, port))
        self._followed[study_id] = running
        self._served.follow(study)

    def _drop(self, study_id: str) -> None:
        self._served.pop(study_id, None)
        self._followed.pop(study_id).close()
