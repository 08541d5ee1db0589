"""The law service as an actor: refits what has new rows, and serves /metrics from the store."""

from __future__ import annotations

from analysis.refit import Refitter
from study.exporter import serve_metrics
from study.store import StudyStore
from study.version import code_version


class LawService:
    """Follows one study's store; the controller asks it to refit about once a second."""

    def __init__(self, study_path: str, metrics_port: int) -> None:
        self.store = StudyStore.open(".", study_path)
        self._refitter = Refitter(self.store, code_version=code_version())
        self._server = serve_metrics(self.store, metrics_port)

    def metrics_port(self) -> int:
        """Port on this node's loopback at which Prometheus finds /metrics."""
        return self._server.server_port

    def refit(self) -> int:
        """Refit the runs with new measurements; returns the number of fits appended."""
        return self._refitter.refit()
