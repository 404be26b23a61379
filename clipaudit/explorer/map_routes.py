"""The map over HTTP: points with their colours in one answer, a point's image, and what sets a region apart."""

from __future__ import annotations

import json
import shlex
import struct
from dataclasses import asdict, replace
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Depends, Query, Response

from clipaudit.arrays import Bools
from clipaudit.errors import ClipauditError, UsageError
from clipaudit.explorer.apart import TextScores, apart
from clipaudit.explorer.column_facts import computed_columns
from clipaudit.explorer.layouts import SIDE, Region
from clipaudit.explorer.problems import PROBLEMS, NotThereError
from clipaudit.explorer.wall import ViewRequest, Wall
from clipaudit.explorer.wall_routes import Number, RequestReader, row_json
from clipaudit.explorer.workspace import Workspace
from clipaudit.heads.texts.pool import pool_for
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.run.filter_columns import value_text

MAGIC: Final = b"CMAP"
CATEGORIES: Final = 9
"""Values with a colour of their own; the others share one."""
STEPS: Final = 64
"""Colours of numbers."""
NOTHING: Final = 0
"""Colour of an image without a value."""
FADED: Final = 255
"""Colour of an image that does not pass the filters."""
_KEYS: Final = frozenset(("key", "shard_id", "index", "caption"))
_OF_REPORTS: Final = ("audit.", "slice.")
"""Beginnings of columns that say what a report did with an image, which is no property of it."""
_Space: TypeAlias = Annotated[str, Query(max_length=64)]
_Column: TypeAlias = Annotated[str | None, Query(max_length=300)]


