"""Tags over HTTP: given, taken back, undone, and written out as lists that other tools read."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Body, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from clipaudit.cues.report.files import csv_text
from clipaudit.errors import UsageError
from clipaudit.explorer.basket_weights import FILE, weights_missing, weights_without
from clipaudit.explorer.downloads import download
from clipaudit.explorer.event_log import MAX_PLACE
from clipaudit.explorer.problems import PROBLEMS
from clipaudit.explorer.tag_log import MAX_AUTHOR, MAX_IMAGES, MAX_REASON, ImagePlace, TagLog, TagState
from clipaudit.explorer.wall import ViewRequest
from clipaudit.explorer.wall_routes import Filter, RequestReader
from clipaudit.explorer.workspace import Workspace
from clipaudit.explorer.write_access import WriteAccess
from clipaudit.pages.text import one_line

_EVENTS: Final = 50
"""Latest events that the page lists."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TagImage(_Strict):
    """One image."""

    shard: int = Field(ge=0, le=MAX_PLACE)
    index: int = Field(ge=0, le=MAX_PLACE)


class TagRequest(_Strict):
    """A tag for images, by name or as a whole view of the wall."""

    tag: str = Field(max_length=100)
    reason: str = Field(default="", max_length=MAX_REASON)
    author: str = Field(default="", max_length=MAX_AUTHOR)
    remove: bool = False
    images: list[TagImage] = Field(default_factory=list, max_length=1000)
    where: list[Filter] | None = Field(default=None, max_length=16, description="All rows that pass these filters.")
    inside: str | None = Field(default=None, max_length=5000, description="Of those, the ones in a region of a map.")
    count: int | None = Field(
        default=None, ge=0, description="With `where`: how many images whoever tags saw; refused where they are others."
    )


class UndoRequest(_Strict):
    """The step that no longer counts."""

    event: str = Field(max_length=100)
    author: str = Field(default="", max_length=MAX_AUTHOR)


def add_basket(router: APIRouter, workspace: Workspace, reader: RequestReader, writing: WriteAccess) -> None:
    """Tags and exports."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (403, 404, 409, 422)}

    def writable(allowed: None = Depends(writing)) -> TagLog:
        """The file of tags."""
        assert workspace.tag_log is not None, "a page that may write keeps tags"
        return workspace.tag_log

    @router.get("/tags", responses=problems)
    def tags() -> dict[str, Any]:
        """Tags with their numbers of images, and the latest steps."""
        return tag_facts(workspace)

    @router.post("/tags", responses=problems)
    def tag(asked: Annotated[TagRequest, Body()], log: TagLog = Depends(writable)) -> dict[str, Any]:
        """Give images a tag, or take it away."""
        log.add(asked.tag, _images(workspace, asked), author=asked.author, reason=asked.reason, removes=asked.remove)
        return tag_facts(workspace)

    @router.post("/tags/undo", responses=problems)
    def undo(asked: Annotated[UndoRequest, Body()], log: TagLog = Depends(writable)) -> dict[str, Any]:
        """Undo a step."""
        log.undo(asked.event, asked.author)
        return tag_facts(workspace)

    _add_exports(router, workspace, reader, problems)


def _add_exports(
    router: APIRouter, workspace: Workspace, reader: RequestReader, problems: dict[int | str, dict[str, Any]]
) -> None:
    @router.get("/export/review.csv", response_class=Response, responses=problems)
    def review(tag: Annotated[str | None, Query(max_length=100)] = None) -> Response:
        """Every tag of every image with its author, reason and time; of one tag, or of all."""
        return download(csv_text(review_table(workspace, tag)), "review.csv", "text/csv")

    @router.get("/export/tags.jsonl", response_class=Response, responses=problems)
    def joinable() -> Response:
        """The tags as a table that `clipaudit columns add` joins to the run: shard, key, and the list `tagged`."""
        state = workspace.tags()
        lines = [
            {"shard": image[0], "key": state.keys[image], "tagged": sorted(state.by_image[image])}
            for image in sorted(state.by_image)
        ]
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        return download(text, "tags.jsonl", "application/jsonl")

    @router.get("/export/exclude.txt", response_class=Response, responses=problems)
    def exclude(tag: Annotated[str | None, Query(max_length=100)] = None) -> Response:
        """The tagged images as a list to leave out, one SHARD/KEY a line."""
        places = _tagged_places(workspace.tags(), tag)
        return download(_lines([(shard, key) for shard, _, key in places]), "exclude.txt")

    @router.get("/export/weights.parquet", response_class=Response, responses=problems)
    def weights(tag: Annotated[str | None, Query(max_length=100)] = None) -> Response:
        """The report's group weights, 0 for images with a tag, or with this one."""
        table = weights_without(workspace.run, workspace.report, _tagged_places(workspace.tags(), tag))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        return download(sink.getvalue().to_pybytes(), FILE, "application/vnd.apache.parquet")

    @router.get("/export/keys.txt", response_class=Response, responses=problems)
    def keys(request: ViewRequest = Depends(reader.read)) -> Response:
        """All rows of a view in its order, one SHARD/KEY a line."""
        wall = workspace.wall(request)
        rows = wall.rows.table.select(["shard_id", "key"]).take(pa.array(wall.view(request).order))
        pairs = list(zip(rows["shard_id"].to_pylist(), rows["key"].to_pylist(), strict=True))
        return download(_lines(pairs), "keys.txt")


