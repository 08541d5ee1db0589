"""What went wrong, as JSON: `{"error": message}`, never a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from polars.exceptions import PolarsError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError


class ErrorAnswer(BaseModel):
    """Every answer that is no success."""

    error: str
    """What was wrong, and what to write instead."""


# Not as a `model`, whose media type would be that of the page or table asked for.
_JSON = {"application/json": {"schema": ErrorAnswer.model_json_schema()}}
_SAID = {
    401: "The token is missing or wrong.",
    404: "No such study, run or table.",
    422: "A parameter is wrong.",
    503: "The store cannot be read.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"content": _JSON, "description": said} for status, said in _SAID.items()
}
STATUS = {DefinitionError: 422, NotFoundError: 404}


def handle_errors(app: FastAPI) -> None:
    """Answer every error of an application with a message."""

    @app.exception_handler(SparsingError)
    async def ours(_: Request, error: SparsingError) -> JSONResponse:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        return error_answer(status, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        said = (f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
        return error_answer(422, "; ".join(said))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        said = str(error.detail)
        if error.status_code == 404:
            said = f"there is no {request.url.path} here; /openapi.json says what there is"
        return error_answer(error.status_code, said, error.headers)

    @app.exception_handler(OSError)
    @app.exception_handler(PolarsError)
    async def unreadable(_: Request, error: Exception) -> JSONResponse:
        return error_answer(503, f"the store cannot be read: {error}")

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        return error_answer(
            500, f"an error of the service itself ({type(error).__name__}); see its log"
        )


def error_answer(status: int, said: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An `ErrorAnswer` with this status."""
    return JSONResponse({"error": said}, status, headers)
