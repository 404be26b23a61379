"""Labels, near duplicates, sources and halves of the rows that are tested: all that no direction changes (S1c, S2b)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.statistics.sources import effective_clusters, quantile

_SEED: Final = 2
MAX_CUTS: Final = 64
_ENDS: Final = 16


@dataclass(frozen=True, eq=False, kw_only=True)
class Repeated:
    """Rows of a part of the design that are in groups of two or more."""

    places: Ints
    """(m,)"""
    groups: Ints
    """(m,) group of each, 0..g-1."""
    share: float
    """Of all rows that are in the part, 0..1."""


@dataclass(frozen=True, eq=False)
class Design:
    """Labels and clusters of the rows that are tested.

    `truth` (n,) int64 classes 0..K-1, each with at least one row; `cluster` (n,) near-duplicate cluster of each row, or
    None when every row stands for itself: images of one cluster (and class) share the weight of one; `source` (n,)
    further groups, such as shards, that only widen errors; `discovery` (n,) rows on which things are chosen, the others
    score; None takes half of each class's clusters, always the same ones.
    """

    truth: Ints
    classes: int
    cluster: Ints | None = None
    source: Ints | None = None
    discovery: Bools | None = None

    @cached_property
    def rows_of_class(self) -> Float64s:
        """(K,) rows of each class."""
        return np.bincount(self.truth, minlength=self.classes).astype(np.float64)

    @cached_property
    def weight(self) -> Float64s | None:
        """(n,) 1 / images of the same cluster and class; None when every row weighs 1."""
        if self.cluster is None or not len(self.repeated_copies):
            return None
        # a cluster that holds several classes is one image of each of them
        cells = self.cluster * self.classes + self.truth
        _, codes, sizes = np.unique(cells, return_inverse=True, return_counts=True)
        weight: Float64s = 1.0 / sizes[codes]
        return weight

    @cached_property
    def repeated_copies(self) -> Ints:
        """(m,) rows in near-duplicate clusters of two or more."""
        if self.cluster is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(np.bincount(self.cluster)[self.cluster] > 1)

    @cached_property
    def counts(self) -> Float64s:
        """(K,) independent images of each class: near duplicates count as one."""
        if self.weight is None:
            return self.rows_of_class
        return np.bincount(self.truth, self.weight, minlength=self.classes).astype(np.float64)

    @cached_property
    def independent(self) -> Ints:
        """(K,) clusters that each class has images in."""
        return np.rint(self.counts).astype(np.int64)

    @cached_property
    def half_and_class(self) -> Ints:
        """(n,) K on the discovery half, else 0, plus the class."""
        both: Ints = self.halves * self.classes + self.truth
        return both

    @cached_property
    def groups(self) -> Ints | None:
        """(n,) whose sums are independent: sources where there are any, else clusters; None for single rows."""
        return self.source if self.source is not None else self.cluster

    @cached_property
    def repeated(self) -> Ints:
        """(m,) rows in groups of two or more; only they differ from independent rows."""
        if self.groups is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(np.bincount(self.groups)[self.groups] > 1)

    @cached_property
    def clusters(self) -> int:
        """Independent pieces of data."""
        return len(self.truth) if self.groups is None else len(np.unique(self.groups))

    @cached_property
    def effective(self) -> float:
        """How many equal groups the groups are worth, for the degrees of freedom of intervals."""
        return float(len(self.truth)) if self.groups is None else effective_clusters(self.groups)

    @cached_property
    def halves(self) -> Bools:
        """(n,) rows of the discovery half."""
        return halves_of(self.truth, self.cluster) if self.discovery is None else self.discovery

    @cached_property
    def scoring(self) -> Bools:
        """(n,) rows of the confirmation half."""
        others: Bools = ~self.halves
        return others

    def repeated_among(self, rows: Bools) -> Repeated:
        """Those of some rows (n,) that are in groups of two or more; worked out once for either half."""
        for half, known in zip((self.halves, self.scoring), self._repeated_of_halves, strict=True):
            if rows is half:
                return known
        return self._repeated_among(rows)

    @cached_property
    def _repeated_of_halves(self) -> tuple[Repeated, Repeated]:
        return self._repeated_among(self.halves), self._repeated_among(self.scoring)

    def _repeated_among(self, rows: Bools) -> Repeated:
        places = self.repeated[rows[self.repeated]]
        groups = (
            np.empty(0, np.int64) if self.groups is None else np.unique(self.groups[places], return_inverse=True)[1]
        )
        return Repeated(places=places, groups=groups, share=float(rows.mean()))

    def quantile(self, level: float, part: float = 1.0) -> float:
        """Two-sided quantile for intervals from a part of the rows."""
        return quantile(level, self.effective * part)

    @cached_property
    def cut_sizes(self) -> Ints:
        """(C,) classes above each cut that is tested: all of 1..K-1, of more than 64 the ends and some between."""
        sizes = np.arange(1, self.classes)
        if len(sizes) <= MAX_CUTS:
            return sizes
        # the ends whole: a cue that few classes have, or lack, lies there
        middle = np.linspace(_ENDS + 1, self.classes - _ENDS - 1, MAX_CUTS - 2 * _ENDS).round().astype(np.int64)
        return np.unique(np.concatenate([sizes[:_ENDS], middle, sizes[-_ENDS:]]))


def halves_of(truth: Ints, cluster: Ints | None, order: Float64s | None = None) -> Bools:
    """(n,) the discovery half: of each class every second cluster.

    truth, cluster (n,); order (G,) of the clusters, drawn once and for all where none is given. A cluster of several
    classes counts as its first image's.
    """
    names = np.arange(len(truth)) if cluster is None else cluster
    _, first, codes = np.unique(names, return_index=True, return_inverse=True)
    if order is None:
        order = np.random.default_rng(_SEED).random(len(first))
    of_class = truth[first]
    # rank of each cluster among its class's in the drawn order: even ranks choose, odd ranks score
    places = np.lexsort((order, of_class))
    _, starts, sizes = np.unique(of_class[places], return_index=True, return_counts=True)
    rank = np.empty(len(first), np.int64)
    rank[places] = np.arange(len(first)) - np.repeat(starts, sizes)
    result: Bools = (rank % 2 == 0)[codes]
    return result
