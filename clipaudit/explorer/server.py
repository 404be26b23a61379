"""The HTTP interface over a run: FastAPI on 127.0.0.1, for `clipaudit serve --api` and the explorer's page."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from clipaudit.errors import ClipauditError, UsageError
from clipaudit.explorer.basket_routes import add_basket
from clipaudit.explorer.beside_routes import add_beside
from clipaudit.explorer.finding_routes import add_findings
from clipaudit.explorer.image_routes import add_image
from clipaudit.explorer.label_log import LabelLog
from clipaudit.explorer.label_routes import add_labels
from clipaudit.explorer.labelling import Labelling
from clipaudit.explorer.map_routes import add_map
from clipaudit.explorer.page import add_page
from clipaudit.explorer.parameters import PREFIX, known_parameters
from clipaudit.explorer.problems import PROBLEMS, invalid, problem, refused
from clipaudit.explorer.search_routes import IMAGE_PATH, SEARCH_PATH, add_reading, add_search
from clipaudit.explorer.server_limits import Guard, PromptProtocol
from clipaudit.explorer.study_routes import add_study
from clipaudit.explorer.tag_log import TagLog, default_tags, labels_beside
from clipaudit.explorer.uploads import Uploads
from clipaudit.explorer.wall_routes import PICTURES_PATH, RequestReader, add_pictures, add_thumbnails, add_wall
from clipaudit.explorer.what_if_routes import add_what_if
from clipaudit.explorer.workspace import Workspace
from clipaudit.explorer.write_access import WriteAccess
from clipaudit.retrieval.queries import MAX_IMAGE_BYTES
from clipaudit.retrieval.retriever import Retriever
from clipaudit.run.reader import Run
from clipaudit.schema import VERSION

HOST: Final = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class ExplorerOptions:
    """What the page is over, and what it may do."""

    report: str | None = None
    """Directory of a report; None to look for one in the run and beside it."""
    write: bool = False
    """Whether images may be tagged."""
    tags: Path | None = None
    """File of the tags; None for `default_tags`."""
    token: str = ""
    """What a request that writes must carry; with an empty one nothing is written."""
    options: tuple[str, ...] = ()
    """The command's further options, for the line that starts it again."""


def create_app(
    run_url: str,
    *,
    indexes: str | None = None,
    device: str = "auto",
    verify: bool = True,
    explorer: ExplorerOptions | None = None,
) -> FastAPI:
    """The application over one run, and the indexes of `clipaudit index --out` or the run's own.

    Every path stands below `/api/v1`; those of before are the same without it, for one release. With `explorer` the
    page stands at `/`. RunNotFound when there is no run, UsageError when it has no index and there is no page that
    could do without.
    """
    run = Run(run_url)
    retriever = Retriever(run, indexes=indexes, stale=True, verify=verify)
    if explorer is None and not retriever.available():
        raise UsageError(f"the run at {run.directory.url} has no index yet: `clipaudit index {run.directory.url}`")
    options = explorer or ExplorerOptions()
    tags = labelling = None
    if explorer is not None:
        tags = TagLog(explorer.tags or default_tags(run.directory.url, write=explorer.write))
    workspace = Workspace(
        run, report=options.report, look=explorer is not None, tags=tags, write=options.write, device=device
    )
    if tags is not None:
        labelling = Labelling(workspace, LabelLog(labels_beside(tags.path)))
    app = FastAPI(
        lifespan=_ending(labelling),
        title="clipaudit",
        version=VERSION,
        docs_url=None,  # their pages load scripts from the network
        redoc_url=None,
        description="Images that are alike in one respect, and what is known of them: heads, findings, tags.",
        responses={code: PROBLEMS[code] for code in (400, 403, 408, 413, 415, 429, 503)},
    )
    app.state.labelling = labelling
    _add_routes(app, retriever, workspace, options, labelling)
    images = (IMAGE_PATH, PREFIX + IMAGE_PATH, PREFIX + PICTURES_PATH)
    # pictures and whatever has a body take turns; rows do not: while a model loads for one question, the wall goes on
    turns = (SEARCH_PATH, "/thumbnails", "/images", "/tags", "/labels", PICTURES_PATH)
    computing = (SEARCH_PATH, "/thumbnails", *(PREFIX + path for path in turns))
    app.add_middleware(Guard, image_paths=images, max_image_bytes=MAX_IMAGE_BYTES, computing=computing, ends=("/heat",))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app.add_exception_handler(ClipauditError, problem)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    return app


def _ending(labelling: Labelling | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What happens when the server ends: no report goes on being made."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if labelling is not None:
            labelling.close()

    return lifespan


def _add_routes(
    app: FastAPI, retriever: Retriever, workspace: Workspace, options: ExplorerOptions, labelling: Labelling | None
) -> None:
    """Searches and pictures with and without the prefix, everything else with it; with `labelling` the page at `/`."""
    searches, uploads = APIRouter(dependencies=[Depends(known_parameters)]), Uploads()
    add_reading(searches, retriever)
    add_search(searches, retriever, workspace.encoder)
    add_thumbnails(searches, workspace)
    app.include_router(searches, prefix=PREFIX)
    app.include_router(searches, deprecated=True)
    explorer, reader = APIRouter(dependencies=[Depends(known_parameters)]), RequestReader(workspace, uploads)
    add_wall(explorer, workspace, reader)
    add_pictures(explorer, workspace, uploads)
    add_study(explorer, workspace, options.options)
    add_findings(explorer, workspace, labelling)
    writing = WriteAccess(workspace.write and workspace.tag_log is not None, options.token)
    add_basket(explorer, workspace, reader, writing)
    add_what_if(explorer, workspace, writing)
    add_map(explorer, workspace, reader)
    add_beside(explorer, workspace, reader)
    add_image(explorer, workspace)
    if labelling is not None:
        add_labels(explorer, labelling, writing)
    app.include_router(explorer, prefix=PREFIX)
    if labelling is not None:
        pages = APIRouter()
        add_page(pages)
        app.include_router(pages)


# -- the process -----------------------------------------------------------------------------------------------------


def serve_api(
    run: str,
    *,
    port: int,
    device: str,
    on_start: Callable[[str], None],
    indexes: str | None = None,
    explorer: ExplorerOptions | None = None,
) -> None:
    """Serve until interrupted; `on_start` gets the address, `indexes` and `explorer` as in `create_app`. UsageError
    when the port is taken.
    """
    app = create_app(run, indexes=indexes, device=device, explorer=explorer)
    listener = open_listener(port)
    on_start(f"http://{HOST}:{listener.getsockname()[1]}")
    make_server(app).run(sockets=[listener])


def open_listener(port: int) -> socket.socket:
    """A socket that listens on this machine, before anybody is told its address: whoever opens it at once is answered.
    UsageError when the port is taken.
    """
    # asyncio sends small packets at once (TCP_NODELAY) only where the protocol is named; else the body of an answer
    # waits up to 40 ms for the acknowledgement of its headers
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise UsageError(f"--port {port} cannot be used: {error.strerror}") from error
    listener.listen()
    return listener


def make_server(app: FastAPI) -> uvicorn.Server:
    """A server over the application that closes idle and slow connections."""
    return uvicorn.Server(
        uvicorn.Config(app, http=PromptProtocol, ws="none", log_level="warning", timeout_keep_alive=5)
    )
