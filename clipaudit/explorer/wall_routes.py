"""The wall over HTTP: the run and its columns, rows in any order and group, pictures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final, TypeAlias

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi import Request as HttpRequest
from pydantic import Field

from clipaudit.errors import UsageError
from clipaudit.explorer.as_code import code_of_view
from clipaudit.explorer.column_facts import column_facts, column_names, computed_columns
from clipaudit.explorer.event_log import MAX_PLACE
from clipaudit.explorer.problems import PROBLEMS, NotThereError
from clipaudit.explorer.uploads import Uploads
from clipaudit.explorer.wall import View, ViewRequest, Wall
from clipaudit.explorer.workspace import SIDES, Workspace
from clipaudit.retrieval.parts import QueryPart, check_parts, parse_keys, parse_minus, parse_texts
from clipaudit.retrieval.queries import parse_key
from clipaudit.retrieval.request import parse_weights
from clipaudit.run.filter_columns import value_text
from clipaudit.run.row import Row, label_text
from clipaudit.run.thumbnails import NoPicture
from clipaudit.schema import labels_in
from clipaudit.shards.image_header import HeaderError, read_header

MAX_PAGE: Final = 500
"""Rows of one answer."""
PICTURES_PATH: Final = "/pictures"
_SHOWABLE: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that every browser shows, and their media types."""
Number: TypeAlias = Annotated[int, Path(ge=0, le=MAX_PLACE)]
Filter: TypeAlias = Annotated[str, Field(max_length=2000)]
Filters: TypeAlias = Annotated[list[Filter] | None, Query(max_length=16)]
_Texts: TypeAlias = Annotated[list[Annotated[str, Field(max_length=2000)]] | None, Query(max_length=16)]
_Keys: TypeAlias = Annotated[list[Annotated[str, Field(max_length=4096)]] | None, Query(max_length=16)]
_Heads: TypeAlias = Annotated[list[Annotated[str, Field(max_length=80)]] | None, Query(max_length=64)]
_Version: TypeAlias = Annotated[
    str | None, Query(max_length=64, description="`pictures` of /run: with it a browser keeps the picture.")
]
Region: TypeAlias = Annotated[str | None, Query(max_length=5000)]
_Column: TypeAlias = Annotated[str | None, Query(max_length=300)]


class RequestReader:
    """Reads a view's request from the parameters of an address: the names are those of `clipaudit query`'s options."""

    def __init__(self, workspace: Workspace, uploads: Uploads) -> None:
        self._run, self._uploads = workspace.run, uploads

    def read(
        self,
        where: Filters = None,
        text: _Texts = None,
        minus: _Texts = None,
        key: _Keys = None,
        image: _Texts = None,
        head: _Heads = None,
        sort: _Column = None,
        group: _Column = None,
        inside: Region = None,
    ) -> ViewRequest:
        """The request; UsageError for what is not understood, such as a sample that is not in the run."""
        run = self._run
        parts = [QueryPart(text=words, weight=weight) for words, weight in parse_texts("text", text or ()).items()]
        keys = parse_keys(run, key or ())
        parts += [QueryPart(key=parse_key(run, name), weight=weight) for name, weight in keys.items()]
        parts += [QueryPart(image=self._uploads.data(name), name=name) for name in image or ()]
        parts += [QueryPart(text=words, weight=-weight) for words, weight in parse_minus(minus or ()).items()]
        if parts:
            check_parts(parts)
        elif head:
            raise UsageError("heads answer a question: give a text, an image or a sample with them")
        return ViewRequest(
            where=tuple(text for text in where or () if text.strip()),
            sort=sort or None,
            group=group or None,
            inside=inside or None,
            parts=tuple(parts),
            weights=tuple(parse_weights(head or ()).items()),
        )


def add_wall(router: APIRouter, workspace: Workspace, reader: RequestReader) -> None:
    """Columns and rows."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (404, 409, 422)}

    @router.get("/columns", responses=problems)
    def columns() -> list[dict[str, Any]]:
        """Every column that filters may name, with its kind, values or range."""
        wall = workspace.wall()
        return [asdict(column_facts(wall, name, workspace)) for name in column_names(wall, workspace)]

    @router.get("/columns/{name}", responses=problems)
    def column(name: Annotated[str, Path(max_length=300)]) -> dict[str, Any]:
        """One column: kind, values with their counts, or range."""
        wall = workspace.wall(ViewRequest(sort=name))
        if name not in column_names(wall, workspace):
            raise NotThereError(f"the run has no column {name[:80]!r}")
        return asdict(column_facts(wall, name, workspace))

    @router.get("/rows", responses=problems)
    def rows(
        request: ViewRequest = Depends(reader.read),
        offset: Annotated[int, Query(ge=0, le=MAX_PLACE)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 200,
    ) -> dict[str, Any]:
        """Rows that pass the filters, in an order; the first page also has the groups and the view as code."""
        wall = workspace.wall(request)
        view = wall.view(request)
        numbers = view.order[offset : offset + limit].tolist()
        answer: dict[str, Any] = {
            "total": len(wall.rows),
            "matched": len(view.order),
            "offset": offset,
            "rows": row_list(workspace, wall, view, numbers, request),
        }
        if offset == 0:
            answer["groups"] = [_group(workspace, request, group) for group in map(asdict, view.groups)]
            answer["code"] = asdict(code_of_view(workspace.run.directory.url, request, workspace.page_only(request)))
            if not len(view.order) and request.where:
                answer["why_empty"] = wall.rows.why_empty(request.where)
        return answer

    @router.get("/rows/{shard}/{index}", responses=problems)
    def one_row(shard: Number, index: Number) -> dict[str, Any]:
        """One row with all its columns and tags."""
        number = row_number(workspace, shard, index)
        wall = workspace.wall()
        row = wall.rows.rows([number])[0]
        values = {}
        for name in computed_columns(wall):
            value = wall.values(name)[number].as_py()
            values[name] = None if value is None else value_text(value)
        tags = workspace.tags().by_image.get((shard, index), {})
        return {
            **row_json(row),
            "columns": values,
            "shard_url": workspace.run.manifest.shards[shard].url,
            "tags": [asdict(tagged) for tagged in tags.values()],
        }


def add_thumbnails(router: APIRouter, workspace: Workspace) -> None:
    """Small pictures of rows."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (404, 409, 422)}
    problems[200] = {"content": {"image/jpeg": {}}}

    @router.get("/thumbnails/{shard}/{index}", response_class=Response, responses=problems)
    def thumbnail(
        shard: Number, index: Number, size: Annotated[int, Query(ge=16, le=512)] = 256, v: _Version = None
    ) -> Response:
        """A sample's picture, at most 256 pixels a side, or the next of 96, 192, 256 and 384 to `size`."""
        row = _row(workspace, shard, index)
        side = next((side for side in SIDES if side >= size), SIDES[-1])
        try:
            data = workspace.thumbnails[side](row).data
        except NoPicture as error:
            raise NotThereError(str(error)) from error
        return Response(data, media_type="image/jpeg", headers=_cached(workspace, v))


