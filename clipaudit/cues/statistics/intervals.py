"""Intervals of accuracies (S8) and of paired changes (S10): Wilson, simultaneous limits, group means.

Sizes: under 10 images a group is counted only, under 30 it is greyed, from 100 it may gate (S9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from clipaudit.arrays import Float64s, Ints
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.sources import quantile
from clipaudit.cues.statistics.strength import Z95
from clipaudit.statistics import normal_quantile, wilson

COUNT_ONLY: Final = 10
"""Images below which a group has no accuracy."""
SHOWN: Final = 30
"""Images from which a group is shown in full."""
GATE: Final = 100
"""Images from which a group may decide a verdict or a gate."""
_DRAWS: Final = 2000
"""Simulated sets of groups for the gap that chance alone makes."""


def size_word(n: float) -> Literal["count only", "greyed", "shown", "may gate"]:
    """What may be said of a group of n independent images (S9)."""
    if n < COUNT_ONLY:
        return "count only"
    return "greyed" if n < SHOWN else "shown" if n < GATE else "may gate"


def accuracy(right: float, total: float, groups: int = 1) -> Estimate:
    """Share of `total` independent images answered right, 0..1, with Wilson's score interval (S8).

    Counts of clusters need not be whole numbers: images of one cluster share its weight. With several groups each limit
    is at 1 - 0.05 / (2 groups), so that all intervals hold at once (Bonferroni).
    """
    level = 1 - 0.05 / max(groups, 1)
    if total <= 0:
        return Estimate(value=None, low=0.0, high=1.0, n=0, level=level)
    low, high = wilson(right / total, total, normal_quantile((1 + level) / 2))
    return Estimate(value=right / total, low=float(low), high=float(high), n=round(total), level=level)


def group_mean(right: Ints | Float64s, total: Ints | Float64s) -> Estimate:
    """Mean accuracy, 0..1, over groups that have images, each counting equally; normal interval (S8).

    right, total: (G,) right answers and independent images of each group.
    """
    present = total > 0
    n = total[present].astype(np.float64)
    if not len(n):
        return Estimate(value=None, low=None, high=None, n=0)
    share = right[present] / n
    shrunk = (right[present] + 1) / (n + 2)  # a share of 0 or 1 has no variance, which is too sure
    error = float(np.sqrt((shrunk * (1 - shrunk) / n).sum())) / len(n)
    mean = float(share.mean())
    return _clipped(mean, error, round(float(total.sum())), 0.0, 1.0)


def gap_if_equal(total: Ints | Float64s, share: float, seed: int = 0) -> float:
    """Expected average minus worst group if all groups had accuracy `share`: chance alone makes a gap (S8).

    total: (G,) images of each group. The mean of 2,000 seeded simulations; 0 with fewer than two groups.
    """
    sizes = np.rint(total[total > 0]).astype(np.int64)
    if len(sizes) < 2:
        return 0.0
    right = np.random.default_rng([seed, 2]).binomial(sizes, share, (_DRAWS, len(sizes)))
    gaps = right.sum(axis=1) / sizes.sum() - (right / sizes).min(axis=1)
    return float(gaps.mean())


@dataclass(frozen=True, eq=False, kw_only=True)
class Paired:
    """Changes of answers, image by image (S10)."""

    change: Ints
    """(n,) int64: +1 fixed, -1 broken, 0 the same."""
    group: Ints
    """(n,) int64 group, 0..G-1; -1 for images that are in none."""
    cluster: Ints
    """(n,) int64 near-duplicate cluster."""
    source: Ints | None = None
    """(n,) int64 what errors count where images share more than copies do: intervals are then Student's (S2b)."""

    def of_group(self, group: int) -> Estimate:
        """The change of one group's accuracy, -1..1, with its 95 % interval."""
        return self.mean([group])

    def mean(self, groups: Sequence[int], weights: Sequence[float] | None = None, level: float = 0.95) -> Estimate:
        """The weighted mean of the changes of some groups, -1..1; by default all count equally.

        Groups without images are left out and the weights of the others rescaled to sum 1. Value None when no group has
        images.
        """
        sizes = np.array([int((self.group == group).sum()) for group in groups], np.int64)
        shares = np.ones(len(sizes)) if weights is None else np.asarray(weights, np.float64)
        shares = np.where(sizes > 0, shares, 0.0)
        if not shares.sum():
            return Estimate(value=None, low=None, high=None, n=int(sizes.sum()), level=level)
        shares = shares / shares.sum()
        value = variance = 0.0
        pieces = np.inf
        for group, share in zip(groups, shares, strict=True):
            if share > 0:
                mean, error, G = self._moments(group)
                value += float(share) * mean
                variance += (float(share) * error) ** 2
                pieces = min(pieces, G)
        # of the group with the fewest sources: the others know no less
        z = normal_quantile((1 + level) / 2) if self.source is None else quantile(level, pieces)
        return _clipped(value, float(np.sqrt(variance)), int(sizes[shares > 0].sum()), -1.0, 1.0, z, level)

    def _moments(self, group: int) -> tuple[float, float, int]:
        """Mean change, its standard error, Agresti and Min's (Biometrics 2005) or, if larger, that by clusters or
        sources, and how many of those there are."""
        places = np.flatnonzero(self.group == group)
        change = self.change[places].astype(np.float64)
        _, codes, sizes = np.unique(self.cluster[places], return_inverse=True, return_counts=True)
        weight = 1 / sizes[codes]  # images of a cluster share the weight of one, as in the accuracies (S2b)
        n = len(sizes)
        # half an image added to each cell: with no discordant pair the plain error would be 0
        fixed, broken = float(weight[change > 0].sum()) + 0.5, float(weight[change < 0].sum()) + 0.5
        # E d^2 - (E d)^2 of changes d in -1, 0, 1, over n + 2 images
        spread = (fixed + broken) / (n + 2) - ((fixed - broken) / (n + 2)) ** 2
        simple = spread / (n + 2)
        mean = float((weight * change).sum()) / n
        # deviations of one cluster, or source, add up before they are squared
        whole = codes if self.source is None else np.unique(self.source[places], return_inverse=True)[1]
        sums = np.bincount(whole, weight * (change - mean))
        G = len(sums)
        clustered = float((sums**2).sum()) / n**2
        if self.source is not None:
            clustered *= G / max(G - 1, 1)
        return mean, float(np.sqrt(max(simple, clustered))), G


def _clipped(
    value: float, error: float, n: int, least: float, most: float, z: float = Z95, level: float = 0.95
) -> Estimate:
    return Estimate(value=value, low=max(least, value - z * error), high=min(most, value + z * error), n=n, level=level)
