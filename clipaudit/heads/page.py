"""A run's heads as one self-contained page: role, and of each text its bar and the most extreme images at both ends.

One pass over the stored rows finds the images (`extremes`); only those that are shown are read from the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Float64s
from clipaudit.heads.description import Description, HeadWords
from clipaudit.heads.extremes import Ends, extremes_along
from clipaudit.heads.pictures import KEEP, SIDE, STYLE, HeadPictures
from clipaudit.pages.html import render_page, template_environment
from clipaudit.run.thumbnails import Thumbnails
from clipaudit.schema import VERSION

TEXTS: Final = 10
"""Texts of each head that are shown."""


def extremes(
    description: Description,
    texts: int = TEXTS,
    keep: int = KEEP,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Ends]]:
    """The ends of each head's first `texts` texts, `keep` images each, from one pass over the rows described.

    Last of each head those of the main direction of what its texts leave, where they leave something.

    `on_rows(done, total)` as it goes. The errors of `stream_rows`.
    """
    return extremes_along(
        description.run,
        {words.head: _directions(words, texts) for words in description.heads},
        keep,
        description.config.rows,
        published=description.published,
        on_rows=lambda done: on_rows(done, description.rows),
    )


def _directions(words: HeadWords, texts: int) -> Float64s:
    """(m, dh) of the first `texts` texts, and of what all texts leave."""
    shown = words.span.directions[:texts]
    return shown if words.rest is None else np.concatenate([shown, words.rest.direction[None]])


def render(description: Description, ends: dict[str, list[Ends]]) -> str:
    """The page as HTML; `ends` from `extremes`.

    Images that cannot be read are left blank, and the page tells why. 24 heads with ten texts each take at most 3 MB.
    """
    run = description.run
    thumbnails, missing = Thumbnails(run, 2 * SIDE), dict[str, int]()
    by_share = sorted(description.heads, key=lambda words: -words.share)
    heads = [_head(words, description, ends[words.head], thumbnails, missing) for words in by_share]
    return render_page(
        template_environment("clipaudit.heads").get_template("heads.html"),
        run=run.url,
        model=run.manifest.identity["model"],
        rows=description.rows,
        where=description.config.rows.described,
        pool=description.pool.summary,
        heads=heads,
        missing=missing,
        roles_missing=description.roles_missing if description.config.roles else None,
        picture_style=STYLE,
        version=VERSION,
    )


def _head(
    words: HeadWords, description: Description, ends: list[Ends], thumbnails: Thumbnails, missing: dict[str, int]
) -> dict[str, Any]:
    pictures = HeadPictures(thumbnails, ends, missing)
    return {
        "name": words.head,
        "share": words.share,
        "role": words.role,
        "rule": pictures.rule(words.head),
        "texts": list(_texts(words, description, ends, pictures)),
        "rest": words.rest,
        "rest_width": 0.0 if words.rest is None else words.rest.explained / _widest(words),
        "rest_pictures": "" if words.rest is None else pictures.strip(ends[-1]),
        "chosen": len(words.span),
    }


def _widest(words: HeadWords) -> float:
    """What a bar over the whole width stands for, as a share of the head's variance; above 0."""
    rest = 0.0 if words.rest is None else words.rest.explained
    return float(max([*words.span.explained[:TEXTS], rest], default=1.0)) or 1.0


def _texts(
    words: HeadWords, description: Description, ends: list[Ends], pictures: HeadPictures
) -> Iterator[dict[str, Any]]:
    widest = _widest(words)
    count = len(ends) - (words.rest is not None)  # the last ends are of what the texts leave
    for place, text in enumerate(words.span.texts[:TEXTS].tolist()):
        explained = float(words.span.explained[place])
        yield {
            "text": description.pool.texts[text],
            "property": description.pool.properties[text],
            "explained": explained,
            "width": explained / widest,
            "pictures": pictures.strip(ends[place]) if place < count else "",
        }
