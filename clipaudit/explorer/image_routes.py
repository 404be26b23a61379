"""One image over HTTP: where texts are in it, and its near duplicates."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from fastapi import APIRouter, Query
from pydantic import Field

from clipaudit.explorer.image_heat import MAX_HEADS, MAX_TEXTS, ImageHeat
from clipaudit.explorer.near_images import NearFinder
from clipaudit.explorer.problems import PROBLEMS
from clipaudit.explorer.wall_routes import Number, row_json, row_number
from clipaudit.explorer.workspace import Workspace
from clipaudit.retrieval.card import EMBEDDING

MAX_SHOWN: Final = 60
"""Near duplicates of one answer."""
_Texts: TypeAlias = Annotated[list[Annotated[str, Field(max_length=2000)]], Query(min_length=1, max_length=MAX_TEXTS)]
_Heads: TypeAlias = Annotated[list[Annotated[str, Field(max_length=64)]] | None, Query(max_length=MAX_HEADS)]


def add_image(router: APIRouter, workspace: Workspace) -> None:
    """Maps and near duplicates of one row."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (404, 409, 422)}
    heat, near = ImageHeat(workspace), NearFinder(workspace)

    @router.get("/rows/{shard}/{index}/heat", responses=problems)
    def maps(shard: Number, index: Number, text: _Texts, head: _Heads = None) -> dict[str, Any]:
        """What each patch of an image adds to its cosine with each text, through each head or `embedding`, all heads
        together; all maps on the one scale whose ends are `scale`.

        The patches of a map and the class token add up to `adds`, what these heads add to the text's cosine. A text
        that is not `seen` has a cosine that unrelated texts reach, too.
        """
        number = row_number(workspace, shard, index)
        row = workspace.plain_rows().rows([number])[0]
        return {"image": f"{shard}/{index}", **heat.answer(row, number, text, head or [EMBEDDING])}

    @router.get("/rows/{shard}/{index}/duplicates", responses=problems)
    def duplicates(shard: Number, index: Number) -> dict[str, Any]:
        """The near duplicates of an image, the most alike first, by the rule that audits keep them together by."""
        number = row_number(workspace, shard, index)
        found = near.find(number)
        rows, tags = workspace.plain_rows().rows(found.numbers[:MAX_SHOWN].tolist()), workspace.tags().by_image
        own = workspace.plain_rows().rows([number])[0]
        images = [
            {
                **row_json(row),
                **{"score": None, "right": {}, "value": None},
                "tags": sorted(tags.get((row.shard_id, row.index), ())),
                "cosine": float(cosine),
                "bits": int(bits),
                "other_label": row.label != own.label,
            }
            for row, cosine, bits in zip(rows, found.cosine, found.bits, strict=False)
        ]
        about = {"total": len(found.numbers), "rule": found.rule, "command": near.command}
        return {"image": f"{shard}/{index}", "images": images, **about}
