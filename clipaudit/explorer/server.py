"""The HTTP interface over a run: FastAPI on 127.0.0.1, for `clipaudit serve --api` and the explorer's page."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from clipaudit.errors import ClipauditError, UsageError
from clipaudit.explorer.problems import PROBLEMS, invalid, problem, refused
from clipaudit.explorer.search_routes import IMAGE_PATH, SEARCH_PATH, add_reading, add_search
from clipaudit.explorer.server_limits import Guard, PromptProtocol
from clipaudit.retrieval.queries import MAX_IMAGE_BYTES, QueryEncoder
from clipaudit.retrieval.retriever import Retriever
from clipaudit.run.reader import Run
from clipaudit.run.thumbnails import Thumbnails
from clipaudit.schema import VERSION

HOST: Final = "127.0.0.1"
PREFIX: Final = "/api/v1"
"""Of every path of this version of the interface."""


def create_app(run_url: str, *, indexes: str | None = None, device: str = "auto", verify: bool = True) -> FastAPI:
    """The application over one run, and the indexes of `clipaudit index --out` or the run's own.

    Every path stands below `/api/v1`; those of before are the same without it, for one release. RunNotFound when there
    is no run, UsageError when it has no index.
    """
    run = Run(run_url)
    retriever = Retriever(run, indexes=indexes, stale=True, verify=verify)
    if not retriever.available():
        raise UsageError(f"the run at {run.directory.url} has no index yet: `clipaudit index {run.directory.url}`")
    app = FastAPI(
        title="clipaudit",
        version=VERSION,
        docs_url=None,  # their pages load scripts from the network
        redoc_url=None,
        description="Images that are alike in one respect: search a run's heads by sample, image or text.",
        responses={code: PROBLEMS[code] for code in (400, 403, 408, 413, 415, 429, 503)},
    )
    router = APIRouter()
    add_reading(router, retriever, Thumbnails(run, 256))
    add_search(router, retriever, QueryEncoder(run, device))
    app.include_router(router, prefix=PREFIX)
    app.include_router(router, deprecated=True)
    computing = (SEARCH_PATH, "/thumbnails")
    app.add_middleware(
        Guard,
        image_paths=(IMAGE_PATH, PREFIX + IMAGE_PATH),
        max_image_bytes=MAX_IMAGE_BYTES,
        computing=(*computing, *(PREFIX + path for path in computing)),
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app.add_exception_handler(ClipauditError, problem)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    return app


# -- the process -----------------------------------------------------------------------------------------------------


def serve_api(run: str, *, port: int, device: str, on_start: Callable[[str], None], indexes: str | None = None) -> None:
    """Serve until interrupted; `on_start` gets the address, `indexes` as in `create_app`. UsageError when the port is
    taken.
    """
    app = create_app(run, indexes=indexes, device=device)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise UsageError(f"--port {port} cannot be used: {error.strerror}") from error
    on_start(f"http://{HOST}:{listener.getsockname()[1]}")
    make_server(app).run(sockets=[listener])


def make_server(app: FastAPI) -> uvicorn.Server:
    """A server over the application that closes idle and slow connections."""
    return uvicorn.Server(
        uvicorn.Config(app, http=PromptProtocol, ws="none", log_level="warning", timeout_keep_alive=5)
    )