def tag_facts(workspace: Workspace) -> dict[str, Any]:
    """Tags with their counts, the latest steps, and where they are kept."""
    state = workspace.tags()
    return {
        "version": 0 if workspace.tag_log is None else workspace.tag_log.version,
        "file": None if workspace.tag_log is None else str(workspace.tag_log.path),
        "write": workspace.write,
        "counts": state.counts,
        "images": len(state.by_image),
        "damaged": state.damaged,
        "foreign": state.foreign,
        "weights_missing": weights_missing(workspace.run, workspace.report),
        "events": [
            {
                "id": event.id,
                "time": event.time,
                "author": event.author,
                "tag": event.tag,
                "reason": event.reason,
                "removes": event.removes,
                "images": len(event.images),
            }
            for event in state.events[: -_EVENTS - 1 : -1]
        ],
    }


def review_table(workspace: Workspace, tag: str | None) -> pa.Table:
    """A line a tag of an image: shard_id, index, key, class, tag, author, reason, time."""
    state, rows = workspace.tags(), workspace.plain_rows()
    chosen = [(image, tagged) for image, tagged in _tagged(state) if tag is None or tagged.tag == tag]
    numbers = rows.numbers([image for image, _ in chosen])
    lines = [
        {
            "shard_id": image[0],
            "index": image[1],
            "key": state.keys[image],
            "class": None if number is None else _class_of(workspace, number),
            "tag": tagged.tag,
            "author": tagged.author,
            "reason": tagged.reason,
            "time": tagged.time,
        }
        for (image, tagged), number in zip(chosen, numbers, strict=True)
    ]
    return pa.Table.from_pylist(lines, schema=_REVIEW)


_REVIEW: Final = pa.schema(
    [("shard_id", pa.int32()), ("index", pa.int32())]
    + [(name, pa.string()) for name in ("key", "class", "tag", "author", "reason", "time")]
)


def _tagged_places(state: TagState, tag: str | None) -> list[ImagePlace]:
    """The images with a tag, with any where none is named, in the order of the run."""
    images = sorted(image for image, given in state.by_image.items() if tag is None or tag in given)
    return [(*image, state.keys[image]) for image in images]


def _tagged(state: TagState) -> list[tuple[tuple[int, int], Any]]:
    return [(image, tagged) for image in sorted(state.by_image) for tagged in state.by_image[image].values()]


def _class_of(workspace: Workspace, number: int) -> str | None:
    row = workspace.plain_rows().rows([number])[0]
    return row.class_name if row.class_name is not None else None if row.label is None else str(row.label)


def _images(workspace: Workspace, asked: TagRequest) -> list[ImagePlace]:
    """The images of a request, with their keys; UsageError when one is not in the run, or there are too many."""
    rows = workspace.plain_rows()
    if asked.where is not None:
        request = ViewRequest(where=tuple(asked.where), inside=asked.inside)
        numbers = workspace.wall(request).view(request).order.tolist()
        if asked.count is not None and asked.count != len(numbers):
            raise UsageError(
                f"the filter now matches {len(numbers):,} images, not the {asked.count:,} that were seen: look again"
            )
        if len(numbers) > MAX_IMAGES:
            raise UsageError(f"{len(numbers):,} images are more than the {MAX_IMAGES:,} of one step: filter further")
    else:
        places = rows.numbers([(image.shard, image.index) for image in asked.images])
        numbers = [number for number in places if number is not None]
        if len(numbers) < len(places):
            raise UsageError("an image that is tagged is not in the run")
    taken = rows.table.select(["shard_id", "index", "key"]).take(pa.array(numbers, pa.int64()))
    columns = (taken[name].to_pylist() for name in ("shard_id", "index", "key"))
    return list(zip(*columns, strict=True))


def _lines(pairs: list[tuple[int, str]]) -> str:
    return "".join(f"{shard:06d}/{one_line(key)}\n" for shard, key in pairs)
