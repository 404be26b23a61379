"""Zero-shot accuracy as counts: classes, confusions, groups (class x attribute value), intervals, random controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import ArrayHolder, Bools, Float32s, Float64s, Ints
from clipaudit.errors import UsageError
from clipaudit.statistics import Proportion

Group: TypeAlias = tuple[int, str]
"""A class, by its row of the class vectors, and an attribute's value."""

_BLOCK = 2**24
"""Logits held at once while many sets of heads are tried."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LogitBatch(ArrayHolder):
    """Some rows' logits, and what each of P replaced columns takes away from them."""

    base: Float32s
    """(n, C) image-text products of the stored embeddings."""
    removed: Float32s
    """(P, n, C): ablated logits are `base - removed[chosen].sum(0)`."""
    truth: Ints
    """(n,) true classes, as rows of the class vectors; -1 where images have several."""
    values: npt.NDArray[Any]
    """(n,) the attribute's values, str objects, None where a row has none; all None without an attribute."""
    present: Bools | None = None
    """(n, C) which classes each row has, in a run whose images have several; None in others."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Score(ArrayHolder):
    """What zero-shot classification gets right."""

    confusion: Ints
    """(C, C) rows by true class and predicted class."""
    groups: dict[Group, Proportion]
    """By class and attribute value, sorted; empty without an attribute. Rows without a value are in none."""

    @property
    def accuracy(self) -> Proportion:
        """Over all rows."""
        return Proportion(right=int(np.trace(self.confusion)), total=int(self.confusion.sum()))

    @property
    def by_class(self) -> tuple[Proportion, ...]:
        """Over the rows of each class."""
        totals = self.confusion.sum(axis=1)
        return tuple(
            Proportion(right=int(right), total=int(total))
            for right, total in zip(np.diagonal(self.confusion), totals, strict=True)
        )

    def worst_group(self, min_rows: int = 1) -> tuple[Group, Proportion] | None:
        """The group with the lowest accuracy among those with at least `min_rows` rows; None when there is none."""
        large = [item for item in self.groups.items() if item[1].total >= max(min_rows, 1)]
        return min(large, key=lambda item: item[1].value, default=None)

    @property
    def near_chance(self) -> bool:
        """Whether accuracy cannot be told from guessing: wrong labels or preprocessing are the usual cause."""
        return near_chance(self.accuracy, len(self.confusion))


def near_chance(accuracy: Proportion, classes: int) -> bool:
    """Whether the lower 95 % limit of an accuracy is at most 1 / classes: it cannot be told from guessing."""
    return accuracy.interval()[0] <= 1 / classes


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SetScores(ArrayHolder):
    """Right answers of many sets of ablated columns; S sets, C classes, G groups."""

    sets: Bools
    """(S, P) which of the columns each set ablates."""
    class_right: Ints
    """(S, C)"""
    class_total: Ints
    """(C,)"""
    groups: tuple[Group, ...]
    """Sorted."""
    group_right: Ints
    """(S, G)"""
    group_total: Ints
    """(G,)"""

    @property
    def accuracy(self) -> Float64s:
        """(S,) share of right answers over all rows, 0..1; nan without rows."""
        with np.errstate(invalid="ignore"):
            shares: Float64s = self.class_right.sum(axis=1) / self.class_total.sum()
        return shares

    def worst_group(self, min_rows: int = 1) -> Float64s:
        """(S,) each set's lowest accuracy over groups of at least `min_rows` rows, 0..1; nan without such a group."""
        large = self.group_total >= max(min_rows, 1)
        if not large.any():
            return np.full(len(self.sets), np.nan)
        shares: Float64s = (self.group_right[:, large] / self.group_total[large]).min(axis=1)
        return shares


@dataclass(frozen=True, kw_only=True)
class Control:
    """An observed figure among those of random sets of the same size and layers."""

    observed: float
    p: float
    """(1 + random figures at least as high) / (1 + random sets); never 0."""
    beaten: float
    """Share of the random figures below the observed one, 0..1."""
    mean: float
    deviation: float
    """Mean and standard deviation of the random figures."""
    sets: int


def control(observed: float, random: npt.ArrayLike) -> Control:
    """How an observed figure, of which more is better, stands among random ones, (R,) of the same unit.

    One-sided permutation p-value with the observed figure among the random ones. UsageError without random figures.
    """
    drawn = np.asarray(random, np.float64)
    if not drawn.size:
        raise UsageError("a control needs at least one random set")
    return Control(
        observed=float(observed),
        p=(1 + int((drawn >= observed).sum())) / (1 + drawn.size),  # the observed set is one of the possible ones
        beaten=float((drawn < observed).mean()),
        mean=float(drawn.mean()),
        deviation=float(drawn.std()),
        sets=int(drawn.size),
    )


