"""Results as a contact sheet: one HTML file with its pictures inside, that asks nothing of the network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from clipaudit.pages.html import render_page, template_environment
from clipaudit.retrieval.retriever import Answer, Hit, Question
from clipaudit.run.reader import Run
from clipaudit.run.row import ImageId, Row
from clipaudit.run.thumbnails import NoPicture, Thumbnail, Thumbnails

Draw: TypeAlias = Callable[[Question, Mapping[ImageId, bytes]], Mapping[ImageId, Thumbnail]]
"""Image files -> those that can be drawn, with the places in them that speak for what is asked."""

_QUERY: Final[ImageId] = (-1, -1)


@dataclass(frozen=True, kw_only=True)
class SheetPanel:
    """One list of results with its heading."""

    title: str
    about: str
    answer: Answer
    question: Question | None = None
    """What was asked of the indexes; without it no maps can be drawn."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked, for the head of the page."""

    words: str
    picture: Thumbnail | None = None
    row: Row | None = None
    image: bytes | None = field(default=None, repr=False)
    """The file that is the query, when it is no sample of the run."""
    where: str | None = None


def contact_sheet(
    run: Run, asked: Asked, panels: Sequence[SheetPanel], thumbnails: Thumbnails, draw: Draw | None = None
) -> str:
    """The page's HTML. With two panels they stand side by side, and images that only one of them has are marked.

    `draw` adds to each picture, and to the query's, the map of where what was asked is seen.
    """
    template = template_environment("clipaudit.retrieval").get_template("sheet.html")
    seen = [{_place(hit.row) for hit in panel.answer.hits} for panel in panels]
    shown = []
    for number, panel in enumerate(panels):
        others = set().union(*(found for other, found in enumerate(seen) if other != number))
        maps = {} if draw is None or panel.question is None else draw(panel.question, _files(panel, asked, thumbnails))
        cards = [_card(hit, thumbnails, len(panels) > 1, others, asked.row) for hit in panel.answer.hits]
        for card, hit in zip(cards, panel.answer.hits, strict=True):
            card["map"] = maps.get(_place(hit.row))
        about = [panel.about, *_agreement(panel.answer.hits, asked.row)]
        if len(panels) > 1:
            both = sum(not card["only_here"] for card in cards)
            about.append(f"{both} of {len(cards)} are in both lists")
        found = {"title": panel.title, "about": about, "notes": panel.answer.notes, "cards": cards}
        shown.append(found | {"mapped": bool(maps), "query_map": maps.get(_QUERY)})
    facts = {
        "model": run.manifest.model.get("name", ""),
        "weights": run.manifest.model.get("fingerprint", ""),
        "run": run.directory.url,
        "images": f"{len(run):,}",
    }
    query = _facts(asked.row) if asked.row else []
    return render_page(template, asked=asked, panels=shown, facts=facts, query=query)


def _place(row: Row) -> ImageId:
    return row.shard_id, row.index


def _files(panel: SheetPanel, asked: Asked, thumbnails: Thumbnails) -> dict[ImageId, bytes]:
    """The image files of a panel and of the query, as far as they can be read."""
    found = {} if asked.image is None else {_QUERY: asked.image}
    rows = {_place(hit.row): hit.row for hit in panel.answer.hits} | ({_QUERY: asked.row} if asked.row else {})
    for place, row in rows.items():
        with contextlib.suppress(NoPicture):
            found[place] = thumbnails.data(row)
    return found


def _card(hit: Hit, thumbnails: Thumbnails, compared: bool, others: set[ImageId], query: Row | None) -> dict[str, Any]:
    picture, reason = None, ""
    try:
        picture = thumbnails(hit.row)
    except NoPicture as error:
        reason = str(error)
    same = query is not None and hit.row.label is not None and hit.row.label == query.label
    return {
        "rank": hit.rank,
        "score": f"{hit.score:.3g}" if abs(hit.score) < 1e-2 else f"{hit.score:.3f}",
        "picture": picture,
        "reason": reason,
        "label": hit.row.label,
        "same_label": same,
        "key": hit.row.key,
        "shard": hit.row.shard_id,
        "attributes": [
            (value, query is not None and query.attributes.get(name) == value)
            for name, value in hit.row.attributes.items()
            if value is not None
        ],
        "parts": {name: f"{score:.3f}" for name, score in hit.parts.items()},
        "only_here": compared and _place(hit.row) not in others,
    }


def _facts(row: Row) -> list[tuple[str, str]]:
    found = [("sample", f"{row.shard_id}/{row.key}")]
    if row.label is not None:
        found.append(("label", str(row.label)))
    return found + [(name, value) for name, value in row.attributes.items() if value is not None]


def _agreement(hits: Sequence[Hit], query: Row | None) -> list[str]:
    """How many of the images share the query's label and attributes, in words."""
    if query is None or not hits:
        return []
    counts = [("label", sum(hit.row.label == query.label for hit in hits))] * (query.label is not None)
    counts += [
        (name, sum(hit.row.attributes.get(name) == value for hit in hits))
        for name, value in query.attributes.items()
        if value is not None
    ]
    shown = ", ".join(f"{name} {count}" for name, count in counts)
    return [f"of {len(hits)}, like the query in: {shown}"] if counts else []
