"""Weighted means over cells of images and linear combinations of them, with errors by cluster (S2b)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.statistics import student_above, student_quantile

_CONFIDENT: Final = 0.95
Numbers = npt.NDArray[np.floating[Any]] | npt.NDArray[np.bool_] | npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A combination of cell means and its sampling error."""

    value: float
    variance: float
    """Infinite where it cannot be told."""
    freedom: float
    """Degrees of freedom of the variance."""
    n: int
    """Independent images."""

    def estimate(self, level: float = _CONFIDENT, low: float = -1.0, high: float = 1.0) -> Estimate:
        """Student's t interval at a two-sided level, cut to low..high."""
        half = self._quantile(level) * float(np.sqrt(self.variance))
        return Estimate(
            value=self.value,
            low=float(np.clip(self.value - half, low, high)),
            high=float(np.clip(self.value + half, low, high)),
            n=self.n,
            level=level,
        )

    @property
    def t(self) -> float:
        """Value / standard error; 0 where the error cannot be told."""
        return self.value / float(np.sqrt(self.variance)) if 0 < self.variance < np.inf else 0.0

    @property
    def p(self) -> float:
        """One-sided p of a value above 0."""
        return student_above(self.t, max(self.freedom, 1.0)) if self.variance < np.inf else 1.0

    def _quantile(self, level: float) -> float:
        return student_quantile((1 + level) / 2, max(self.freedom, 1.0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """n images in G cells; images of a cluster share its weight."""

    cell: Ints
    """(n,) 0..G-1, -1 for images in none."""
    count: int
    """G."""
    weight: Float64s
    """(n,) above 0."""
    cluster: Ints
    """(n,)"""
    sources: bool = False
    """Clusters are sources: errors by delete-one-source jackknife."""

    @cached_property
    def inside(self) -> Ints:
        """(m,) places of the images that are in a cell."""
        return np.flatnonzero(self.cell >= 0)

    @cached_property
    def codes(self) -> Ints:
        """(inside,) clusters renumbered 0..clusters-1."""
        return np.unique(self.cluster[self.inside], return_inverse=True)[1].astype(np.int64)

    @cached_property
    def clusters(self) -> int:
        """Clusters with an image in a cell."""
        return int(self.codes.max(initial=-1)) + 1

    @cached_property
    def total(self) -> Float64s:
        """(G,) summed weight."""
        return self._sums(self.weight[self.inside])

    @cached_property
    def images(self) -> Ints:
        """(G,) images."""
        sizes: Ints = np.bincount(self.cell[self.inside], minlength=self.count)
        return sizes

    @cached_property
    def independent(self) -> Ints:
        """(G,) images, near duplicates as one; images of one source are different images."""
        if self.sources:
            return self.images
        sizes: Ints = np.bincount(self._pairs[0], minlength=self.count)
        return sizes

    @cached_property
    def _pairs(self) -> tuple[Ints, Ints]:
        """(P,) the cell of each pair of a cell and a cluster that have images, and (inside,) the pair of each image."""
        pairs, place = np.unique(self.cell[self.inside] * max(self.clusters, 1) + self.codes, return_inverse=True)
        return pairs // max(self.clusters, 1), place

    @cached_property
    def share(self) -> Float64s:
        """(inside,) weight of each image in the mean of its cell."""
        shares: Float64s = self.weight[self.inside] / self.total[self.cell[self.inside]]
        return shares

    @cached_property
    def pieces(self) -> Float64s:
        """(G,) independent pieces of each cell: (sum W)^2 / sum W^2 over its clusters' weights (Kish)."""
        cells, place = self._pairs
        weights = np.bincount(place, self.weight[self.inside], minlength=len(cells))
        squares = np.bincount(cells, weights**2, minlength=self.count)
        pieces: Float64s = self.total**2 / np.maximum(squares, 1e-300)
        return pieces

    @cached_property
    def single(self) -> bool:
        """Whether every cluster is one image."""
        return self.clusters == len(self.inside)

    def means(self, values: Numbers) -> Float64s:
        """(G,) weighted means of values (n,); 0 of empty cells."""
        sums = self._sums(self.weight[self.inside] * values[self.inside])
        return sums / np.maximum(self.total, 1e-300)

    def influence(self, values: Numbers) -> Float64s:
        """(inside,) what each image adds to its cell's mean, away from it: share x (value - mean)."""
        return self.share * (values[self.inside] - self.means(values)[self.cell[self.inside]])

    def own_variances(self, values: Numbers) -> Float64s:
        """(G,) variance of each cell's mean, by clusters, without correction for the cell's size."""
        cells, place = self._pairs
        sums = np.bincount(place, self.influence(values), minlength=len(cells))
        return np.bincount(cells, sums**2, minlength=self.count).astype(np.float64)

    def combine(self, values: Numbers, coefficients: Float64s, floored: bool = True) -> Spread:
        """The combination sum_g c_g mean_g of values (n,), with coefficients (G,).

        Linearised clustered variance, each cell's part times m / (m - 1) with m its pieces. With sources the
        delete-one-source jackknife on G - 1 degrees of freedom. floored: values are changes of answers, -1..1, and the
        variance is never below that with half an observation at -1 and at 1 added to each cell (Agresti and Min,
        Biometrics 2005): ten unchanged answers do not show that none ever changes.
        """
        means = self.means(values)
        used = coefficients != 0
        value = float(coefficients @ means)
        n = int(self.independent[used].sum())
        # one piece has no spread
        if not used.any() or bool((self.pieces[used] < 2).any()):
            return Spread(value=value, variance=float("inf"), freedom=1.0, n=n)
        # m / (m - 1) on a variance is its root on each influence
        stretch = np.sqrt(self.pieces / np.maximum(self.pieces - 1, 1e-9))
        scale = np.where(used, coefficients * stretch, 0.0)[self.cell[self.inside]]
        # influences of a cluster add up before they are squared, over all cells that it has images in
        sums = np.bincount(self.codes, scale * self.influence(values), minlength=self.clusters)
        floor = self._floor(values, means, used) if floored else np.zeros(self.count)
        variance = float((sums**2).sum()) + float((coefficients**2)[used] @ floor[used])
        freedom = self._freedom(coefficients, self.own_variances(values) + floor)
        # few large sources: linearisation is too sure of them (trap 22)
        if self.sources:
            sources, jackknife = self._jackknife(values, coefficients)
            variance, freedom = max(jackknife, float((coefficients**2)[used] @ floor[used])), sources - 1.0
        return Spread(value=value, variance=variance, freedom=freedom, n=n)

    def _floor(self, values: Numbers, means: Float64s, used: Bools) -> Float64s:
        """(G,) what each cell's variance lacks to the variance with two half observations more."""
        squares = self._sums(self.share * values[self.inside].astype(np.float64) ** 2)
        # images of a source are different images: it is they that could have changed
        m = 1 / np.maximum(self._sums(self.share**2), 1e-12) if self.sources else self.pieces
        # E v^2 - (E v)^2 with 1/2 at -1, 1/2 at 1 and 1 at 0 added: sum v^2 grows by 1, m by 2
        least = ((m * squares + 1) / (m + 2) - (m * means / (m + 2)) ** 2) / (m + 2)
        own = self.own_variances(values) * m / np.maximum(m - 1, 1e-9)
        lacking: Float64s = np.where(used, np.maximum(least - own, 0.0), 0.0)
        return lacking

    def _freedom(self, coefficients: Float64s, variances: Float64s) -> float:
        """Satterthwaite's degrees of freedom of independent cells."""
        parts = coefficients**2 * variances
        below = float((parts**2 / np.maximum(self.pieces - 1, 1.0)).sum())
        return float(parts.sum() ** 2 / below) if below > 0 else float(max(self.clusters - 1, 1))

    def _jackknife(self, values: Numbers, coefficients: Float64s) -> tuple[int, float]:
        """Sources with an image in a used cell, and the variance over deletions of one; infinite where a cell is one
        source's alone."""
        chosen = coefficients[self.cell[self.inside]] != 0
        used = np.flatnonzero(coefficients)
        place = np.unique(self.codes[chosen], return_inverse=True)[1]
        count, cell = int(place.max(initial=-1)) + 1, np.searchsorted(used, self.cell[self.inside][chosen])
        weight = self.weight[self.inside][chosen]
        shape = (count, len(used))
        at = place * len(used) + cell
        sizes = np.bincount(at, weight, minlength=count * len(used)).reshape(shape)
        sums = np.bincount(at, weight * values[self.inside][chosen], minlength=count * len(used)).reshape(shape)
        left = sizes.sum(axis=0) - sizes
        if count < 2 or bool((left <= 1e-12).any()):
            return max(count, 2), float("inf")
        # cell means without each source: all sums less its own
        deleted = ((sums.sum(axis=0) - sums) / left) @ coefficients[used]
        return count, float((count - 1) / count * ((deleted - deleted.mean()) ** 2).sum())

    def _sums(self, values: Float64s) -> Float64s:
        return np.bincount(self.cell[self.inside], values, minlength=self.count).astype(np.float64)
