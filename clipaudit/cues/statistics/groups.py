"""Accuracy by class x value: which groups are the conflict of a cue, who is worst, and what a change does (S7-S9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.result.finding_parts import Estimate, GroupAccuracy, Groups
from clipaudit.cues.statistics.intervals import COUNT_ONLY, GATE, Paired, accuracy, gap_if_equal, group_mean, size_word


@dataclass(frozen=True, eq=False, kw_only=True)
class Grouping:
    """Images by class and value. Group number = class * V + value."""

    attribute: str
    classes: tuple[str, ...]
    values: tuple[str, ...]
    group: Ints
    """(n,) group, -1 for images without a value."""

    @property
    def count(self) -> int:
        """Groups, empty ones included."""
        return len(self.classes) * len(self.values)

    def name(self, group: int) -> str:
        """`waterbird, land`."""
        k, v = divmod(group, len(self.values))
        return f"{self.classes[k]}, {self.values[v]}"

    def take(self, rows: Bools) -> Grouping:
        """Some of the images."""
        return Grouping(attribute=self.attribute, classes=self.classes, values=self.values, group=self.group[rows])

    def sizes(self) -> Ints:
        """(G,) images of each group."""
        found: Ints = np.bincount(self.group[self.group >= 0], minlength=self.count)
        return found

    def right(self, good: Bools) -> Ints:
        """(G,) right answers of each group."""
        found: Ints = np.bincount(self.group[(self.group >= 0) & good], minlength=self.count)
        return found

    def conflict(self, k: int, value: int) -> tuple[list[int], list[int]]:
        """Groups that go against the cue (class k, value): class k without the value, and other classes with it."""
        V = len(self.values)
        own = [k * V + v for v in range(V) if v != value]
        others = [j * V + value for j in range(len(self.classes)) if j != k]
        return own, others


def grouping(truth: Ints, classes: Sequence[str], attribute: str, values: Sequence[str], codes: Ints) -> Grouping:
    """Groups from classes (n,) and value codes (n,), -1 without a value."""
    group = np.where((codes >= 0) & (truth >= 0), truth * len(values) + codes, -1)
    return Grouping(attribute=attribute, classes=tuple(classes), values=tuple(values), group=group)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conflict:
    """The groups of a cue that are large enough, with weights: both sides of the conflict count equally.

    With many classes the other classes' side would otherwise drown the class's own.
    """

    groups: tuple[int, ...]
    weights: tuple[float, ...]
    own: int
    """Images of the class without the cue."""
    others: int
    """Images of other classes with the cue."""

    def rows(self, group: Ints) -> Bools:
        """(n,) images in the conflict."""
        return np.isin(group, self.groups)


def conflict_of(found: Grouping, k: int, value: int, least: int = COUNT_ONLY) -> Conflict:
    """The conflict of a cue over groups of at least `least` images; a side without such a group has no weight."""
    sizes = found.sizes()
    groups: list[int] = []
    weights: list[float] = []
    totals = []
    for side in found.conflict(k, value):
        large = [group for group in side if sizes[group] >= least]
        groups += large
        # inside one side groups count by size: many small ones would make the mean needlessly uncertain
        inside = sizes[large].sum()
        weights += [float(sizes[group] / inside) for group in large]
        totals.append(int(sizes[side].sum()) if side else 0)
    return Conflict(groups=tuple(groups), weights=tuple(weights), own=totals[0], others=totals[1])


def large_groups(found: Grouping, least: int) -> list[int]:
    """Groups with at least `least` images."""
    return np.flatnonzero(found.sizes() >= least).tolist()


def worst_group(found: Grouping, good: Bools, least: int) -> int | None:
    """The group with the lowest accuracy among large ones."""
    sizes, right = found.sizes(), found.right(good)
    large = large_groups(found, least)
    return min(large, key=lambda group: right[group] / sizes[group], default=None)


def describe_groups(
    found: Grouping,
    good: Bools,
    rows: str,
    *,
    n_min: int,
    seed: int,
    train: Ints | None = None,
    after: Bools | None = None,
    cluster: Ints | None = None,
) -> Groups:
    """All that is said of groups; `good` (n,) right answers, `after` the same with something replaced.

    train: (G,) images of each group where the association was measured, for the weighted average.
    """
    sizes, right = found.sizes(), found.right(good)
    changed = None if after is None else found.right(after)
    large = large_groups(found, n_min)
    shown = max(int((sizes >= COUNT_ONLY).sum()), 1)
    paired = None
    if after is not None and cluster is not None:
        change = after.astype(np.int64) - good.astype(np.int64)
        paired = Paired(change=change, group=found.group, cluster=cluster)
    entries = [
        _entry(found, group, sizes, right, changed, paired, shown) for group in np.flatnonzero(sizes > 0).tolist()
    ]
    worst = min(large, key=lambda group: right[group] / sizes[group], default=None)
    inside = found.group >= 0
    plain = accuracy(int(right.sum()), int(inside.sum()))
    lowest = None if worst is None else _entry(found, worst, sizes, right, changed, paired, max(len(large), 1))
    gap = None
    if worst is not None and plain.value is not None:
        gap = plain.value - float(right[worst] / sizes[worst])
    equal = None
    if large and plain.value is not None:
        equal = gap_if_equal(sizes[large], plain.value, seed)
    return Groups(
        attribute=found.attribute,
        rows=rows,
        groups=tuple(entries),
        plain_average=plain,
        train_weighted=_weighted(right, sizes, train),
        group_mean=group_mean(right, np.where(sizes >= COUNT_ONLY, sizes, 0)),
        worst=lowest,
        gap=gap,
        gap_if_equal=equal,
        n_min=n_min,
        left_out=tuple(
            f"{found.name(group)}: {sizes[group]} images"
            for group in np.flatnonzero((sizes > 0) & (sizes < n_min)).tolist()
        ),
    )


def _entry(
    found: Grouping, group: int, sizes: Ints, right: Ints, changed: Ints | None, paired: Paired | None, together: int
) -> GroupAccuracy:
    n = int(sizes[group])
    k, v = divmod(group, len(found.values))
    enough = n >= COUNT_ONLY
    return GroupAccuracy(
        class_name=found.classes[k],
        value=found.values[v],
        n=n,
        size=size_word(n),
        accuracy=accuracy(int(right[group]), n, together) if enough else None,
        without=accuracy(int(changed[group]), n, together) if enough and changed is not None else None,
        change=paired.one(group) if enough and paired is not None else None,
    )


def _weighted(right: Ints, sizes: Ints, train: Ints | None) -> float | None:
    if train is None:
        return None
    weights = np.where(sizes > 0, train, 0).astype(np.float64)
    if not weights.sum():
        return None
    return float((weights * right / np.maximum(sizes, 1)).sum() / weights.sum())


def enough_for_verdict(conflict: Conflict) -> list[tuple[str, int]]:
    """Sides of the conflict with fewer than 100 images, and how many more each needs."""
    sides = (("own", conflict.own), ("others", conflict.others))
    return [(name, GATE - n) for name, n in sides if n < GATE]


def empty_estimate(**changes: Any) -> Estimate:
    """An estimate of nothing."""
    return Estimate(**{"value": None, "low": None, "high": None, "n": 0, **changes})
