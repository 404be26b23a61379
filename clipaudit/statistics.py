"""Statistics that several rooms need: proportions and rankings with their intervals, false-discovery correction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from clipaudit.arrays import Float64s, Floats

SIGNIFICANT: Final = 0.05
"""A p-value below it is significant."""


def p_text(p: float, digits: int = 3) -> str:
    """A p-value for a sentence: `p = 0.012`, or `p = 0.094, not significant` at the level of .05."""
    return f"p = {p:.{digits}g}" + ("" if p < SIGNIFICANT else ", not significant")


def benjamini_hochberg(p: Floats) -> Float64s:
    """Adjusted p-values (q): to call every q <= a a discovery bounds the false discovery rate by a.

    Benjamini and Hochberg (1995), step-up. p: any shape, floats in 0..1, all of them one family. Returns float64 of the
    same shape.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, axis=None)
    # the i-th of m p-values times m / i, and never above a later one's
    scaled = values.ravel()[order] * (values.size / np.arange(1, values.size + 1))
    adjusted = np.empty(values.size)
    adjusted[order] = np.clip(np.minimum.accumulate(scaled[::-1])[::-1], 0.0, 1.0)
    return adjusted.reshape(values.shape)


# scipy.stats has all of these, and takes longer to import than an audit's permutations take; the numbers are its own


def normal_below(z: Floats | float) -> Float64s:
    """P(Z <= z) of a standard normal, of any shape, 0..1."""
    below: Float64s = special.ndtr(z)
    return below


def normal_above(z: Floats | float) -> Float64s:
    """P(Z > z) of a standard normal, of any shape, 0..1; exact far out."""
    above: Float64s = special.ndtr(-np.asarray(z))
    return above


def normal_quantile(p: float) -> float:
    """z with P(Z <= z) = p, 0..1, of a standard normal."""
    return float(special.ndtri(p))


def student_above(t: float, freedom: float) -> float:
    """P(T > t) of Student's t with degrees of freedom above 0."""
    return float(special.stdtr(freedom, -t))


def student_quantile(p: float, freedom: float) -> float:
    """t with P(T <= t) = p, 0..1, of Student's t with degrees of freedom above 0."""
    return float(special.stdtrit(freedom, p))


def chi_squared_above(value: float, freedom: float) -> float:
    """P(X > value) of chi-squared with degrees of freedom above 0."""
    return float(special.chdtrc(freedom, value))


def fisher_above(table: npt.ArrayLike) -> float:
    """P of a first count at least as large as in a table (2, 2) of whole numbers, all margins fixed: Fisher's exact
    test of one side, 0..1."""
    (a, b), (c, d) = np.asarray(table, np.int64).tolist()
    if not a or not d:  # no count can be less
        return 1.0
    counts = np.arange(a, min(a + b, a + c) + 1)
    # of a + c things of one kind and b + d of another a + b are drawn
    logarithms = (
        special.betaln(a + c + 1, 1)
        + special.betaln(b + d + 1, 1)
        + special.betaln(c + d + 1, a + b + 1)
        - special.betaln(counts + 1, a + c - counts + 1)
        - special.betaln(a + b - counts + 1, d - a + counts + 1)
        - special.betaln(a + b + c + d + 1, 1)
    )
    return min(1.0, float(np.exp(logarithms).sum()))


def mean_ranks(values: Floats) -> Float64s:
    """(n,) ranks of values (n,) from 1, equal ones sharing their mean."""
    ordered = np.sort(values)
    below, up_to = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    ranks: Float64s = (below + up_to + 1) / 2
    return ranks


def wilson(share: Floats | float, n: Floats | float, quantile: float) -> tuple[Float64s, Float64s]:
    """Wilson's score limits of shares of n trials, float64 within 0..1; arguments of any shape, broadcast.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927. n may be any number above
    0, such as a number of effective images; quantile is the normal's (or t's) of two sides.

    Closed form and vectorised, because a report of 50 findings over 100 groups has about 11,000 intervals and scipy's
    `binomtest`, which gives the same limits, computes a test first: 0.2 ms a call.
    """
    p, size = np.asarray(share, np.float64), np.maximum(n, 1e-9)
    # the p0 with (p - p0)^2 = q^2 p0 (1 - p0) / n
    square = quantile**2 / size
    centre = (p + square / 2) / (1 + square)
    half = quantile / (1 + square) * np.sqrt(p * (1 - p) / size + square / (4 * size))
    # exactly 0 and 1 at the ends, where rounding would leave 1e-18
    low = np.where(p <= 0, 0.0, np.maximum(centre - half, 0.0))
    high = np.where(p >= 1, 1.0, np.minimum(centre + half, 1.0))
    return low, high


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A share of successes, such as an accuracy."""

    right: int
    """Successes."""
    total: int
    """Trials; 0 is allowed."""

    @property
    def value(self) -> float:
        """The share, 0..1; nan when `total` is 0."""
        return self.right / self.total if self.total else float("nan")

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's (1927) score interval, (low, high) within 0..1; (0, 1) when `total` is 0.

        For simultaneous limits over G groups (Bonferroni) give `1 - alpha / G` as the confidence.
        """
        if not self.total:
            return 0.0, 1.0
        low, high = wilson(self.value, self.total, normal_quantile((1 + confidence) / 2))
        return float(low), float(high)


def auc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """How often a positive scores higher than a negative, ties half: 0..1; nan when either kind is missing.

    scores: floats of any shape; positive: booleans of the same. The Mann-Whitney statistic over n1 n2.
    """
    values, mask = np.asarray(scores, np.float64).ravel(), np.asarray(positive, np.bool_).ravel()
    outside, within = np.sort(values[~mask]), values[mask]
    if not len(outside) or not len(within):
        return math.nan
    # of each positive: negatives that score lower, and those that score no higher
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


def quantile_edges(values: Float64s, bins: int) -> Float64s:
    """(B - 1,) lower ends of all bins but the first: quantiles of the values (n,), so that equal ones share a bin."""
    ordered = np.sort(values)
    places = (np.arange(1, bins) * len(ordered)) // bins
    edges = np.unique(ordered[places])
    result: Float64s = edges[edges > ordered[0]]
    return result


def range_names(values: Float64s, edges: Float64s) -> tuple[str, ...]:
    """What the values (n,) in each of B bins reach from and to, `0.1 to 0.25`; edges (B - 1,) of `quantile_edges`."""
    bins = np.searchsorted(edges, values, side="right")
    names = []
    for place in range(len(edges) + 1):
        inside = values[bins == place]
        low, high = float(inside.min()), float(inside.max())
        names.append(f"{low:g}" if low == high else f"{low:g} to {high:g}")
    return tuple(names)
