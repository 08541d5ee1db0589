"""The pages that people open: all studies, one study, its report; and what they load.

The pages are shells: their scripts, which come with the package, ask the JSON documents. Nothing
is loaded from elsewhere, and no script or style is inline.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sparsing.analysis.service.assets import FOLDER, assets, assets_version
from sparsing.analysis.service.documents import Document
from sparsing.study.errors import NotFoundError

if TYPE_CHECKING:
    from sparsing.analysis.service.served import ServedStudy

HTML = "text/html"
KEPT_SHELLS = 64
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""The report is one file, with its styles in it and no script at all."""


def render(name: str, **values: Any) -> str:
    """A page from its template; what is filled in is escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(version=assets_version(), **values)


def add_pages(app: FastAPI, served: dict[str, ServedStudy]) -> None:
    """Add the pages of the studies to an application."""

    @lru_cache(1)
    def overview(*studies: str) -> Document:
        return Document.of(render("overview.html", studies=studies), HTML)

    @lru_cache(KEPT_SHELLS)
    def shell(study: ServedStudy) -> Document:
        content = render("study.html", study=study.store.study, study_id=study.store.study_id)
        return Document.of(content, HTML)

    @app.get("/", response_class=HTMLResponse, tags=["pages"])
    def index(request: Request) -> Response:
        """The studies at a glance."""
        return overview(*served).answer(request)

    @app.get("/studies/{study}", response_class=HTMLResponse, tags=["pages"])
    def page(request: Request, study: str) -> Response:
        """The live page of a study; `#RUN` at its end opens a run."""
        return shell(find_study(served, study)).answer(request)

    @app.get("/studies/{study}/report", response_class=HTMLResponse, tags=["pages"])
    def report(request: Request, study: str) -> Response:
        """The report of a study, as its store stood some seconds ago."""
        answer = find_study(served, study).report().answer(request)
        answer.headers["content-security-policy"] = REPORT_POLICY
        return answer

    @app.get("/page/{name}", response_class=Response, tags=["pages"])
    def asset(request: Request, name: str) -> Response:
        """A script or style of the pages; needs no token."""
        if name not in assets():
            raise NotFoundError(f"no '{name}' belongs to the pages")
        return assets()[name].answer(request)


def find_study(served: dict[str, ServedStudy], study: str) -> ServedStudy:
    """The study of an id, or NotFoundError."""
    if study not in served:
        raise NotFoundError(f"no study '{study}' is served here; studies: {', '.join(served)}")
    return served[study]
