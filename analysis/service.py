"""The law service over HTTP: studies, runs, laws, predictions, advice, tables, and /metrics.

One application, whoever holds it: `sparsing serve`, or the Ray actor beside a study's runs. It
reads the stores alone, and its documents are those of the commands of the same names. What it
serves is at most about a second old; the report some seconds more.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, ConfigDict, Field

from analysis.commands import laws_document, predictions_document
from analysis.follow import FollowedStudy
from analysis.guard import Guard
from analysis.kept import Kept
from analysis.refit import read_curves
from analysis.service_errors import ERRORS, handle_errors
from analysis.table_stream import stream_table
from study.errors import DefinitionError, NotFoundError
from study.exporter import StoreCollector
from study.plan import Run, find_run, plan_runs
from study.status import StudyStatus
from study.values import token_count

STATUS_SECONDS, LAWS_SECONDS, REPORT_SECONDS, ADVICE_SECONDS = 0.5, 0.5, 5.0, 5.0
ADVICES = 16
"""So many wishes for advice are kept."""
ARROW = "application/vnd.apache.arrow.stream"
_DRAWING = threading.Lock()
"""matplotlib draws in one thread at a time."""


class Asked(BaseModel):
    """Base of all queries: unknown parameters are errors."""

    model_config = ConfigDict(extra="forbid")


class PredictionAsked(Asked):
    """A run, and either tokens or a ratio."""

    run: str = Field(description="Id of the run.")
    tokens: str | None = Field(None, description="Predict the activation ratio at 8e11 or 800B.")
    ratio: float | None = Field(None, description="Predict the tokens to this activation ratio.")


class AdviceAsked(Asked):
    """The wished quantity and its precision, as in `sparsing advise`."""

    precision: float = Field(0.1, description="Wished half width of the 95 % interval.")
    absolute: bool = Field(False, description="Precision is in the quantity's own unit.")
    tokens: str | None = Field(None, description="Wish for the activation ratio at 8e11 or 800B.")
    ratio: float | None = Field(None, description="Wish for the tokens to this activation ratio.")
    scale: str | None = Field(None, description="Also predict models of this scale, as 2.4B.")


class TableAsked(Asked):
    """A part of a table."""

    columns: str | None = Field(None, description="Names of columns with commas between.")
    run: str | None = Field(None, description="Rows of this run only.")
    limit: int | None = Field(None, ge=0, description="At most so many rows.")


class ServedStudy:
    """What the service says of one study."""

    def __init__(self, followed: FollowedStudy) -> None:
        self.followed, self.store = followed, followed.store
        self._runs = plan_runs(self.store.study)
        self._status = Kept(followed.status.read, STATUS_SECONDS)
        self._status_text = Kept(lambda: _text(self.status().as_json()), STATUS_SECONDS)
        self._laws = Kept(lambda: _text(laws_document(self.store)), LAWS_SECONDS, followed.version)
        self._report = Kept(self._draw, REPORT_SECONDS, followed.version)
        self._advice = lru_cache(ADVICES)(self._kept_advice)

    def status(self) -> StudyStatus:
        """How the study stands."""
        return self._status.get()

    def run(self, run: str) -> dict[str, Any]:
        """All of one run: status, plan, measured curve and newest fits."""
        planned = self.planned(run)
        (status,) = (each for each in self.status().runs if each.run.id == run)
        curve = read_curves(self.store, [run]).get(run)
        return {
            "study": self.store.study_id,
            "status": status.as_json(),
            "plan": asdict(planned),
            "curve": asdict(curve) if curve else None,
            "fits": laws_document(self.store, run)["fits"],
        }

    def planned(self, run: str) -> Run:
        """The run of an id, or NotFoundError."""
        return find_run(self._runs, run, self.store.study_id)

    def status_text(self) -> str:
        """The document of `sparsing status --json`, as JSON."""
        return self._status_text.get()

    def laws_text(self) -> str:
        """The document of `sparsing laws --json`, as JSON."""
        return self._laws.get()

    def report(self) -> str:
        """The page of `sparsing report`."""
        return self._report.get()

    def advice(self, asked: AdviceAsked) -> dict[str, Any]:
        """The document of `sparsing advise --json`."""
        wish: dict[str, Any] = asked.model_dump()
        if asked.tokens is not None:
            wish["tokens"] = token_count(asked.tokens, f"tokens = {asked.tokens}")
        return self._advice(**wish).get()

    # Report and advice load most of scipy and matplotlib: only where they are asked for.

    def _draw(self) -> str:
        from analysis.report import render_report

        with _DRAWING:
            return render_report(self.store)

    def _kept_advice(self, **wish: Any) -> Kept[dict[str, Any]]:
        from analysis.advice import advise

        return Kept(
            lambda: advise(self.store, **wish).as_dict(), ADVICE_SECONDS, self.followed.version
        )


def application(studies: Sequence[FollowedStudy], token: str | None = None) -> FastAPI:
    """The service of studies, by their ids; with a token, for those who have it.

    Their threads run where the caller lets them: the application only reads.
    """
    served = {each.store.study_id: ServedStudy(each) for each in studies}
    app = FastAPI(
        title="sparsing",
        version=metadata.version("sparsing"),
        description="Scaling studies of activation sparsity: runs, laws, predictions, tables.",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    app.add_middleware(Guard, token=token)
    handle_errors(app)
    _add_pages(app, served)
    _add_health(app, served)
    _add_documents(app, served)
    return app


def _add_pages(app: FastAPI, served: dict[str, ServedStudy]) -> None:
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    ).get_template("index.html")

    @app.get("/", response_class=HTMLResponse, tags=["pages"])
    def index() -> str:
        """The studies, with links to what is served of them."""
        return template.render(studies=[each.status().summary() for each in served.values()])

    @app.get("/studies/{study}/report", response_class=HTMLResponse, tags=["pages"])
    def report(study: str) -> str:
        """The report of a study, as its store stood some seconds ago."""
        return _find(served, study).report()


def _add_health(app: FastAPI, served: dict[str, ServedStudy]) -> None:
    registry = CollectorRegistry()
    registry.register(StoreCollector([each.followed.metrics for each in served.values()]))

    @app.get("/metrics", response_class=PlainTextResponse, tags=["health"])
    def metrics(request: Request) -> Response:
        """All studies, for Prometheus: OpenMetrics or its older text format."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": media_type})

    @app.get("/healthz", tags=["health"])
    def alive() -> Response:
        """That the service answers; needs no token."""
        return _json({"alive": True})

    @app.get("/readyz", tags=["health"], responses={503: {"description": "Not ready; says why."}})
    def ready() -> Response:
        """Whether the stores can be read, and the fits are up to date; 503 and why otherwise."""
        problems = {name: each.followed.problem() for name, each in served.items()}
        why = {name: problem for name, problem in problems.items() if problem}
        return _json({"ready": not why, "problems": why}, 503 if why else 200)


