"""One question by two heads, or two sets of them, side by side: both orders, and the images whose ranks differ most."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Depends, Query
from pydantic import Field

from clipaudit.arrays import Ints
from clipaudit.errors import UsageError
from clipaudit.explorer.as_code import code_of_view
from clipaudit.explorer.problems import PROBLEMS
from clipaudit.explorer.wall import View, ViewRequest, Wall
from clipaudit.explorer.wall_routes import RequestReader, row_list
from clipaudit.explorer.workspace import Workspace
from clipaudit.retrieval.request import parse_weights

MAX_SIDE: Final = 60
"""Images of one list."""


def add_beside(router: APIRouter, workspace: Workspace, reader: RequestReader) -> None:
    """Two orders of the wall."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (404, 409, 422)}

    @router.get("/beside", responses=problems)
    def beside(
        other: Annotated[list[Annotated[str, Field(max_length=80)]], Query(min_length=1, max_length=64)],
        request: ViewRequest = Depends(reader.read),
        size: Annotated[int, Query(ge=1, le=MAX_SIDE)] = 24,
    ) -> dict[str, Any]:
        """The best images of a question by `head` and by `other`, and those that the two place furthest apart.

        Each image has its rank in both orders, from 1, among the rows that pass the filters.
        """
        if not request.parts:
            raise UsageError("two orders answer one question: give a text, an image or a sample")
        first = replace(request, sort=None, group=None)
        return _beside(workspace, first, replace(first, weights=tuple(parse_weights(other).items())), size)


def _beside(workspace: Workspace, first: ViewRequest, second: ViewRequest, size: int) -> dict[str, Any]:
    wall = workspace.wall(first)
    views = [wall.view(request) for request in (first, second)]
    ranks = np.stack([_ranks(view, len(wall.rows)) for view in views])  # (2, n), 0 for rows that do not pass
    passing = np.sort(views[0].order)
    # above 0: better placed by the first
    apart = (ranks[1] - ranks[0])[passing]
    order = np.argsort(-apart, kind="stable")
    lists = {
        "first": views[0].order[:size],
        "second": views[1].order[:size],
        "first_alone": passing[order[:size][apart[order[:size]] > 0]],
        "second_alone": passing[order[::-1][:size][apart[order[::-1][:size]] < 0]],
    }
    answer: dict[str, Any] = {
        name: _ranked(workspace, wall, views[name.startswith("second")], numbers, ranks, first)
        for name, numbers in lists.items()
    }
    url = workspace.run.directory.url
    return {
        **answer,
        "matched": len(passing),
        "correlation": rank_correlation(ranks[:, passing]),
        "codes": [asdict(code_of_view(url, request, workspace.page_only(request))) for request in (first, second)],
    }


def _ranks(view: View, rows: int) -> Ints:
    """(n,) from 1; 0 for rows that do not pass."""
    ranks = np.zeros(rows, np.int64)
    ranks[view.order] = np.arange(1, len(view.order) + 1)
    return ranks


def rank_correlation(ranks: Ints) -> float | None:
    """Spearman's, of two orders (2, m) without ties; None for fewer than two rows."""
    m = int(ranks.shape[1])
    if m < 2:
        return None
    d = (ranks[0] - ranks[1]).astype(np.float64)
    return 1 - 6 * float((d**2).sum()) / (m * (m**2 - 1))


def _ranked(
    workspace: Workspace, wall: Wall, view: View, numbers: Ints, ranks: Ints, request: ViewRequest
) -> list[dict[str, Any]]:
    rows = row_list(workspace, wall, view, numbers.tolist(), request)
    return [{**row, "ranks": ranks[:, number].tolist()} for row, number in zip(rows, numbers.tolist(), strict=True)]
