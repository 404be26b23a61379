"""Queries over HTTP: by sample, text or image, over the run's memory-mapped indexes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final, Literal, TypeAlias

from fastapi import APIRouter, Body, Path, Query
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field

from clipaudit.errors import UsageError
from clipaudit.explorer.problems import PROBLEMS, NotThereError
from clipaudit.retrieval.card import read_card
from clipaudit.retrieval.parts import MAX_PARTS, QueryPart
from clipaudit.retrieval.queries import QueryEncoder, parse_key
from clipaudit.retrieval.request import Request, answers
from clipaudit.retrieval.retriever import Retriever
from clipaudit.retrieval.sheet import SheetPanel
from clipaudit.schema import VERSION, as_names

MAX_K: Final = 500
SEARCH_PATH: Final = "/search"
IMAGE_PATH: Final = "/search/image"
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


class Health(BaseModel):
    """That the server answers."""

    status: str
    version: str
    rows: int


def add_reading(router: APIRouter, retriever: Retriever) -> None:
    """The paths that only read: health, names and cards of indexes."""

    @router.get("/health")
    def health() -> Health:
        """Whether the server answers."""
        return Health(status="ok", version=VERSION, rows=len(retriever.run))

    @router.get("/indexes")
    def indexes() -> list[str]:
        """Names of the run's indexes."""
        return list(retriever.available())

    @router.get("/indexes/{name}", responses={code: PROBLEMS[code] for code in (404, 409, 422)})
    def card(name: Annotated[str, Path(max_length=64)]) -> dict[str, Any]:
        """An index's card: kind, size, recall, latency."""
        if name not in retriever.available():  # a name is never used as a path before it is known
            raise NotThereError(f"the run has no index of {name!r}")
        values = asdict(read_card(retriever.place, name))
        del values["mean"]
        return values


def add_search(router: APIRouter, retriever: Retriever, encoder: QueryEncoder) -> None:
    """Queries: by sample or text as JSON, by image as the request's body."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (409, 422)}

    @router.post(SEARCH_PATH, responses=problems)
    def search(asked: Annotated[Search, Body()], http: HttpRequest) -> list[Results]:
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
        prefix = http.url.path.removesuffix(SEARCH_PATH)
        return [_results(panel, prefix) for panel in answers(retriever, encoder, request)]

    schema = {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}

    @router.post(IMAGE_PATH, responses=problems, openapi_extra={"requestBody": schema})
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
        request = Request(
            weights=_weights([Weighted(head=name) for name in head or ["embedding"]]),
            parts=(QueryPart(image=image),),
            k=k,
            where=tuple(where or ()),
            unique=unique,
            compare=compare,
        )
        prefix = http.url.path.removesuffix(IMAGE_PATH)
        return [_results(panel, prefix) for panel in answers(retriever, encoder, request)]


def _single(asked: Search) -> list[Part]:
    """The text and the sample that stand in the request itself."""
    parts = [Part(text=asked.text)] if asked.text is not None else []
    return parts + ([Part(key=asked.key)] if asked.key is not None else [])


def _weights(heads: list[Weighted]) -> dict[str, float]:
    names = [part.head for part in heads]
    if len(set(names)) < len(names):
        raise UsageError("a head is given twice")
    if any(part.weight == 0 for part in heads):
        raise UsageError("a weight of 0 asks nothing of its head: leave the head out")
    return {part.head: part.weight for part in heads}


def _results(panel: SheetPanel, prefix: str) -> Results:
    """prefix: of the paths of thumbnails, the version of the interface."""
    hits = []
    for hit in panel.answer.hits:
        row = HitRow.model_validate({name: getattr(hit.row, name) for name in HitRow.model_fields})
        place = f"{prefix}/thumbnails/{row.shard_id}/{row.index}"
        hits.append(SearchHit(rank=hit.rank, score=hit.score, row=row, parts=hit.parts, thumbnail=place))
    return Results(title=panel.title, notes=list(panel.answer.notes), hits=hits)