def add_pictures(router: APIRouter, workspace: Workspace, uploads: Uploads) -> None:
    """Whole pictures of rows, and pictures that are the question."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (404, 409, 422)}
    body = {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
    jpeg: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}, **problems}

    @router.get("/images/{shard}/{index}", response_class=Response, responses=jpeg)
    def image(shard: Number, index: Number, v: _Version = None) -> Response:
        """A sample's file as it stands in the shard, where browsers show its format; else a JPEG of 384 pixels."""
        row = _row(workspace, shard, index)
        pictures = workspace.thumbnails[SIDES[-1]]
        try:
            data = pictures.data(row)
            media_type = _SHOWABLE.get(read_header(data).format)
            if media_type is None:
                data, media_type = pictures(row).data, "image/jpeg"
        except (NoPicture, HeaderError) as error:
            raise NotThereError(str(error)) from error
        return Response(data, media_type=media_type, headers=_cached(workspace, v))

    @router.post(PICTURES_PATH, responses=problems, openapi_extra={"requestBody": body})
    async def picture(http: HttpRequest) -> dict[str, str]:
        """Keep a JPEG, PNG or WebP file in memory, to ask with it as `image`; returns its name."""
        return {"image": uploads.add(await http.body())}


def _cached(workspace: Workspace, version: str | None) -> dict[str, str]:
    """For how long a browser keeps a picture: for good where the address names this run in this state."""
    if version == workspace.picture_version:
        return {"cache-control": "private, max-age=86400, immutable"}
    return {"cache-control": "no-cache"}


def row_number(workspace: Workspace, shard: int, index: int) -> int:
    """The number of a row; NotThereError when there is none."""
    number = workspace.number(shard, index)
    if number is None:
        raise NotThereError(f"there is no indexed sample {index} in shard {shard}")
    return number


def row_json(row: Row) -> dict[str, Any]:
    """A row as the page shows it."""
    return {
        "shard": row.shard_id,
        "index": row.index,
        "key": row.key,
        "label": None if row.label is None else label_text(row.label),
        "labels": [value_text(label) for label in labels_in(row.label)],
        "class_name": row.class_name,
        "caption": row.caption,
        "width": row.width,
        "height": row.height,
    }


def row_list(
    workspace: Workspace, wall: Wall, view: View, numbers: list[int], request: ViewRequest
) -> list[dict[str, Any]]:
    """Rows as the page shows them, with their scores, tags and the value that they are sorted by."""
    tags = workspace.tags().by_image
    sort = None if request.sort is None else request.sort.lstrip("-").strip("`")
    values = None if sort in (None, "score") else wall.values(str(sort))
    answers = {name: array for name, array in workspace.report_columns().items() if name.endswith(".right")}
    answer = []
    for number, row in zip(numbers, wall.rows.rows(numbers), strict=True):
        plain = row_json(row)
        plain["score"] = None if view.scores is None else float(view.scores[number])
        plain["right"] = {name: array[number].as_py() for name, array in answers.items()}
        plain["tags"] = sorted(tags.get((row.shard_id, row.index), ()))
        value = None if values is None else values[number].as_py()
        plain["value"] = None if value is None else value_text(value)
        answer.append(plain)
    return answer


def _row(workspace: Workspace, shard: int, index: int) -> Row:
    return workspace.plain_rows().rows([row_number(workspace, shard, index)])[0]


def _group(workspace: Workspace, request: ViewRequest, group: dict[str, Any]) -> dict[str, Any]:
    """A group with its class's name where labels group."""
    names = workspace.class_names
    if request.group == "label" and names is not None and group["value"] is not None:
        kind, value = workspace.run.spec.label_kind, group["value"]
        # of several labels the text names more than one class
        return {
            **group,
            "name": names.name_of(int(value) if kind == "int" else value) if kind in ("int", "string") else None,
        }
    return {**group, "name": None}
