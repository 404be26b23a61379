"""Figures of maps against masks, and their intervals: AUC, and a bootstrap over streamed sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Float64s
from clipaudit.statistics import BootstrapEstimate, auc

Statistic = Callable[[Float64s], Float64s]
"""(R, M) summed rows to (R,) values."""

RESAMPLES = 1000
_MAX_GROUPS = 1000


def pixel_auc(scores: npt.ArrayLike, inside: npt.ArrayLike) -> float:
    """How often a pixel inside scores higher than one outside, ties half: 0..1; nan when either is empty.

    scores: floats of any shape; inside: booleans of the same.
    """
    return auc(scores, inside)


class Sums:
    """Rows of numbers, one an image, summed as they come: statistics of the sums have intervals, memory stays bounded.

    Up to 1000 images the bootstrap draws images; beyond, images go in turn into 1000 groups and it draws groups.
    """

    def __init__(self, columns: int) -> None:
        self._groups = np.zeros((_MAX_GROUPS, columns))
        self.count = 0

    def add(self, row: npt.ArrayLike) -> None:
        """(columns,) of one image."""
        self._groups[self.count % _MAX_GROUPS] += np.asarray(row, np.float64)
        self.count += 1

    @property
    def total(self) -> Float64s:
        """(columns,)"""
        total: Float64s = self._groups.sum(axis=0)
        return total

    def estimate(self, statistic: Statistic, seed: int = 0) -> BootstrapEstimate:
        """The statistic of all images, with percentiles of it over resampled ones; the same seed draws the same."""
        groups = self._groups[: min(self.count, _MAX_GROUPS)]
        rng = np.random.default_rng(seed)
        # (R, groups) how often each group is drawn: a resampled sum is a product with the groups' sums
        counts = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=RESAMPLES)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(statistic(self.total[None])[0])
            drawn = statistic(counts @ groups)
        low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (math.nan, math.nan)
        return BootstrapEstimate(value=value, low=float(low), high=float(high))
