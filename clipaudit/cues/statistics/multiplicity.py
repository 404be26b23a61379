"""Many tests at once: the largest statistic under permuted labels (max-T), discovery and confirmation halves (S3)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Float64s, Floats, Ints
from clipaudit.cues.statistics.cuts import Units, class_means, cut_contrasts
from clipaudit.cues.statistics.design import Design

_SALT: Final = b"clipaudit halves 1"
"""Another salt would put other images on the discovery half and so change every result."""


_TIE: Final = 1e-5
"""Statistics that differ by less, or by this part, are equal: their float32 sums depend on the order of the images."""


def tie_limit(values: Floats | float) -> Float64s:
    """The least that a permuted statistic may be to be as large as each of these; any shape. Of few images many
    permutations have the very statistic of the true order, and count."""
    exact = np.asarray(values, np.float64)
    limit: Float64s = exact - _TIE * np.maximum(np.abs(exact), 1.0)
    return limit


class Permuter:
    """Permutes labels; near duplicates stay together, labels stay in their stratum (S2, S13).

    Clusters are shuffled and the labels, which lie in the order of the clusters, are laid out anew along them: clusters
    of one size exchange their labels exactly, others all but at their ends.
    """

    def __init__(self, design: Design, strata: Ints | None = None) -> None:
        """strata: (n,) stratum of each row; None for one stratum."""
        n = len(design.truth)
        cluster = np.arange(n) if design.cluster is None else design.cluster
        levels = np.zeros(n, np.int64) if strata is None else strata
        self._rows = n
        self._levels: list[_Level] = []
        for level in np.unique(levels):
            rows = np.flatnonzero(levels == level)
            _, codes, sizes = np.unique(cluster[rows], return_inverse=True, return_counts=True)
            order = np.argsort(codes, kind="stable")
            within = np.empty(len(rows), np.int64)
            within[order] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            dealt = design.truth[rows[order]]
            self._levels.append(_Level(rows=rows, codes=codes, within=within, sizes=sizes, dealt=dealt))

    def draw(self, rng: np.random.Generator) -> Ints:
        """(n,) int64 labels permuted once."""
        labels = np.empty(self._rows, np.int64)
        for level in self._levels:
            place = rng.permutation(len(level.sizes))  # of each cluster in the new order
            sizes = np.empty(len(place), np.int64)
            sizes[place] = level.sizes
            first = (np.cumsum(sizes) - sizes)[place]
            labels[level.rows] = level.dealt[first[level.codes] + level.within]
        return labels


@dataclass(frozen=True, eq=False, kw_only=True)
class _Level:
    """One stratum's m rows in C clusters."""

    rows: Ints
    """(m,)"""
    codes: Ints
    """(m,) cluster of each row, 0..C-1."""
    within: Ints
    """(m,) number of each row in its cluster."""
    sizes: Ints
    """(C,) rows of each cluster."""
    dealt: Ints
    """(m,) labels in the order of the clusters."""


def strata_of(design: Design, levels: Ints) -> Ints | None:
    """(n,) strata inside which labels may be permuted (S2): `levels` (n,), such as shards, with near duplicates.

    None, for all images together, where strata would leave nothing to permute: without clusters, when clusters span
    several levels, when levels are the clusters (shards as sources), and when most of a class's images lie in levels of
    that class alone (shards sorted by class).
    """
    if design.cluster is None or not len(design.repeated):
        return None
    # more pairs than clusters: some cluster spans two levels
    pairs = np.unique(np.stack([design.cluster, levels]), axis=1)
    if pairs.shape[1] > len(np.unique(pairs[0])):
        return None
    _, codes = np.unique(levels, return_inverse=True)
    table = np.zeros((int(codes.max()) + 1, design.classes), np.int64)
    np.add.at(table, (codes, design.truth), 1)
    clusters = np.bincount(np.unique(np.stack([codes, design.cluster]), axis=1)[0])
    # a level of one class, or one cluster, has nothing to permute: half of every class must lie in other ones
    mixed = ((table > 0).sum(axis=1) >= 2) & (clusters >= 2)
    strata: Ints = codes.astype(np.int64)
    return strata if bool((table[mixed].sum(axis=0) >= table.sum(axis=0) / 2).all()) else None


@dataclass(frozen=True, eq=False, kw_only=True)
class Largest:
    """The largest of all tests when labels are permuted (max-T)."""

    observed: Float64s
    """(M, C) the contrast of every direction and cut, by its standard deviation over permutations."""
    spread: Float64s
    """(M, C) that standard deviation, in mean ranks (-1/2..1/2)."""
    largest: Float64s
    """(R,) the largest absolute value over directions and cuts in each permutation."""

    def p(self, places: Ints) -> Float64s:
        """(M,) adjusted p-values of one cut, place 0..C-1, of each direction."""
        return family_p(self.observed[np.arange(len(places)), places], self.largest)

    @property
    def threshold(self) -> float:
        """What 5 % of the permutations exceed."""
        return float(np.quantile(self.largest, 0.95)) if len(self.largest) else np.inf


def largest_cuts(
    units: Units, orders: Ints, sizes: Ints, classes: int, permutations: int, seed: int, strata: Ints | None = None
) -> Largest:
    """All directions x cuts under permuted labels (S3; Westfall and Young, Resampling-Based Multiple Testing, 1993).

    units: of the confirmation half; orders (M, K) classes of each direction from the highest to the lowest, fixed on
    the discovery half; sizes (C,) classes above each cut; strata (u,) inside which labels are permuted. The statistic
    is the projection of A on single rows, mean rank above minus mean rank below, which costs one sparse product.
    """
    rng = np.random.default_rng([seed, 1])
    design = Design(units.truth, classes, units.group)
    observed = cut_contrasts(class_means(units, units.truth, classes), orders, sizes)
    dealt, permuter = np.empty((permutations, *observed.shape), np.float32), Permuter(design, strata)
    for number in range(permutations):
        labels = permuter.draw(rng)
        dealt[number] = cut_contrasts(class_means(units, labels, classes), orders, sizes)
    # studentised: else the cuts with the widest null would set every maximum
    spread = np.maximum(dealt.std(axis=0, dtype=np.float64), 1e-9)
    largest = np.abs(dealt / spread.astype(np.float32)).max(axis=(1, 2)).astype(np.float64)
    return Largest(observed=observed / spread, spread=spread, largest=largest)


def family_p(z: Floats, largest: Float64s) -> Float64s:
    """P-values adjusted for the largest of all tests: (1 + permutations at least as large) / (1 + permutations).

    z: any shape; largest: from `largest_cuts`. Returns float64 of the shape of z.
    """
    ordered = np.sort(largest)
    above = len(ordered) - np.searchsorted(ordered, tie_limit(np.abs(z)), side="left")
    p: Float64s = (1 + above) / (1 + len(ordered))
    return p


def hash_order(shard_id: npt.NDArray[np.int32], keys: Iterable[str]) -> Float64s:
    """(n,) numbers in 0..1 from a hash of shard and key, the same in every audit: the order in which images are put on
    the two halves."""
    hashes = [
        int.from_bytes(hashlib.blake2b(f"{shard}/{key}".encode(), digest_size=6, salt=_SALT[:16]).digest(), "big")
        for shard, key in zip(shard_id.tolist(), keys, strict=True)
    ]
    # 48 bits are exact in a float64
    return np.array(hashes, np.float64) / 2**48
