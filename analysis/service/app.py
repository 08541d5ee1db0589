"""The law service over HTTP: studies, runs, laws, predictions, advice, tables, and /metrics.

One application, whoever holds it: `sparsing serve`, or the Ray actor beside a study's runs. It
reads the stores alone, and its documents are those of the commands of the same names. What it
serves is as old as it takes to read what is new: a second, some seconds in a study of 1,000 runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from polars.exceptions import PolarsError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import Field

from sparsing.analysis.forecasting.predictions import predictions_document
from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.service.documents import json_answer
from sparsing.analysis.service.served import AdviceQuery, QueryParameters, ServedStudy
from sparsing.analysis.service.table_stream import stream_table
from sparsing.analysis.service.web.errors import ERRORS, handle_errors
from sparsing.analysis.service.web.guard import Guard
from sparsing.analysis.service.web.login import Sessions, add_login
from sparsing.analysis.service.web.pages import add_pages, assets_version, find_study
from sparsing.study.definition.values import MAX_COUNT
from sparsing.study.errors import DefinitionError, SparsingError
from sparsing.study.status.exporter import StoreCollector


class ArrowStream(StreamingResponse):
    """An answer that is an Arrow IPC stream."""

    media_type = "application/vnd.apache.arrow.stream"


class PredictionQuery(QueryParameters):
    """A run, and either tokens or a ratio."""

    run: str = Field(description="Id of the run.")
    tokens: str | None = Field(None, description="Predict the activation ratio at 8e11 or 800B.")
    ratio: float | None = Field(None, description="Predict the tokens to this activation ratio.")


class TableQuery(QueryParameters):
    """A part of a table."""

    columns: str | None = Field(None, description="Names of columns with commas between.")
    run: str | None = Field(None, description="Rows of this run only.")
    limit: int | None = Field(None, ge=0, le=MAX_COUNT, description="Largest number of rows.")


class Served(dict[str, ServedStudy]):
    """What is served, by the study's id; studies may come and go while it is served."""

    @classmethod
    def of(cls, studies: Sequence[FollowedStudy]) -> Served:
        """These studies."""
        served = cls()
        for study in studies:
            served.follow(study)
        return served

    def follow(self, study: FollowedStudy) -> None:
        """Serve a study from now on."""
        self[study.store.study_id] = ServedStudy(study)

    def all(self) -> list[ServedStudy]:
        """All studies at this moment."""
        return list(self.values())


def application(studies: Sequence[FollowedStudy], token: str | None = None) -> FastAPI:
    """The service of studies, by their ids; with a token, for those who have it.

    Their threads run where the caller lets them: the application only reads.
    """
    return application_of(Served.of(studies), token)


def application_of(served: Served, token: str | None = None) -> FastAPI:
    """The service of studies that come and go."""
    app = FastAPI(
        title="sparsing",
        version=metadata.version("sparsing"),
        description="Scaling studies of activation sparsity: runs, laws, predictions, tables.",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    sessions = None if token is None else Sessions(token)
    app.add_middleware(Guard, sessions=sessions)
    handle_errors(app)
    add_pages(app, served)
    add_login(app, sessions)
    _add_health(app, served)
    _add_documents(app, served)
    return app


def _add_health(app: FastAPI, served: Served) -> None:
    registry = CollectorRegistry()
    registry.register(StoreCollector(lambda: [each.followed.metrics for each in served.all()]))

    @app.get("/metrics", response_class=PlainTextResponse, tags=["health"])
    def metrics(request: Request) -> Response:
        """All studies, for Prometheus: OpenMetrics or its older text format."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": media_type})

    @app.get("/healthz", tags=["health"])
    def alive() -> Response:
        """That the service answers; needs no token."""
        return json_answer({"alive": True})

    @app.get("/readyz", tags=["health"], responses={503: {"description": "Not ready; says why."}})
    def ready() -> Response:
        """Whether the stores can be read, and the fits are up to date; 503 and why otherwise."""
        problems = {each.store.study_id: each.followed.problem() for each in served.all()}
        why = {name: problem for name, problem in problems.items() if problem}
        return json_answer({"ready": not why, "problems": why}, 503 if why else 200)


def _add_documents(app: FastAPI, served: Served) -> None:
    @app.get("/api/studies", tags=["studies"])
    def list_studies() -> Response:
        """The studies served: whether each is healthy, what it found, when it is done."""
        studies = [_glance(each) for each in served.all()]
        return json_answer({"page_version": assets_version(), "studies": studies})

    @app.get("/api/studies/{study}", tags=["studies"])
    def status(request: Request, study: str) -> Response:
        """How all runs stand: the document of `sparsing status --json`."""
        return find_study(served, study).status_document().answer(request)

    @app.get("/api/studies/{study}/live", tags=["studies"])
    def live(request: Request, study: str) -> Response:
        """What the live page shows: health, finding, runs, thinned curves, laws with bands."""
        return find_study(served, study).live().answer(request)

    @app.get("/api/studies/{study}/runs/{run}", tags=["studies"])
    def run(request: Request, study: str, run: str) -> Response:
        """One run: status, plan, measured curve, training loss, newest fits and their lines."""
        return find_study(served, study).run(run).answer(request)

    @app.get("/api/studies/{study}/laws", tags=["laws"])
    def laws(request: Request, study: str) -> Response:
        """The newest fits of all runs: the document of `sparsing laws --json`."""
        return find_study(served, study).laws().answer(request)

    @app.get("/api/studies/{study}/predict", tags=["laws"])
    def predict(study: str, asked: Annotated[PredictionQuery, Query()]) -> Response:
        """A ratio at tokens, or tokens to a ratio: the document of `sparsing predict --json`."""
        found = find_study(served, study)
        if (asked.tokens is None) == (asked.ratio is None):
            raise DefinitionError("give either tokens or ratio")
        return json_answer(predictions_document(found.store, asked.run, asked.tokens, asked.ratio))

    @app.get("/api/studies/{study}/advice", tags=["laws"])
    def advice(request: Request, study: str, asked: Annotated[AdviceQuery, Query()]) -> Response:
        """Which runs can stop, and what to run next: the document of `sparsing advise --json`."""
        return find_study(served, study).advice(asked).answer(request)

    @app.get("/api/studies/{study}/tables/{table}", tags=["tables"], response_class=ArrowStream)
    def table(study: str, table: str, asked: Annotated[TableQuery, Query()]) -> Response:
        """A table as an Arrow IPC stream, batch by batch, in the store's order of rows."""
        found = find_study(served, study)
        if asked.run is not None:
            found.planned(asked.run)
        columns = None if asked.columns is None else asked.columns.split(",")
        parts = stream_table(found.store, table, run=asked.run, columns=columns, limit=asked.limit)
        return ArrowStream(parts)


def _glance(study: ServedStudy) -> dict[str, Any]:
    """A study in the list of all, which stands also where one of them cannot be read."""
    try:
        return study.glance()
    except (SparsingError, OSError, PolarsError) as error:
        return {"study": study.store.study_id, "error": str(error)}
