"""What the law service says of one study: documents with a time to live."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.refitting.newest import laws_document, read_curves
from sparsing.analysis.service.documents import Document
from sparsing.analysis.service.ttl_cache import TimedCache
from sparsing.study.definition.values import token_count
from sparsing.study.plan.runs import Run, find_run, plan_runs
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.tables import TABLES
from sparsing.study.store.training_data import data_document

if TYPE_CHECKING:
    from sparsing.analysis.service.live import LiveStudy

STATUS_SECONDS, LAWS_SECONDS, LIVE_SECONDS = 0.5, 0.5, 0.5
REPORT_SECONDS, ADVICE_SECONDS = 5.0, 5.0
MOST_ADVICES, MOST_RUNS = 16, 64
"""Answers to queries for advice, and documents of single runs, that are cached."""
HTML = "text/html"
_DRAWING = threading.Lock()
"""matplotlib draws in one thread at a time."""


class QueryParameters(BaseModel):
    """Base of all queries: unknown parameters are errors."""

    model_config = ConfigDict(extra="forbid")


class AdviceQuery(QueryParameters):
    """The target quantity and its precision, as in `sparsing advise`."""

    precision: float = Field(0.1, description="Half width of the 95 % interval to reach.")
    absolute: bool = Field(False, description="Precision is in the quantity's own unit.")
    tokens: str | None = Field(None, description="Target: the activation ratio at 8e11 or 800B.")
    ratio: float | None = Field(None, description="Target: the tokens to this activation ratio.")
    scale: str | None = Field(None, description="Also predict models of this scale, as 2.4B.")


class ServedStudy:
    """What the service says of one study."""

    def __init__(self, followed: FollowedStudy) -> None:
        self.followed, self.store = followed, followed.store
        self._runs = plan_runs(self.store.study)
        self._status = TimedCache(followed.status.read, STATUS_SECONDS)
        self._status_text = TimedCache(self._status_document, STATUS_SECONDS)
        self._laws = self._cached(lambda: Document.json(laws_document(self.store)), LAWS_SECONDS)
        self._report = self._cached(self._draw, REPORT_SECONDS)
        self._glance = TimedCache(lambda: self._live.glance(self.status()), LIVE_SECONDS)
        self._page = TimedCache(
            lambda: Document.json(self._live.study()),
            LIVE_SECONDS,
            lambda: self._live.version(),
        )
        self._advice = lru_cache(MOST_ADVICES)(self._cached_advice)
        self._run = lru_cache(MOST_RUNS)(self._cached_run)

    def status(self) -> StudyStatus:
        """How the study stands."""
        return self._status.get()

    def planned(self, run: str) -> Run:
        """The run of an id, or NotFoundError."""
        return find_run(self._runs, run, self.store.study_id)

    def run(self, run: str) -> Document:
        """All of one run: status, plan, measured curve, training loss, newest fits and lines."""
        return self._run(self.planned(run).id).get()

    def status_document(self) -> Document:
        """The document of `sparsing status --json`."""
        return self._status_text.get()

    def _status_document(self) -> Document:
        data = data_document(self.store.place, self._runs)
        return Document.json(self.status().as_json() | {"data": data})

    def laws(self) -> Document:
        """The document of `sparsing laws --json`."""
        return self._laws.get()

    def report(self) -> Document:
        """The page of `sparsing report`."""
        return self._report.get()

    def live(self) -> Document:
        """What the live page shows."""
        return self._page.get()

    def glance(self) -> dict[str, Any]:
        """The study in a few words and numbers, for the list of all."""
        return self.status().summary() | self._glance.get()

    def advice(self, asked: AdviceQuery) -> Document:
        """The document of `sparsing advise --json`."""
        target: dict[str, Any] = asked.model_dump()
        if asked.tokens is not None:
            target["tokens"] = token_count(asked.tokens, f"tokens = {asked.tokens}")
        return self._advice(**target).get()

    # Report, page and advice load most of scipy and matplotlib: only where they are asked for.

    @cached_property
    def _live(self) -> LiveStudy:
        from sparsing.analysis.service.live import LiveStudy

        return LiveStudy(self.followed)

    def _draw(self) -> Document:
        from sparsing.analysis.report.report import render_report

        with _DRAWING:
            return Document.of(render_report(self.store), HTML)

    def _cached_advice(self, **target: Any) -> TimedCache[Document]:
        from sparsing.analysis.forecasting.advice import advise

        return self._cached(
            lambda: Document.json(advise(self.store, **target).as_dict()), ADVICE_SECONDS
        )

    def _cached_run(self, run: str) -> TimedCache[Document]:
        return TimedCache(
            lambda: Document.json(self._run_content(run)),
            STATUS_SECONDS,
            lambda: {table: self.store.state(table, run) for table in TABLES},
        )

    def _run_content(self, run: str) -> dict[str, Any]:
        (status,) = (each for each in self.status().runs if each.run.id == run)
        curve = read_curves(self.store, [run]).get(run)
        return {
            "study": self.store.study_id,
            "status": status.as_json(),
            "plan": asdict(self.planned(run)),
            "curve": asdict(curve) if curve else None,
            "losses": self._live.losses(run),
            "fits": laws_document(self.store, run)["fits"],
            "lines": self._live.lines(run),
        }

    def _cached(self, make: Callable[[], Document], seconds: float) -> TimedCache[Document]:
        return TimedCache(make, seconds, self.followed.version)
