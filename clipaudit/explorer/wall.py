"""The wall: which rows of a run are shown, in which order, in which groups."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import Bools, Float32s, Ints
from clipaudit.errors import UsageError
from clipaudit.retrieval.parts import QueryPart
from clipaudit.retrieval.row_table import RowTable
from clipaudit.run.filter_columns import FilterColumns, value_text
from clipaudit.run.filters import parse_filter

T = TypeVar("T")
MAX_GROUPS: Final = 10_000
_VIEWS: Final = 16
"""Orders of rows that stay in memory."""
SCORE: Final = "score"
"""What a sort order calls the score of the question."""


@dataclass(frozen=True, kw_only=True)
class ViewRequest:
    """What the wall is asked for."""

    where: tuple[str, ...] = ()
    """Filters that rows must all pass."""
    sort: str | None = None
    """A column, or `score`; a minus before it for descending. None: by score, best first, or as stored."""
    group: str | None = None
    """A column."""
    parts: tuple[QueryPart, ...] = ()
    """The question whose scores rows get; none for no question."""
    weights: tuple[tuple[str, float], ...] = ()
    """(head, weight) by which the question is asked; none for the whole embedding."""
    inside: str | None = None
    """A region of a map, as `layouts.Region` reads it, in which rows must lie."""

    @cached_property
    def identity(self) -> tuple[object, ...]:
        """What tells it from other requests, for caches: without the bytes of images."""
        return self.where, self.sort, self.group, tuple(part.identity for part in self.parts), self.weights, self.inside

    def named(self, columns: FilterColumns) -> tuple[str, ...]:
        """Full names of the columns that it names; those of a filter that is not understood are left out, for whoever
        evaluates it says what is wrong.
        """
        names = [name.lstrip("-").strip("`") for name in (self.sort, self.group) if name]
        for text in self.where:
            try:
                terms = parse_filter(text, columns).terms
            except UsageError:
                continue
            names += [column.name for term in terms for column in term.columns]
        return tuple(names)


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Rows of one value of the column that groups."""

    value: str | None
    """As filters write it; None for rows without a value."""
    start: int
    """Position of its first row in the view."""
    count: int


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """Rows in an order."""

    order: Ints
    """(m,) numbers of rows."""
    scores: Float32s | None
    """(n,) of all rows by number; None without a question."""
    groups: tuple[RowGroup, ...]
    """In the order of the view; empty where no column groups."""


class Wall:
    """Views over one table of rows; the latest ones stay in memory. For any number of threads."""

    def __init__(
        self, rows: RowTable, scores: Callable[[ViewRequest], Float32s], inside: Callable[[str], Bools]
    ) -> None:
        """scores: (n,) of a request that has parts; inside: (n,) rows in a region of a map."""
        self.rows = rows
        self._scores_of, self._inside = scores, inside
        self._views: OrderedDict[Any, View] = OrderedDict()
        self._facts: dict[str, Any] = {}
        self._lock = threading.Lock()

    def view(self, request: ViewRequest) -> View:
        """The rows of a request; UsageError for filters, columns and questions that are not understood."""
        with self._lock:
            if request.identity in self._views:
                self._views.move_to_end(request.identity)
                return self._views[request.identity]
        view = self._new(request)
        with self._lock:
            self._views[request.identity] = view
            if len(self._views) > _VIEWS:
                self._views.popitem(last=False)
        return view

    def fact(self, name: str, compute: Callable[[], T]) -> T:
        """What was computed of these rows under a name, once: they never change."""
        if name not in self._facts:
            self._facts[name] = compute()
        fact: T = self._facts[name]
        return fact

    def values(self, column: str) -> Any:  # noqa: ANN401 - pyarrow has no types
        """(n,) the values of a column as filters compare them, lists as one text; UsageError for no such column."""
        filtered = self.rows.filter_columns.find(column)
        values = filtered.compared_values(filtered.stored_values(self.rows.table))
        if not filtered.is_list:
            return values
        return pa.chunked_array(
            [pa.array([None if each is None else value_text(each) for each in values.to_pylist()], pa.string())]
        )

    def _new(self, request: ViewRequest) -> View:
        allowed = self.rows.mask(request.where) if request.where else np.ones(len(self.rows), np.bool_)
        if request.inside is not None:
            allowed = allowed & self._inside(request.inside)
        scores = self._scores_of(request) if request.parts else None
        order = self._sorted(np.flatnonzero(allowed), request.sort, scores)
        if request.group is None:
            return View(order=order, scores=scores, groups=())
        return self._grouped(order, scores, request.group)

    def _sorted(self, numbers: Ints, sort: str | None, scores: Float32s | None) -> Ints:
        """Numbers of rows in the order asked for; rows without a value come last, equal ones as stored."""
        if sort is None and scores is None:
            return numbers
        name = (f"-{SCORE}" if sort is None else sort).strip("`")
        descending, name = name.startswith("-"), name.removeprefix("-").strip("`")
        if name == SCORE:
            if scores is None:
                raise UsageError("there is no score to sort by: ask with a text, an image or a sample")
            chosen = scores[numbers]
            order: Ints = numbers[np.argsort(-chosen if descending else chosen, kind="stable")]
            return order
        values = self.values(name).take(pa.array(numbers))
        missing = np.asarray(pc.is_null(values).to_numpy(zero_copy_only=False), np.bool_)
        ranks = _ranks(values)
        order = np.lexsort((-ranks if descending else ranks, missing))
        return numbers[order]

    def _grouped(self, order: Ints, scores: Float32s | None, column: str) -> View:
        values = self.values(column).take(pa.array(order))
        ranks = _ranks(values)
        # rows keep their order within a group; a missing value has the highest rank
        places = np.argsort(ranks, kind="stable")
        _, starts, counts = np.unique(ranks[places], return_index=True, return_counts=True)
        if len(starts) > MAX_GROUPS:
            raise UsageError(f"{column} has {len(starts):,} values, more than the {MAX_GROUPS:,} groups of one page")
        firsts = values.take(pa.array(places[starts])).to_pylist() if len(starts) else []
        groups = tuple(
            RowGroup(value=None if value is None else value_text(value), start=int(start), count=int(count))
            for value, start, count in zip(firsts, starts, counts, strict=True)
        )
        return View(order=order[places], scores=scores, groups=groups)


def _ranks(values: Any) -> Ints:  # noqa: ANN401
    """(m,) int64: places of values among the sorted distinct ones; a missing value comes behind all others."""
    ranked = pc.rank(values, sort_keys="ascending", tiebreaker="dense")
    ranks: Ints = np.asarray(ranked.to_numpy(zero_copy_only=False), np.int64)
    return ranks
