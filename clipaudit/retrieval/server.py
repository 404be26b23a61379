"""The JSON interface of `clipaudit serve --api`: FastAPI on 127.0.0.1, over memory-mapped indexes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal, TypeAlias

import uvicorn
from fastapi import Body, FastAPI, Path, Query, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from clipaudit.errors import ClipauditError, IntegrityError, RunInvalid, UsageError
from clipaudit.retrieval.card import read_card
from clipaudit.retrieval.parts import MAX_PARTS, QueryPart
from clipaudit.retrieval.queries import MAX_IMAGE_BYTES, QueryEncoder, parse_key
from clipaudit.retrieval.request import Request, answers
from clipaudit.retrieval.retriever import Retriever
from clipaudit.retrieval.server_limits import Guard, PromptProtocol
from clipaudit.retrieval.sheet import SheetPanel
from clipaudit.run.reader import Run
from clipaudit.run.thumbnails import NoPicture, Thumbnails
from clipaudit.schema import VERSION, as_names

HOST: Final = "127.0.0.1"
MAX_K: Final = 500
_IMAGE_PATH: Final = "/search/image"
_MAX_SHARD: Final = 2**31 - 1
_Filter: TypeAlias = Annotated[str, Field(max_length=2000)]
_Head: TypeAlias = Annotated[str, Field(max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Weighted(_Strict):
    """One head of a query."""

    head: str = Field(max_length=64, description="A head label such as L11H05, or `embedding`.")
    weight: float = Field(default=1.0, ge=-1e6, le=1e6, description="Of its score in the sum; not 0.")


class Part(_Strict):
    """One text or one sample of a query."""

    text: str | None = Field(default=None, max_length=2000)
    key: str | None = Field(default=None, max_length=4096, description="SHARD/KEY of a sample.")
    weight: float = Field(default=1.0, ge=-1e6, le=1e6, description="Of its score in the sum; below 0 to avoid it.")


class Search(_Strict):
    """A sample or a text, or several with weights, and which images may answer."""

    heads: list[Weighted] = Field(default_factory=list, max_length=64, description="None for the whole embedding.")
    role: str | None = Field(default=None, max_length=200, description="All heads with this role instead.")
    key: str | None = Field(default=None, max_length=4096, description="SHARD/KEY of the sample that is the query.")
    text: str | None = Field(default=None, max_length=2000, description="The text that is the query.")
    parts: list[Part] = Field(default_factory=list, max_length=MAX_PARTS, description="Further texts and samples.")
    end: Literal["max", "min"] = "max"
    k: int | None = Field(default=None, ge=1, le=MAX_K, description="20 where it is not given, or all of fewer.")
    where: _Filter | list[_Filter] | None = Field(
        default=None, description="A filter, or several that must all hold: \"label = 3 and place = 'water'\"."
    )
    unique: bool = Field(default=False, description="Leave out copies, by perceptual hash.")
    compare: bool = Field(default=False, description="Also ask the whole embedding.")


class HitRow(BaseModel):
    """One image of the run."""

    shard_id: int
    index: int
    key: str
    label: int | str | list[int] | list[str] | None
    class_name: str | None
    caption: str | None
    attributes: dict[str, str | None]
    width: int | None
    height: int | None


class SearchHit(BaseModel):
    """One image of an answer."""

    rank: int
    score: float
    row: HitRow
    parts: dict[str, float]
    thumbnail: str


class Results(BaseModel):
    """One list of images, best first."""

    title: str
    notes: list[str]
    hits: list[SearchHit]


class Problem(BaseModel):
    """Why there is no answer, in one sentence."""

    error: str


class Health(BaseModel):
    """That the server answers."""

    status: str
    version: str
    rows: int


_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
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


def create_app(run_url: str, *, indexes: str | None = None, device: str = "auto", verify: bool = True) -> FastAPI:
    """The application over one run, and the indexes of `clipaudit index --out` or the run's own.

    RunNotFound when there is none, UsageError when it has no index.
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
        responses={code: _PROBLEMS[code] for code in (400, 403, 408, 413, 415, 429, 503)},
    )
    app.add_middleware(
        Guard,
        image_path=_IMAGE_PATH,
        max_image_bytes=MAX_IMAGE_BYTES,
        computing=("/search", "/thumbnails"),
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app.add_exception_handler(ClipauditError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    _add_reading(app, retriever, Thumbnails(run, 256))
    _add_search(app, retriever, QueryEncoder(run, device))
    return app


def _add_reading(app: FastAPI, retriever: Retriever, thumbnails: Thumbnails) -> None:
    """The paths that only read: health, cards, pictures."""

    @app.get("/health")
    def health() -> Health:
        """Whether the server answers."""
        return Health(status="ok", version=VERSION, rows=len(retriever.run))

    @app.get("/indexes")
    def indexes() -> list[str]:
        """Names of the run's indexes."""
        return list(retriever.available())

    @app.get("/indexes/{name}", responses={code: _PROBLEMS[code] for code in (404, 409, 422)})
    def card(name: Annotated[str, Path(max_length=64)]) -> dict[str, Any]:
        """An index's card: kind, size, recall, latency."""
        if name not in retriever.available():  # a name is never used as a path before it is known
            raise _NotFoundError(f"the run has no index of {name!r}")
        values = asdict(read_card(retriever.place, name))
        del values["mean"]
        return values

    @app.get(
        "/thumbnails/{shard}/{index}",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **{code: _PROBLEMS[code] for code in (404, 409, 422)}},
    )
    def thumbnail(
        shard: Annotated[int, Path(ge=0, le=_MAX_SHARD)], index: Annotated[int, Path(ge=0, le=_MAX_SHARD)]
    ) -> Response:
        """A sample's picture, at most 256 pixels a side."""
        rows = retriever.index(retriever.available()[0]).row_map
        row = rows.at(shard, index)
        if row is None:
            raise _NotFoundError(f"there is no indexed sample {index} in shard {shard}")
        try:
            return Response(thumbnails(row).data, media_type="image/jpeg")
        except NoPicture as error:
            raise _NotFoundError(str(error)) from error


def _add_search(app: FastAPI, retriever: Retriever, encoder: QueryEncoder) -> None:
    """Queries: by sample or text as JSON, by image as the request's body."""
    problems: dict[int | str, dict[str, Any]] = {code: _PROBLEMS[code] for code in (409, 422)}

    @app.post("/search", responses=problems)
    def search(asked: Annotated[Search, Body()]) -> list[Results]:
        """Images like a sample, or along a text; with `compare` a second list, by the whole embedding."""
        request = Request(
            weights=_weights(asked.heads),
            role=asked.role,
            parts=tuple(
                QueryPart(
                    text=part.text,
                    key=None if part.key is None else parse_key(retriever.run, part.key),
                    weight=part.weight,
                )
                for part in (*_single(asked), *asked.parts)
            ),
            end=asked.end,
            k=asked.k,
            where=as_names(asked.where or ()),
            unique=asked.unique,
            compare=asked.compare,
        )
        return [_results(panel) for panel in answers(retriever, encoder, request)]

    schema = {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post(_IMAGE_PATH, responses=problems, openapi_extra={"requestBody": schema})
    def search_image(
        image: Annotated[bytes, Body(media_type="image/*")],
        http: HttpRequest,
        head: Annotated[list[_Head] | None, Query(max_length=64)] = None,
        k: Annotated[int | None, Query(ge=1, le=MAX_K)] = None,
        where: Annotated[list[_Filter] | None, Query(max_length=16)] = None,
        unique: Annotated[bool, Query()] = False,
        compare: Annotated[bool, Query()] = False,
    ) -> list[Results]:
        """Images like the JPEG, PNG or WebP file that is the request's body."""
        _check_parameters(http, once=("k", "unique", "compare"), several=("head", "where"))
        request = Request(
            weights=_weights([Weighted(head=name) for name in head or ["embedding"]]),
            parts=(QueryPart(image=image),),
            k=k,
            where=tuple(where or ()),
            unique=unique,
            compare=compare,
        )
        return [_results(panel) for panel in answers(retriever, encoder, request)]


def _single(asked: Search) -> list[Part]:
    """The text and the sample that stand in the request itself."""
    parts = [Part(text=asked.text)] if asked.text is not None else []
    return parts + ([Part(key=asked.key)] if asked.key is not None else [])


def _check_parameters(request: HttpRequest, once: Collection[str], several: Collection[str]) -> None:
    """UsageError for an unknown parameter, and for one that is given again and takes one value: neither would count."""
    names = [name for name, _ in request.query_params.multi_items() if name not in several]
    unknown = next((name for name in names if name not in once), None)
    if unknown is not None:
        raise UsageError(f"there is no parameter {unknown[:64]!r}: there is {', '.join((*several, *once))}")
    again = next((name for name in names if names.count(name) > 1), None)
    if again is not None:
        raise UsageError(f"the parameter {again} is given {names.count(again)} times, and it takes one value")


def _weights(heads: list[Weighted]) -> dict[str, float]:
    names = [part.head for part in heads]
    if len(set(names)) < len(names):
        raise UsageError("a head is given twice")
    if any(part.weight == 0 for part in heads):
        raise UsageError("a weight of 0 asks nothing of its head: leave the head out")
    return {part.head: part.weight for part in heads}


def _results(panel: SheetPanel) -> Results:
    hits = []
    for hit in panel.answer.hits:
        row = HitRow.model_validate({name: getattr(hit.row, name) for name in HitRow.model_fields})
        place = f"/thumbnails/{row.shard_id}/{row.index}"
        hits.append(SearchHit(rank=hit.rank, score=hit.score, row=row, parts=hit.parts, thumbnail=place))
    return Results(title=panel.title, notes=list(panel.answer.notes), hits=hits)


# -- problems and limits -----------------------------------------------------------------------------------------------


class _NotFoundError(ClipauditError):
    """The run has no such index, sample or picture."""


async def _problem(request: HttpRequest, error: Exception) -> JSONResponse:
    """The sentence of a user's mistake or of a damaged run; a bug becomes a 500 with its traceback in the log."""
    status = (
        404 if isinstance(error, _NotFoundError) else 409 if isinstance(error, IntegrityError | RunInvalid) else 400
    )
    return JSONResponse({"error": str(error)}, status_code=status)


async def _invalid(request: HttpRequest, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"error": f"{where}: {first['msg']}"}, status_code=422)


async def _refused(request: HttpRequest, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, status_code=error.status_code, headers=error.headers)


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
