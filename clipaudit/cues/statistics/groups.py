"""Accuracy by class x value (S8): which groups are the conflict of a cue (S7), which is worst, what a change does.

Letters: n images, G = classes x values groups. Group number = class * values + value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.result.finding_parts import GroupAccuracy, Groups
from clipaudit.cues.statistics.intervals import COUNT_ONLY, Paired, accuracy, gap_if_equal, group_mean, size_word

_ROUNDING: Final = 1e-6
"""Sums of shares of clusters are whole numbers but for rounding."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Grouping:
    """n images by class and value."""

    attribute: str
    """Column, or `pseudo-attribute: TEXT`."""
    classes: tuple[str, ...]
    values: tuple[str, ...]
    group: Ints
    """(n,) int64 group, 0..G-1; -1 for images without a value."""

    @property
    def count(self) -> int:
        """G, empty groups included."""
        return len(self.classes) * len(self.values)

    def name(self, group: int) -> str:
        """`waterbird, land`."""
        k, v = divmod(group, len(self.values))
        return f"{self.classes[k]}, {self.values[v]}"

    def take(self, rows: Bools) -> Grouping:
        """The images of a mask (n,), in the same groups."""
        return Grouping(attribute=self.attribute, classes=self.classes, values=self.values, group=self.group[rows])

    def sizes(self) -> Ints:
        """(G,) int64 images of each group."""
        sizes: Ints = np.bincount(self.group[self.group >= 0], minlength=self.count)
        return sizes

    def right(self, correct: Bools) -> Ints:
        """(G,) int64 right answers of each group, from a mask (n,) of right answers."""
        right: Ints = np.bincount(self.group[(self.group >= 0) & correct], minlength=self.count)
        return right

    def independent(self, values: Bools | None, cluster: Ints | None) -> Float64s:
        """(G,) independent images of each group, or those among them with a value (n,): images of one cluster and group
        share the weight of one. cluster (n,), None when every image stands for itself."""
        inside = np.flatnonzero(self.group >= 0)
        weight = np.ones(len(inside))
        if cluster is not None and len(inside):
            # a cluster with images in two groups is one image in each
            cells = np.unique(self.group[inside] * (int(cluster.max()) + 1) + cluster[inside], return_inverse=True)[1]
            weight = 1 / np.bincount(cells)[cells]
        if values is not None:
            weight = weight * values[inside]
        return np.bincount(self.group[inside], weight, minlength=self.count).astype(np.float64)

    def conflict(self, k: int, value: int) -> tuple[list[int], list[int]]:
        """Groups that go against the cue (class k, value): class k without the value, and other classes with it."""
        V = len(self.values)
        own = [k * V + v for v in range(V) if v != value]
        others = [j * V + value for j in range(len(self.classes)) if j != k]
        return own, others


def grouping(truth: Ints, classes: Sequence[str], attribute: str, values: Sequence[str], codes: Ints) -> Grouping:
    """Groups from classes (n,) and value codes (n,); -1 in either leaves an image in no group."""
    group = np.where((codes >= 0) & (truth >= 0), truth * len(values) + codes, -1)
    return Grouping(attribute=attribute, classes=tuple(classes), values=tuple(values), group=group)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conflict:
    """The groups that go against a cue and are large enough, with weights: both sides count equally (S7).

    With many classes the other classes' side would otherwise outweigh the class's own.
    """

    groups: tuple[int, ...]
    weights: tuple[float, ...]
    """One a group; those of each side sum to 1."""
    own: int
    """Images of the class without the cue."""
    others: int
    """Images of other classes with the cue."""

    def rows(self, group: Ints) -> Bools:
        """(n,) mask of the images in the conflict, from the groups (n,) of images."""
        return np.isin(group, self.groups)


def conflict_of(grouped: Grouping, k: int, value: int, least: int = COUNT_ONLY) -> Conflict:
    """The conflict of the cue (class k, value) over groups of at least `least` images.

    A side without such a group has no weight.
    """
    sizes = grouped.sizes()
    groups: list[int] = []
    weights: list[float] = []
    totals = []
    for side in grouped.conflict(k, value):
        large = [group for group in side if sizes[group] >= least]
        groups += large
        # inside one side groups count by size (S7): pseudo-attributes, which alone use this, pool a side's classes, and
        # corrected counts of small groups are noise; the gap, on which verdicts rest, weighs classes alike (S9)
        inside = sizes[large].sum()
        weights += [float(sizes[group] / inside) for group in large]
        totals.append(int(sizes[side].sum()) if side else 0)
    return Conflict(groups=tuple(groups), weights=tuple(weights), own=totals[0], others=totals[1])


