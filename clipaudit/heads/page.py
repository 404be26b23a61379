"""A run's heads as one self-contained page: role, texts with bars, and the most extreme images along each first text.

One pass over the stored rows keeps the few highest and lowest of each text, so that memory does not grow with the run;
only the images that are shown are read from the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Float64s
from clipaudit.heads.allocation import stream_allocated
from clipaudit.heads.description import Description, HeadWords
from clipaudit.pages.html import render_page, template_environment
from clipaudit.run.row import Row
from clipaudit.run.rows import RowBatch
from clipaudit.run.thumbnails import NoPicture, Thumbnail, Thumbnails
from clipaudit.schema import VERSION

_TEXTS: Final = 10
"""Texts with bars of each head."""
_BATCH_ROWS: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Extreme:
    """An image far out along a text."""

    row: Row
    value: float
    """Standard deviations above the mean; negative is below."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The images at both ends of a text's direction, the farthest first."""

    high: tuple[Extreme, ...]
    low: tuple[Extreme, ...]


class Extremes:
    """The highest and lowest rows along some directions, while rows stream by."""

    def __init__(self, directions: Float64s, keep: int) -> None:
        """`directions`: (m, dh) float64; `keep`: rows at each end."""
        self._directions, self._keep = directions, keep
        shape = (len(directions), 0)
        # by sign, 1 for the highest rows and -1 for the lowest: sign * value, and the number of the row
        self._values = {sign: np.empty(shape) for sign in (1, -1)}
        self._numbers = {sign: np.empty(shape, np.int64) for sign in (1, -1)}
        self._count, self._mean, self._scatter = 0, np.zeros(len(directions)), np.zeros(len(directions))

    def update(self, vectors: npt.NDArray[Any], first: int) -> None:
        """(n, dh) coordinates of rows `first`, `first + 1`, ..."""
        along = self._directions @ vectors.astype(np.float64).T  # (m, n)
        self._spread(along)
        numbers = np.broadcast_to(np.arange(first, first + len(vectors)), along.shape)
        for sign in (1, -1):
            values = np.concatenate([self._values[sign], sign * along], axis=1)
            rows = np.concatenate([self._numbers[sign], numbers], axis=1)
            order = np.argsort(-values, axis=1, kind="stable")[:, : self._keep]
            self._values[sign] = np.take_along_axis(values, order, axis=1)
            self._numbers[sign] = np.take_along_axis(rows, order, axis=1)

    def _spread(self, along: Float64s) -> None:
        """Add values (m, n) to count, mean and sum of squared deviations, by the pairwise update."""
        new = along.shape[1]
        if not new:
            return
        # M2 = M2a + M2b + (mb - ma)^2 na nb / n (Chan, Golub, LeVeque 1983)
        total, mean = self._count + new, along.mean(axis=1)
        self._scatter += ((along - mean[:, None]) ** 2).sum(axis=1)
        self._scatter += (mean - self._mean) ** 2 * (self._count * new / total)
        self._mean += (mean - self._mean) * (new / total)
        self._count = total

    @property
    def numbers(self) -> set[int]:
        """The numbers of all rows at an end."""
        return {int(number) for numbers in self._numbers.values() for number in numbers.ravel()}

    def ends(self, rows: dict[int, Row]) -> list[Ends]:
        """The ends of each direction; `rows` by number."""
        deviation = np.sqrt(self._scatter / max(self._count, 1))
        deviation = np.where(deviation > 0, deviation, 1.0)
        ends_of: list[Ends] = []
        for place in range(len(self._directions)):
            ends = []
            for sign in (1, -1):
                values = (sign * self._values[sign][place] - self._mean[place]) / deviation[place]
                pairs = zip(self._numbers[sign][place].tolist(), values.tolist(), strict=True)
                ends.append(tuple(Extreme(row=rows[number], value=value) for number, value in pairs))
            ends_of.append(Ends(high=ends[0], low=ends[1]))
        return ends_of


