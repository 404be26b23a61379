"""`HeadIndex`: one opened index, searched by coordinates of images or by directions of texts."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipaudit.arrays import ArrayHolder, Bools, Float32s, Floats, Ints
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.retrieval.card import EMBEDDING, IndexCard, Space, check_columns, check_covers, read_card
from clipaudit.retrieval.rowmap import RowMap
from clipaudit.retrieval.vector_index import VectorIndex, threads
from clipaudit.run.derived import LocalFiles
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run, RunPlace, opened
from clipaudit.run.row import Row
from clipaudit.schema import Names, as_names


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Neighbours(ArrayHolder):
    """The rows nearest to q queries."""

    scores: Float32s
    """(q, k) best first; -inf where there are no more rows."""
    numbers: Ints
    """(q, k) numbers of rows, for `HeadIndex.rows`; -1 where there are no more."""


class HeadIndex:
    """One index of a run, memory-mapped, for any number of threads.

    >>> index = HeadIndex.open("demo-out/birds-run", "L05H00")
    >>> nearest = index.search(index.coordinates(0, "birds-000007"), k=3, where="place = 'water'")
    >>> [row.attributes["place"] for row in index.rows(nearest.numbers[0])]
    ['water', 'water', 'water']

    Scores, by the card's metric: `centred` (y - m)(y' - m)' and, for texts, (y - m)(Q t)', m the run's mean; `cosine`
    those, divided by both lengths; `raw` those of `centred` without m.
    """

    def __init__(
        self, run: Run, card: IndexCard, rows: RowMap, index: VectorIndex, files: LocalFiles, stale: str | None
    ) -> None:
        """Use `open`."""
        self.run, self.card, self.stale = run, card, stale
        self._files = files  # copies of remote files exist as long as this object
        self.name = card.name
        self.row_map = rows
        self.space = Space(card.metric, np.array(card.mean))
        self._index = index
        self._lock = threading.Lock()
        self._basis: Floats | None = None

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"HeadIndex({self.run.directory.url!r}, {self.name!r}, {len(self)} rows)"

    @staticmethod
    def open(
        run: RunPlace,
        name: str,
        *,
        stale: bool = False,
        verify: bool = True,
        rows: RowMap | None = None,
        place: RunDirectory | None = None,
    ) -> HeadIndex:
        """The index of a head label, or of `embedding`; `stale` allows one that is older than the run.

        `verify=False` trusts the files' sizes without hashing them; `rows` shares what another index has opened;
        `place`: the directory whose `indexes/` holds it, where that is not the run.
        UsageError when the head is not stored, not indexed or its index too old, RunMismatch when it is of another
        run, IntegrityError when a file is missing or damaged.
        """
        reader = opened(run)
        check_columns(reader, [name])
        place = place or reader.directory
        card = read_card(place, name)
        if rows is None or tuple(rows.segments) != card.segments:
            rows = RowMap(reader, card.segments, verify=verify, place=place)
        remark = check_covers(reader, card, rows.shards, stale=stale)
        files = LocalFiles(place)
        local = files.directory(card.directory, card.files, verify=verify)
        index = VectorIndex.load(local, card.kind, card.dim)
        if not len(index) == len(rows) == card.rows:
            raise IntegrityError(
                f"the index of {name} at {reader.directory.url} has {len(index)} vectors and {len(rows)} rows where its"
                f" card says {card.rows}: build it again"
            )
        return HeadIndex(reader, card, rows, index, files, remark)

    # -- queries -----------------------------------------------------------------------------------------------------

    def search(self, coordinates: Floats, k: int = 10, *, where: Names = ()) -> Neighbours:
        """The k images most alike in this head, for (dh,) or (q, dh) float coordinates of images (D for `embedding`).

        `where` filters rows, `place = water`, see `clipaudit.run.filters`. UsageError for more neighbours than vectors,
        a wrong shape or a filter that is not understood.
        """
        return self.nearest(self.space.images(self._shaped(coordinates)), k, self._allowed(where))

    def search_text(self, texts: Floats, k: int = 10, *, lowest: bool = False, where: Names = ()) -> Neighbours:
        """The k images furthest along (D,) or (q, D) unit text vectors; with `lowest`, furthest the other way.

        `where` and errors as in `search`.
        """
        _require_finite(texts, self.name)
        queries = self.space.texts(self.fold(np.atleast_2d(texts)))
        result = self.nearest(-queries if lowest else queries, k, self._allowed(where))
        return Neighbours(scores=-result.scores, numbers=result.numbers) if lowest else result

    def fold(self, texts: Floats) -> Floats:
        """(q, D) text vectors in this head's coordinates, `Q t`; as they are for `embedding`."""
        if self.name == EMBEDDING:
            return texts
        if self._basis is None:
            self._basis = self.run.basis().Q(self.name)
        folded: Floats = texts @ self._basis.T  # (q, D) @ (D, dh)
        return folded

    def nearest(self, queries: Float32s, k: int, allowed: Bools | None = None) -> Neighbours:
        """The k largest products with (q, dim) float32 queries that are prepared, among the rows of a (n,) mask.

        UsageError for k below 1 or above the number of rows.
        """
        if k < 1:
            raise UsageError(f"-k must be at least 1, not {k}")
        if k > len(self):
            raise UsageError(
                f"-k {k} asks for more neighbours than the {len(self):,} vectors of the index of {self.name}"
            )
        with threads(1 if len(queries) == 1 else os.cpu_count() or 1):
            scores, numbers = self._index.search(np.ascontiguousarray(queries), k, self.card.effort, allowed)
        return Neighbours(scores=np.where(numbers < 0, -np.inf, scores).astype(np.float32), numbers=numbers)

    def mask(self, where: Names) -> Bools:
        """(n,) booleans: which rows pass a filter, or each of several; UsageError as in `search`."""
        return self.row_map.mask(where)

    def _allowed(self, where: Names) -> Bools | None:
        filters = as_names(where)
        return self.mask(filters) if filters or self.row_map.in_state is not None else None

    # -- rows --------------------------------------------------------------------------------------------------------

    def rows(self, numbers: Sequence[int] | Ints) -> list[Row]:
        """Shard, key, label and the rest of the rows with these numbers, (m,) integers; -1 is left out."""
        valid = np.asarray(numbers, np.int64)
        return self.row_map.rows(valid[valid >= 0])

    def coordinates(self, shard: int, key: str) -> Floats:
        """(dim,) float16, the stored coordinates of a sample of the run; UsageError when there is no such sample."""
        shard, place = self.row_map.place(self.row_map.number(shard, key))
        coordinates: Floats = self.run.vectors(self.name, (), [shard]).values[place]
        return coordinates

    def prepared(self, numbers: Ints) -> Float32s:
        """(m, dim) float32 rows as the index stores them, centred: their products with queries are the scores."""
        with self._lock:  # the first call may make a table, which threads must not do at the same time
            return self._index.vectors(numbers)

    def _shaped(self, coordinates: Floats) -> Floats:
        queries = np.atleast_2d(coordinates)
        _require_finite(queries, self.name)
        if queries.ndim != 2 or queries.shape[1] != self.card.dim:
            raise UsageError(f"queries of {self.name} have {self.card.dim} numbers, not shape {np.shape(coordinates)}")
        return queries


def _require_finite(queries: Floats, name: str) -> None:
    """UsageError for nan and inf: no row is near to them, and an index would answer all the same."""
    if not np.isfinite(queries).all():
        raise UsageError(f"a query of {name} holds numbers that are not finite")
