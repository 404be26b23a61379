"""The images farthest out along directions of heads, from one pass over the stored rows.

The few highest and lowest of each direction are kept, so that memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Float64s
from clipaudit.heads.allocation import PublishedAllocation, stream_allocated
from clipaudit.run.reader import Run
from clipaudit.run.row import Row
from clipaudit.run.rows import ALL, RowBatch, Rows

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


def extremes_along(
    run: Run,
    directions: Mapping[str, Float64s],
    keep: int,
    rows: Rows = ALL,
    *,
    published: PublishedAllocation | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
) -> dict[str, list[Ends]]:
    """The ends of each direction of each head, `keep` images each, the farthest first.

    directions: (m, dh) float64 by head, in its own basis, or in the basis of `published`. `on_rows(done)` as it goes.
    The errors of `stream_rows`.
    """
    extremes_of = {head: Extremes(rows_of_head, keep) for head, rows_of_head in directions.items()}
    columns = ["shard_id", "index", "key", "offset", "nbytes", *(["label"] if run.spec.label_kind else [])]
    by_number: dict[int, Row] = {}
    done = 0
    for batch in stream_allocated(run, list(extremes_of), columns, rows, _BATCH_ROWS, published):
        for head, along in extremes_of.items():
            along.update(batch.vectors[head], done)
        wanted = set().union(*(along.numbers for along in extremes_of.values()))
        by_number = {number: row for number, row in by_number.items() if number in wanted}
        by_number |= {number: _row(batch, number - done) for number in wanted if number >= done}
        done += len(batch)
        on_rows(done)
    return {head: along.ends(by_number) for head, along in extremes_of.items()}


def _row(batch: RowBatch, place: int) -> Row:
    return Row(**{name: values[place] for name, values in batch.columns.items()})