def large_groups(grouped: Grouping, least: int) -> list[int]:
    """Groups with at least `least` images."""
    return np.flatnonzero(grouped.sizes() >= least).tolist()


def worst_group(grouped: Grouping, correct: Bools, least: int) -> int | None:
    """The group with the lowest accuracy, correct (n,), among those of at least `least` images; None without one."""
    sizes, right = grouped.sizes(), grouped.right(correct)
    large = large_groups(grouped, least)
    return min(large, key=lambda group: right[group] / sizes[group], default=None)


def describe_groups(
    grouped: Grouping,
    correct: Bools,
    rows: str,
    *,
    n_min: int,
    seed: int,
    train: Ints | None = None,
    after: Bools | None = None,
    cluster: Ints | None = None,
) -> Groups:
    """Accuracies of all groups, their averages, the worst group and its gap (S8).

    correct: (n,) mask of right answers; after: the same with something replaced. rows: which rows, in words.
    n_min: images that a group needs to be the worst. train: (G,) images of each group where the association was
    measured, for the weighted average. cluster: (n,) near-duplicate clusters or sources: they are what is counted.
    """
    images, sizes = grouped.sizes(), grouped.independent(None, cluster)
    right = grouped.independent(correct, cluster)
    changed = None if after is None else grouped.independent(after, cluster)
    # sizes are independent images: n_min copies of one are no group
    large = np.flatnonzero(sizes >= n_min - _ROUNDING).tolist()
    # simultaneous limits: one Bonferroni share for each group with an accuracy, or for each that may be the worst
    with_accuracy = max(int((sizes >= COUNT_ONLY - _ROUNDING).sum()), 1)
    paired = None
    if after is not None and cluster is not None:
        change = after.astype(np.int64) - correct.astype(np.int64)
        paired = Paired(change=change, group=grouped.group, cluster=cluster)
    counts = _Counts(images=images, sizes=sizes, right=right, changed=changed)
    entries = [_entry(grouped, group, counts, paired, with_accuracy) for group in np.flatnonzero(images > 0).tolist()]
    worst = min(large, key=lambda group: right[group] / sizes[group], default=None)
    plain = accuracy(float(right.sum()), float(sizes.sum()))
    lowest = None if worst is None else _entry(grouped, worst, counts, paired, max(len(large), 1))
    gap = equal = None
    if worst is not None and plain.value is not None:
        gap = plain.value - float(right[worst] / sizes[worst])
    if large and plain.value is not None:
        # the worst of equal groups lies below their average by chance alone (S8)
        equal = gap_if_equal(sizes[large], plain.value, seed)
    return Groups(
        attribute=grouped.attribute,
        rows=rows,
        groups=tuple(entries),
        plain_average=plain,
        train_weighted=_weighted(right, sizes, train),
        group_mean=group_mean(right, np.where(sizes >= COUNT_ONLY - _ROUNDING, sizes, 0)),
        worst=lowest,
        gap=gap,
        gap_if_equal=equal,
        n_min=n_min,
        left_out=tuple(
            f"{grouped.name(group)}: {images[group]} images"
            for group in np.flatnonzero((images > 0) & (sizes < n_min - _ROUNDING)).tolist()
        ),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Counts:
    """By group."""

    images: Ints
    sizes: Float64s
    """Independent images."""
    right: Float64s
    changed: Float64s | None
    """Right answers with something replaced."""


def _entry(grouped: Grouping, group: int, counts: _Counts, paired: Paired | None, together: int) -> GroupAccuracy:
    """One group's accuracies; `together` is the number of intervals that hold at once."""
    n = float(counts.sizes[group])
    k, v = divmod(group, len(grouped.values))
    enough = n >= COUNT_ONLY - _ROUNDING
    return GroupAccuracy(
        class_name=grouped.classes[k],
        value=grouped.values[v],
        n=int(counts.images[group]),
        independent=round(n),
        size=size_word(n + _ROUNDING),
        accuracy=accuracy(float(counts.right[group]), n, together) if enough else None,
        without=accuracy(float(counts.changed[group]), n, together) if enough and counts.changed is not None else None,
        change=paired.of_group(group) if enough and paired is not None else None,
    )


def _weighted(right: Float64s, sizes: Float64s, train: Ints | None) -> float | None:
    """Group accuracies weighted by the groups' shares (G,) in the rows of the association."""
    if train is None:
        return None
    # accuracies here at the group shares there: the plain average on the association's rows
    weights = np.where(sizes > 0, train, 0).astype(np.float64)
    if not weights.sum():
        return None
    return float((weights * right / np.maximum(sizes, 1e-9)).sum() / weights.sum())
