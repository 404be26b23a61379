"""Results as a contact sheet: one HTML file with its pictures inside, which loads nothing from the network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from clipaudit.pages.html import render_page, template_environment
from clipaudit.retrieval.retriever import Answer, Hit, Question
from clipaudit.run.reader import Run
from clipaudit.run.row import ImageId, Row, label_text
from clipaudit.run.thumbnails import NoPicture, Thumbnail, Thumbnails
from clipaudit.schema import SampleLabel, labels_in

Draw: TypeAlias = Callable[[Question, Mapping[ImageId, bytes]], Mapping[ImageId, Thumbnail]]
"""Image files -> those that can be decoded, with the map of what is asked over them."""

_QUERY: Final[ImageId] = (-1, -1)


@dataclass(frozen=True, kw_only=True)
class SheetPanel:
    """One list of results with its heading."""

    title: str
    about: str
    answer: Answer
    question: Question | None = None
    """The question to the indexes; without it no maps can be drawn."""


@dataclass(frozen=True, kw_only=True)
class SheetQuery:
    """The query, for the top of the page."""

    words: str
    picture: Thumbnail | None = None
    row: Row | None = None
    image: bytes | None = field(default=None, repr=False)
    """The file that is the query, when it is no sample of the run."""
    where: str | None = None
    """Filter of the images that may answer."""


def contact_sheet(
    run: Run, query: SheetQuery, panels: Sequence[SheetPanel], thumbnails: Thumbnails, draw: Draw | None = None
) -> str:
    """The page's HTML. With two panels they stand side by side, and images that only one of them has are marked.

    `draw` makes a map of each picture, and of the query's: where the image has what is asked.
    """
    template = template_environment("clipaudit.retrieval").get_template("sheet.html")
    seen = [{_place(hit.row) for hit in panel.answer.hits} for panel in panels]
    lists = []
    for number, panel in enumerate(panels):
        others = set().union(*(places for other, places in enumerate(seen) if other != number))
        maps = {} if draw is None or panel.question is None else draw(panel.question, _files(panel, query, thumbnails))
        cards = [_card(hit, thumbnails, len(panels) > 1, others, query.row) for hit in panel.answer.hits]
        for card, hit in zip(cards, panel.answer.hits, strict=True):
            card["map"] = maps.get(_place(hit.row))
        about = [panel.about, *_agreement(panel.answer.hits, query.row)]
        if len(panels) > 1:
            both = sum(not card["only_here"] for card in cards)
            about.append(f"{both} of {len(cards)} are in both lists")
        lists.append(
            {
                "title": panel.title,
                "about": about,
                "notes": panel.answer.notes,
                "cards": cards,
                "mapped": bool(maps),
                "query_map": maps.get(_QUERY),
            }
        )
    facts = {
        "model": run.manifest.model.get("name", ""),
        "weights": run.manifest.model.get("fingerprint", ""),
        "run": run.url,
        "images": f"{len(run):,}",
    }
    query_facts = _facts(query.row) if query.row else []
    return render_page(template, query=query, panels=lists, facts=facts, query_facts=query_facts)


def _place(row: Row) -> ImageId:
    return row.shard_id, row.index


def _files(panel: SheetPanel, query: SheetQuery, thumbnails: Thumbnails) -> dict[ImageId, bytes]:
    """The image files of a panel and of the query, as far as they can be read."""
    data = {} if query.image is None else {_QUERY: query.image}
    rows = {_place(hit.row): hit.row for hit in panel.answer.hits} | ({_QUERY: query.row} if query.row else {})
    for place, row in rows.items():
        with contextlib.suppress(NoPicture):
            data[place] = thumbnails.data(row)
    return data


def _card(hit: Hit, thumbnails: Thumbnails, compared: bool, others: set[ImageId], query: Row | None) -> dict[str, Any]:
    picture, reason = None, ""
    try:
        picture = thumbnails(hit.row)
    except NoPicture as error:
        reason = str(error)
    same = query is not None and _alike(hit.row.label, query.label)
    return {
        "rank": hit.rank,
        "score": f"{hit.score:.3g}" if abs(hit.score) < 1e-2 else f"{hit.score:.3f}",
        "picture": picture,
        "reason": reason,
        "label": None if hit.row.label is None else label_text(hit.row.label),
        "class_name": hit.row.class_name,
        "caption": hit.row.caption,
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


def _alike(first: SampleLabel, second: SampleLabel) -> bool:
    """Whether two images have a label in common; where they have one each, the same one."""
    return bool({*labels_in(first)} & {*labels_in(second)})


def _facts(row: Row) -> list[tuple[str, str]]:
    facts = [("sample", f"{row.shard_id}/{row.key}")]
    if row.label is not None:
        facts.append(("label", label_text(row.label)))
    if row.class_name is not None:
        facts.append(("class", row.class_name))
    if row.caption is not None:
        facts.append(("caption", row.caption))
    return facts + [(name, value) for name, value in row.attributes.items() if value is not None]


def _agreement(hits: Sequence[Hit], query: Row | None) -> list[str]:
    """How many of the images share the query's label and attributes, in words."""
    if query is None or not hits:
        return []
    counts = [("label", sum(_alike(hit.row.label, query.label) for hit in hits))] * bool(labels_in(query.label))
    counts += [
        (name, sum(hit.row.attributes.get(name) == value for hit in hits))
        for name, value in query.attributes.items()
        if value is not None
    ]
    listed = ", ".join(f"{name} {count}" for name, count in counts)
    return [f"of {len(hits)}, like the query in: {listed}"] if counts else []