def extremes(
    description: Description,
    texts: int = 3,
    keep: int = 6,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Ends]]:
    """The ends of each head's first `texts` texts, `keep` images each, from one pass over the rows described.

    `on_rows(done, total)` as it goes. The errors of `stream_rows`.
    """
    run, config = description.run, description.config
    extremes_of = {words.head: Extremes(words.span.directions[:texts], keep) for words in description.heads}
    columns = ["shard_id", "index", "key", "offset", "nbytes", *(["label"] if run.spec.label_kind else [])]
    rows: dict[int, Row] = {}
    done = 0
    heads = list(extremes_of)
    for batch in stream_allocated(run, heads, columns, config.rows, _BATCH_ROWS, description.published):
        for head, along in extremes_of.items():
            along.update(batch.vectors[head], done)
        wanted = set().union(*(along.numbers for along in extremes_of.values()))
        rows = {number: row for number, row in rows.items() if number in wanted}
        rows |= {number: _row(batch, number - done) for number in wanted if number >= done}
        done += len(batch)
        on_rows(done, description.rows)
    return {head: along.ends(rows) for head, along in extremes_of.items()}


def _row(batch: RowBatch, place: int) -> Row:
    return Row(**{name: values[place] for name, values in batch.columns.items()})


@dataclass(frozen=True, kw_only=True)
class _PagePicture:
    """An image on the page."""

    caption: str
    picture: Thumbnail | None
    why_not: str


class _Pictures:
    """Images of a page, each read once."""

    def __init__(self, thumbnails: Thumbnails) -> None:
        self._thumbnails = thumbnails
        self.missing: dict[str, int] = {}

    def __call__(self, extreme: Extreme) -> _PagePicture:
        row = extreme.row
        label = "" if row.label is None else f", label {row.label}"
        caption = f"{row.key}{label}: {extreme.value:+.1f} standard deviations"
        try:
            return _PagePicture(caption=caption, picture=self._thumbnails(row), why_not="")
        except NoPicture as error:
            self.missing[str(error)] = self.missing.get(str(error), 0) + 1
            return _PagePicture(caption=caption, picture=None, why_not=str(error))


def render(description: Description, ends: dict[str, list[Ends]], side: int = 80) -> str:
    """The page as HTML; `ends` from `extremes`, pictures of at most `side` pixels a side.

    Images that cannot be read are left blank, and the page tells why.
    """
    run = description.run
    pictures = _Pictures(Thumbnails(run, side))
    by_share = sorted(description.heads, key=lambda words: -words.share)
    heads = [_head(words, description, ends[words.head], pictures) for words in by_share]
    return render_page(
        template_environment("clipaudit.heads").get_template("heads.html"),
        run=run.directory.url,
        model=run.manifest.identity["model"],
        rows=description.rows,
        where=description.config.rows.described,
        pool=description.pool.summary,
        heads=heads,
        missing=pictures.missing,
        roles_missing=description.roles_missing if description.config.roles else None,
        side=side,
        version=VERSION,
    )


def _head(words: HeadWords, description: Description, ends: list[Ends], pictures: _Pictures) -> dict[str, Any]:
    return {
        "name": words.head,
        "share": words.share,
        "role": words.role,
        "texts": list(_texts(words, description)),
        "ends": [
            {
                "text": description.pool.texts[int(text)],
                "high": [pictures(extreme) for extreme in pair.high],
                "low": [pictures(extreme) for extreme in pair.low],
            }
            for text, pair in zip(words.span.texts, ends, strict=False)
        ],
    }


def _texts(words: HeadWords, description: Description) -> Iterator[dict[str, Any]]:
    widest = float(max(words.span.explained[:_TEXTS], default=1.0)) or 1.0
    for text, explained in zip(words.span.texts[:_TEXTS].tolist(), words.span.explained.tolist(), strict=False):
        yield {
            "text": description.pool.texts[text],
            "property": description.pool.properties[text],
            "explained": explained,
            "width": explained / widest,
        }
