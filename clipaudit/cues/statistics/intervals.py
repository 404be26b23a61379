"""Intervals of accuracies and of paired changes: Wilson, simultaneous limits, McNemar, group means (S8, S10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy import stats

from clipaudit.arrays import Ints
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.strength import Z95
from clipaudit.statistics import Proportion

COUNT_ONLY: Final = 10
SHOWN: Final = 30
GATE: Final = 100
_DRAWS: Final = 2000


def size_word(n: int) -> Literal["count only", "greyed", "shown", "may gate"]:
    """What may be said of a cell of n images (S9)."""
    if n < COUNT_ONLY:
        return "count only"
    return "greyed" if n < SHOWN else "shown" if n < GATE else "may gate"


def accuracy(right: int, total: int, groups: int = 1) -> Estimate:
    """Wilson's interval; with several groups each limit at 1 - 0.05 / (2 groups), so that all hold at once."""
    level = 1 - 0.05 / max(groups, 1)
    found = Proportion(right=right, total=total)
    low, high = found.interval(level)
    return Estimate(value=found.value if total else None, low=low, high=high, n=total, level=level)


def group_mean(right: Ints, total: Ints) -> Estimate:
    """Mean of the accuracies of groups that have images, each counting equally; normal interval."""
    some = total > 0
    n = total[some].astype(np.float64)
    if not len(n):
        return Estimate(value=None, low=None, high=None, n=0)
    share = right[some] / n
    shrunk = (right[some] + 1) / (n + 2)  # variance 0 at 0 % and 100 % would be too sure
    error = float(np.sqrt((shrunk * (1 - shrunk) / n).sum())) / len(n)
    mean = float(share.mean())
    return _clipped(mean, error, int(total.sum()), 0.0, 1.0)


def gap_if_equal(total: Ints, share: float, seed: int = 0) -> float:
    """Expected average minus worst group when all groups have one accuracy: chance alone makes a gap."""
    some = total[total > 0]
    if len(some) < 2:
        return 0.0
    right = np.random.default_rng([seed, 2]).binomial(some, share, (_DRAWS, len(some)))
    gaps = right.sum(axis=1) / some.sum() - (right / some).min(axis=1)
    return float(gaps.mean())


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p of fixed against broken answers."""
    if fixed + broken == 0:
        return 1.0
    return float(stats.binomtest(fixed, fixed + broken, 0.5).pvalue)


@dataclass(frozen=True, eq=False, kw_only=True)
class Paired:
    """Changes of answers, image by image: +1 fixed, -1 broken, 0 the same."""

    change: Ints
    """(n,)"""
    group: Ints
    """(n,) 0..G-1, -1 for images that are in none."""
    cluster: Ints
    """(n,) near duplicates."""

    def one(self, group: int) -> Estimate:
        """The change of one group's accuracy."""
        return self.mean([group])

    def mean(self, groups: Sequence[int], weights: Sequence[float] | None = None, level: float = 0.95) -> Estimate:
        """The (weighted) mean of the changes of some groups that have images; by default all count equally.

        Weights are shared out anew among groups that have images. Value None when none has.
        """
        sizes = np.array([int((self.group == group).sum()) for group in groups], np.int64)
        shares = np.ones(len(sizes)) if weights is None else np.asarray(weights, np.float64)
        shares = np.where(sizes > 0, shares, 0.0)
        if not shares.sum():
            return Estimate(value=None, low=None, high=None, n=int(sizes.sum()), level=level)
        shares = shares / shares.sum()
        value = variance = 0.0
        for group, share in zip(groups, shares, strict=True):
            if share > 0:
                mean, error = self._moments(group)
                value += float(share) * mean
                variance += (float(share) * error) ** 2
        z = float(stats.norm.ppf((1 + level) / 2))
        return _clipped(value, float(np.sqrt(variance)), int(sizes[shares > 0].sum()), -1.0, 1.0, z, level)

    def _moments(self, group: int) -> tuple[float, float]:
        """Mean and standard error, with Agresti and Min's half in each cell (Biometrics 2005), or by clusters."""
        places = np.flatnonzero(self.group == group)
        change = self.change[places].astype(np.float64)
        n = len(change)
        fixed, broken = float((change > 0).sum()) + 0.5, float((change < 0).sum()) + 0.5
        spread = (fixed + broken) / (n + 2) - ((fixed - broken) / (n + 2)) ** 2
        simple = spread / (n + 2)
        _, codes = np.unique(self.cluster[places], return_inverse=True)
        sums = np.bincount(codes, change - change.mean())
        clustered = float((sums**2).sum()) / n**2
        return float(change.mean()), float(np.sqrt(max(simple, clustered)))


def average_change(change: Ints, cluster: Ints) -> Estimate:
    """The change of the plain average."""
    return Paired(change=change, group=np.zeros(len(change), np.int64), cluster=cluster).one(0)


def _clipped(
    value: float, error: float, n: int, least: float, most: float, z: float = Z95, level: float = 0.95
) -> Estimate:
    return Estimate(value=value, low=max(least, value - z * error), high=min(most, value + z * error), n=n, level=level)