def _add_documents(app: FastAPI, served: dict[str, ServedStudy]) -> None:
    @app.get("/api/studies", tags=["studies"])
    def list_studies() -> Response:
        """The studies served, a summary of each."""
        return _json({"studies": [each.status().summary() for each in served.values()]})

    @app.get("/api/studies/{study}", tags=["studies"])
    def status(study: str) -> Response:
        """How all runs stand: the document of `sparsing status --json`."""
        return _answer(_find(served, study).status_text())

    @app.get("/api/studies/{study}/runs/{run}", tags=["studies"])
    def run(study: str, run: str) -> Response:
        """One run: status, plan, measured curve, newest fits."""
        return _json(_find(served, study).run(run))

    @app.get("/api/studies/{study}/laws", tags=["laws"])
    def laws(study: str) -> Response:
        """The newest fits of all runs: the document of `sparsing laws --json`."""
        return _answer(_find(served, study).laws_text())

    @app.get("/api/studies/{study}/predict", tags=["laws"])
    def predict(study: str, asked: Annotated[PredictionAsked, Query()]) -> Response:
        """A ratio at tokens, or tokens to a ratio: the document of `sparsing predict --json`."""
        found = _find(served, study)
        if (asked.tokens is None) == (asked.ratio is None):
            raise DefinitionError("give either tokens or ratio")
        return _json(predictions_document(found.store, asked.run, asked.tokens, asked.ratio))

    @app.get("/api/studies/{study}/advice", tags=["laws"])
    def advice(study: str, asked: Annotated[AdviceAsked, Query()]) -> Response:
        """Which runs can stop, and what to run next: the document of `sparsing advise --json`."""
        return _json(_find(served, study).advice(asked))

    @app.get("/api/studies/{study}/tables/{table}", tags=["tables"], response_class=ArrowStream)
    def table(study: str, table: str, asked: Annotated[TableAsked, Query()]) -> Response:
        """A table as an Arrow IPC stream, batch by batch, in the store's order of rows."""
        found = _find(served, study)
        if asked.run is not None:
            found.planned(asked.run)
        columns = None if asked.columns is None else asked.columns.split(",")
        parts = stream_table(found.store, table, run=asked.run, columns=columns, limit=asked.limit)
        return ArrowStream(parts)


class ArrowStream(StreamingResponse):
    """An answer that is an Arrow IPC stream."""

    media_type = ARROW


def _find(served: dict[str, ServedStudy], study: str) -> ServedStudy:
    if study not in served:
        raise NotFoundError(f"no study '{study}' is served here; studies: {', '.join(served)}")
    return served[study]


def _json(document: Any, status: int = 200) -> Response:
    return _answer(_text(document), status)


def _answer(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="application/json")


def _text(document: Any) -> str:
    """A document as JSON; what is no number in JSON becomes null."""
    try:
        return json.dumps(document, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(document), default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
