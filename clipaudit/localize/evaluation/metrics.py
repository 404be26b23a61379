"""Figures of maps against masks, and their intervals: AUC, average precision, and a bootstrap over streamed sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Float64s

Statistic = Callable[[Float64s], Float64s]
"""(R, M) summed rows to (R,) values."""

RESAMPLES = 1000
_MAX_GROUPS = 1000


def pixel_auc(scores: npt.ArrayLike, inside: npt.ArrayLike) -> float:
    """How often a pixel inside scores higher than one outside, ties half: 0..1; nan when either is empty.

    scores: floats of any shape; inside: booleans of the same. The Mann-Whitney statistic over n1 n2.
    """
    values, mask = np.asarray(scores, np.float64).ravel(), np.asarray(inside, np.bool_).ravel()
    outside, within = np.sort(values[~mask]), values[mask]
    if not len(outside) or not len(within):
        return math.nan
    # of each pixel inside: pixels outside that score lower, and those that score no higher
    below, up_to = np.searchsorted(outside, within, side="left"), np.searchsorted(outside, within, side="right")
    return float((below + up_to).mean() / (2 * len(outside)))


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike, draws: npt.ArrayLike | None = None) -> Float64s:
    """Area under the precision-recall steps, equal scores taken together; nan without a positive.

    Args:
        scores: (n,) floats.
        positive: (n,) bool.
        draws: (R, n) how often each row counts; None for once each.

    Returns:
        (R,) float64, 0..1; (1,) without draws.
    """
    values, right = np.asarray(scores, np.float64).ravel(), np.asarray(positive, np.bool_).ravel()
    weights = np.ones((1, len(values))) if draws is None else np.asarray(draws, np.float64)
    order = np.argsort(-values, kind="stable")
    # no threshold parts equal scores
    last_of_equals = np.append(np.diff(values[order]) != 0, True)
    # true positives and all positives at each threshold, (R, thresholds)
    hits = (weights * right)[:, order].cumsum(axis=1)[:, last_of_equals]
    total = weights[:, order].cumsum(axis=1)[:, last_of_equals]
    precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    with np.errstate(invalid="ignore"):
        # sum over steps of (recall_k - recall_{k-1}) precision_k
        areas: Float64s = (np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1]
    return areas


@dataclass(frozen=True, kw_only=True)
class BootstrapEstimate:
    """A figure with its 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


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