def add_map(router: APIRouter, workspace: Workspace, reader: RequestReader) -> None:
    """Points, and what is known of some of them."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (404, 409, 422)}
    binary: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}, **problems}

    @router.get("/map/points", response_class=Response, responses=binary)
    def points(
        space: _Space = EMBEDDING,
        method: _Space = "pca",
        colour: _Column = None,
        request: ViewRequest = Depends(reader.read),
    ) -> Response:
        """Every image as a point: `CMAP`, the length of a JSON header, the header, then for each point x and y as
        uint16, then a byte each with its colour, then, for a sample, the rows' numbers as uint32; all little-endian.
        """
        return Response(_points(workspace, space, method, colour, request), media_type="application/octet-stream")

    @router.get("/map/rows/{number}", responses=problems)
    def row(number: Number) -> dict[str, Any]:
        """The image of a point, by the number of its row."""
        rows = workspace.plain_rows()
        if number >= len(rows):
            raise NotThereError(f"the run has {len(rows):,} rows: there is none of number {number}")
        return row_json(rows.rows([number])[0])

    @router.get("/map/apart", responses=problems)
    def differences(request: ViewRequest = Depends(reader.read)) -> dict[str, Any]:
        """What sets the images in a region apart from the others that pass the filters."""
        return _apart(workspace, request)


# -- points ------------------------------------------------------------------------------------------------------------


def _points(workspace: Workspace, space: str, method: str, colour: str | None, request: ViewRequest) -> bytes:
    layout = workspace.layouts.layout(space, method)
    named = replace(request, inside=None, sort=None, parts=(), weights=(), group=colour)
    wall = workspace.wall(named)
    codes, legend = _coloured(wall, colour, workspace)
    if request.where:
        codes = np.where(wall.rows.mask(request.where), codes, np.uint8(FADED))
    if layout.numbers is not None:
        codes = codes[layout.numbers]
    header = {
        "points": len(codes),
        "rows": len(wall.rows),
        "space": space,
        "method": method,
        "sampled": layout.numbers is not None and len(layout.numbers) < len(wall.rows),
        "shares": layout.shares,
        "side": SIDE,
        "colour": colour,
        **legend,
    }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 4)  # what follows is aligned, so that a browser reads it where it lies
    parts = [MAGIC, struct.pack("<I", len(text)), text, layout.points.astype("<u2").tobytes(), codes.tobytes()]
    if layout.numbers is not None:
        parts += [b"\0" * (-len(codes) % 4), layout.numbers.astype("<u4").tobytes()]
    return b"".join(parts)


def _coloured(wall: Wall, column: str | None, workspace: Workspace) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """(n,) colour of every row, and what colours mean."""
    if column is None:
        return np.ones(len(wall.rows), np.uint8), {"kind": "none", "names": [], "low": None, "high": None}
    values = wall.values(column)
    many = pa.types.is_integer(values.type) and pc.count_distinct(values).as_py() > CATEGORIES + 1
    if pa.types.is_floating(values.type) or (many and column != "label"):
        return wall.fact(f"colours {column}", lambda: _shaded(values))
    return wall.fact(f"colours {column}", lambda: _named(values, workspace if column == "label" else None))


def _shaded(values: Any) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:  # noqa: ANN401 - pyarrow has no types
    """Numbers as steps 1..STEPS from their 1st to their 99th percentile."""
    plain = np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    known = np.isfinite(plain)
    if not known.any():
        return np.zeros(len(plain), np.uint8), {"kind": "numbers", "names": [], "low": None, "high": None}
    low, high = np.quantile(plain[known], [0.01, 0.99])
    scaled = np.zeros(len(plain))
    scaled[known] = np.clip((plain[known] - low) / max(high - low, 1e-300), 0.0, 1.0)
    codes = np.where(known, 1 + np.rint(scaled * (STEPS - 1)), NOTHING).astype(np.uint8)
    return codes, {"kind": "numbers", "names": [], "low": value_text(float(low)), "high": value_text(float(high))}


def _named(values: Any, workspace: Workspace | None) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:  # noqa: ANN401
    """The most frequent values 1..CATEGORIES, the rest CATEGORIES + 1."""
    encoded = (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values).dictionary_encode()
    place = np.asarray(encoded.indices.fill_null(-1), np.int64)
    texts = encoded.dictionary.to_pylist()
    counts = np.bincount(place[place >= 0], minlength=len(texts))
    order = np.argsort(-counts, kind="stable")[:CATEGORIES].tolist()
    order.sort(key=lambda each: str(texts[each]))
    of_value = np.full(len(texts) + 1, CATEGORIES + 1, np.uint8)
    of_value[-1] = NOTHING  # a missing value has the place -1
    for code, each in enumerate(order, 1):
        of_value[each] = code
    classes = None if workspace is None else workspace.class_names
    names = [
        (None if classes is None else classes.name_of(texts[each])) or value_text(texts[each])[:60] for each in order
    ]
    return of_value[place], {
        "kind": "values",
        "names": names,
        "other": max(0, len(texts) - CATEGORIES),
        "low": None,
        "high": None,
    }


# -- what sets a region apart ------------------------------------------------------------------------------------------


def _apart(workspace: Workspace, request: ViewRequest) -> dict[str, Any]:
    if request.inside is None:
        raise UsageError("what is set apart? Give a region of the map as `inside`")
    wall = workspace.wall(request)
    region = workspace.layouts.inside(request.inside)
    passing: Bools = wall.rows.mask(request.where) if request.where else np.ones(len(wall.rows), np.bool_)
    space = Region.parse(request.inside).space
    columns = [
        (name, wall.values(name))
        for name in computed_columns(wall)
        if name not in _KEYS and not name.startswith(_OF_REPORTS)
    ]
    try:
        texts, missing = _texts(workspace, wall, space), None
    except ClipauditError as error:  # a run whose model is not at hand still has columns
        texts, missing = None, str(error)
    result = apart(region & passing, ~region & passing, columns, texts)
    url = workspace.run.directory.url
    return {
        **asdict(result),
        "space": space,
        "no_texts": missing,
        "command": None if missing is None else f"clipaudit heads {shlex.quote(url)}",
    }


def _texts(workspace: Workspace, wall: Wall, space: str) -> TextScores:
    """The pool's texts in a space; those that `clipaudit heads` encoded need no model."""
    run = workspace.run

    def made() -> TextScores:
        pool = pool_for(run.manifest.identity["model"])
        vectors = RunTexts(run, workspace.device, keep=workspace.write).vectors(pool.texts)
        folded = vectors.astype(np.float64)
        if space != EMBEDDING:
            folded = folded @ workspace.scores.basis.Q(space).astype(np.float64).T
        _, covariance = workspace.layouts.spread(space)
        deviation = np.sqrt(np.maximum(np.einsum("td,td->t", folded @ covariance, folded), 0.0))
        return TextScores(
            texts=pool.texts,
            vectors=vectors,
            folded=folded,
            values=workspace.scores.vectors(space),
            deviation=deviation,
        )

    return wall.fact(f"texts {space}", made)