def score(batches: Iterable[LogitBatch], sets: npt.ArrayLike) -> list[Score]:
    """The full score of each of a few sets of ablated columns, in one pass over the rows.

    sets: (S, P) booleans, which of the P replaced columns each set ablates; an empty set is the plain model. UsageError
    when there are no rows.
    """
    chosen = np.atleast_2d(np.asarray(sets, np.bool_))
    confusion: Ints | None = None
    tally = _GroupTally(len(chosen))
    for batch in batches:
        classes = batch.base.shape[1]
        if confusion is None:
            confusion = np.zeros((len(chosen), classes, classes), np.int64)
        for start, predicted in _predictions(batch, chosen):
            for row, answers in enumerate(predicted, start):
                # counts of (true class, predicted class), numbered row by row
                cells = np.bincount(batch.truth * classes + answers, minlength=classes * classes)
                confusion[row] += cells.reshape(classes, classes)
            tally.add(start, predicted == batch.truth, batch)
    if confusion is None:
        raise UsageError("there are no rows to score")
    groups, right, total = tally.sorted()
    return [
        Score(
            confusion=confusion[row],
            groups={group: Proportion(right=int(right[row, g]), total=int(total[g])) for g, group in enumerate(groups)},
        )
        for row in range(len(chosen))
    ]


def score_sets(batches: Iterable[LogitBatch], sets: npt.ArrayLike) -> SetScores:
    """Right answers of many sets of ablated columns, in one pass over the rows; memory is bounded by batch and sets.

    sets: (S, P) booleans as in `score`. UsageError when there are no rows.
    """
    chosen = np.atleast_2d(np.asarray(sets, np.bool_))
    right: Ints | None = None
    total: Ints = np.zeros(0, np.int64)
    tally = _GroupTally(len(chosen))
    for batch in batches:
        classes = batch.base.shape[1]
        if right is None:
            right, total = np.zeros((len(chosen), classes), np.int64), np.zeros(classes, np.int64)
        total += np.bincount(batch.truth, minlength=classes)
        for start, predicted in _predictions(batch, chosen):
            good = predicted == batch.truth
            right[start : start + len(good)] += _count(good, batch.truth, classes)
            tally.add(start, good, batch)
    if right is None:
        raise UsageError("there are no rows to score")
    groups, group_right, group_total = tally.sorted()
    return SetScores(
        sets=chosen,
        class_right=right,
        class_total=total,
        groups=groups,
        group_right=group_right,
        group_total=group_total,
    )


def _predictions(batch: LogitBatch, sets: Bools) -> Iterator[tuple[int, Ints]]:
    """(first set, (some sets, n) predicted classes), a bounded number of logits at a time."""
    columns, rows, classes = batch.removed.shape
    if sets.shape[1] != columns:
        raise ValueError(f"sets over {sets.shape[1]} columns for batches with {columns}")
    flat = batch.removed.reshape(columns, rows * classes)
    step = max(1, _BLOCK // max(rows * classes, 1))
    for start in range(0, len(sets), step):
        piece = sets[start : start + step]
        # (sets, P) @ (P, n * C): what a set takes away is the sum over its columns
        logits = batch.base - (piece.astype(np.float32) @ flat).reshape(len(piece), rows, classes)
        yield start, logits.argmax(axis=2)


def _count(good: Bools, codes: Ints, kinds: int) -> Ints:
    """Right answers (S, n) counted by the rows' codes (n,): (S, kinds). Rows with a negative code count nowhere.

    A product with one-hot codes: counts stay below 2^24, so float32 is exact.
    """
    rows = np.flatnonzero(codes >= 0)
    member = np.zeros((len(rows), kinds), np.float32)
    member[np.arange(len(rows)), codes[rows]] = 1
    counts: Ints = np.rint(good[:, rows].astype(np.float32) @ member).astype(np.int64)
    return counts


class _GroupTally:
    """Counters of right answers by set and group; a group is added when its first row comes."""

    def __init__(self, sets: int) -> None:
        self._codes: dict[Group, int] = {}
        self._right = np.zeros((sets, 0), np.int64)
        self._total = np.zeros(0, np.int64)

    def add(self, start: int, good: Bools, batch: LogitBatch) -> None:
        """(some sets, n) right answers, of the sets from `start` on."""
        codes = np.array(
            [
                -1 if value is None else self._codes.setdefault((truth, value), len(self._codes))
                for truth, value in zip(batch.truth.tolist(), batch.values, strict=True)
            ],
            np.int64,
        )
        new = len(self._codes) - len(self._total)
        if new:
            self._right = np.pad(self._right, ((0, 0), (0, new)))
            self._total = np.pad(self._total, (0, new))
        if start == 0:  # the same rows come again with every further piece of the sets
            self._total += np.bincount(codes[codes >= 0], minlength=len(self._total))
        self._right[start : start + len(good)] += _count(good, codes, len(self._total))

    def sorted(self) -> tuple[tuple[Group, ...], Ints, Ints]:
        """Groups in order, right answers (S, G), rows (G,)."""
        groups = tuple(sorted(self._codes))
        order = [self._codes[group] for group in groups]
        return groups, self._right[:, order], self._total[order]
