"""Why the HTTP interface has no answer: one sentence and a status for each kind of error."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from clipaudit.errors import ClipauditError, IntegrityError, RunInvalid


class Problem(BaseModel):
    """Why there is no answer, in one sentence."""

    error: str


PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Problem, "description": "The query cannot be answered as it is asked."},
    404: {"model": Problem, "description": "There is no such thing in the run."},
    409: {"model": Problem, "description": "The run's files are not what they should be; build the index again."},
    403: {"model": Problem, "description": "A page of another site asks."},
    408: {"model": Problem, "description": "The request's body did not arrive in time."},
    413: {"model": Problem, "description": "The request is too large."},
    415: {"model": Problem, "description": "The body is of another content type."},
    422: {"model": Problem, "description": "The request is not of the form that is described here."},
    429: {"model": Problem, "description": "Too many requests wait already."},
    503: {"model": Problem, "description": "The server is busy."},
}
"""What OpenAPI says of each status."""


class NotThereError(ClipauditError):
    """The run has no such index, sample or picture."""


async def problem(request: HttpRequest, error: Exception) -> JSONResponse:
    """The sentence of a user's mistake or of a damaged run; a bug becomes a 500 with its traceback in the log."""
    status = 404 if isinstance(error, NotThereError) else 409 if isinstance(error, IntegrityError | RunInvalid) else 400
    return JSONResponse({"error": str(error)}, status_code=status)


async def invalid(request: HttpRequest, error: Exception) -> JSONResponse:
    """What is wrong with a request's first parameter that is not of its type; 422."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"error": f"{where}: {first['msg']}"}, status_code=422)


async def refused(request: HttpRequest, error: Exception) -> JSONResponse:
    """A status of HTTP with its reason as one sentence."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, status_code=error.status_code, headers=error.headers)
