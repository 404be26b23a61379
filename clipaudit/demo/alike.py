"""Images alike in one respect: the demo's contact sheet, by the head that looks at backgrounds and by everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from clipaudit.demo.evaluation.head_choice import PLACE, RULES, HeadTexts
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.retrieval.parts import QueryPart
from clipaudit.retrieval.plan import IndexConfig, build_indexes
from clipaudit.retrieval.queries import QueryEncoder
from clipaudit.retrieval.request import Request, answers
from clipaudit.retrieval.retriever import Retriever
from clipaudit.retrieval.sheet import contact_sheet
from clipaudit.retrieval.sheet_maps import SheetMaps
from clipaudit.run.reader import Run
from clipaudit.run.thumbnails import Thumbnails

IMAGES: Final = 12
"""Images of the sheet, for each way of searching."""
_PLAIN: Final = "style = 'photo' and tint = 'none'"
"""Queries are plain photos: in a sketch or in red light some backgrounds cannot be recognised."""
_FACTORS: Final = ("background", "noun")


@dataclass(frozen=True, kw_only=True)
class Alike:
    """The query and the results of the sheet."""

    head: HeadTexts
    """The head that was searched."""
    key: str
    """The query, the run's first plain photo, as `--key` takes it."""
    query: dict[str, str | None]
    """The query's factors by name."""
    by_head: dict[str, int]
    """How many of the `IMAGES` most alike have the query's background, and its noun."""
    by_everything: dict[str, int]
    """The same by the whole embedding."""


def alike(run_url: str, words: Sequence[HeadTexts], path: Path) -> Alike | None:
    """Index one head and the whole embedding of a run of `things`, and write the sheet to `path`.

    None when no head's texts are about places.
    """
    head = background_head(words)
    if head is None:
        return None
    build_indexes(IndexConfig(run=run_url, heads=(head.head, EMBEDDING)))
    run = Run(run_url)
    retriever, thumbnails = Retriever(run), Thumbnails(run)
    index = retriever.index(head.head)
    first = index.rows(np.flatnonzero(index.mask(_PLAIN))[:1])[0]
    sample = QueryPart(key=(first.shard_id, first.key))
    request = Request(weights={head.head: 1.0}, parts=(sample,), k=IMAGES, compare=True)
    panels = answers(retriever, QueryEncoder(run, "cpu"), request)
    draw = SheetMaps(retriever, side=160, device="cpu")
    path.write_text(contact_sheet(run, request.sheet_query(retriever, thumbnails), panels, thumbnails, draw), "utf-8")
    shared = [
        {
            name: sum(hit.row.attributes[name] == first.attributes[name] for hit in panel.answer.hits)
            for name in _FACTORS
        }
        for panel in panels
    ]
    return Alike(
        head=head,
        key=f"{first.shard_id}/{first.key}",
        query=first.attributes,
        by_head=shared[0],
        by_everything=shared[1],
    )


def background_head(words: Sequence[HeadTexts]) -> HeadTexts | None:
    """The chosen head whose texts about places explain the largest share of its variance; None without one."""
    chosen = [head for head in words if head.chosen(next(iter(RULES)))]
    return max(
        chosen, key=lambda head: sum(text.explained for text in head.texts if text.property == PLACE), default=None
    )
