"""The law service as an actor: refits what has new rows, and serves the study from its store."""

from __future__ import annotations

from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.report.report import write_report
from sparsing.analysis.service.app import application
from sparsing.analysis.service.web.server import Server
from sparsing.study.store.study_store import StudyStore

LOOPBACK = "127.0.0.1"


class LawService:
    """Follows one study's store, and serves it on this node's loopback as `sparsing serve` does."""

    def __init__(self, study_path: str, port: int) -> None:
        self._store = StudyStore.open(".", study_path)
        self._study = FollowedStudy(self._store)
        self._server = Server(application([self._study]), LOOPBACK, port)
        self._server.__enter__()
        self._study.__enter__()

    def url(self) -> str:
        """Address of the service on this node."""
        return self._server.url

    def refit(self) -> int:
        """Refit what is new, now; returns the number of fits appended. Raises StoreError."""
        return self._study.refit()

    def write_report(self) -> str:
        """Write the study's report, and return its path."""
        return str(write_report(self._store))
