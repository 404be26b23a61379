"""How far a head's mean moved between two sets of rows, towards which texts, and how its spread changed; on moments.

Mean: Hotelling's T^2 for covariances that may differ, with the degrees of freedom of Krishnamoorthy and Yu (Statistics
and Probability Letters 2004). Along a text: the difference of means over the average standard deviation, with Bonett's
standard error (Psychological Methods 2008) and Scheffe's factor, so that the 95 % hold for all texts at once and the
text may be chosen afterwards. Spread: the ratio of total variances, its logarithm's error as of normal coordinates.

Rows count as independent draws. Where they are not (frames of one film, copies), p-values and intervals are too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from clipaudit.arrays import ArrayHolder, Float64s, Floats, Ints
from clipaudit.errors import UsageError

_LEVEL: Final = 0.95
_FLOOR: Final = 1e-10
"""Least variance of a direction relative to the largest one: stored numbers are rounded to float16."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class HeadSample(ArrayHolder):
    """A head's moments over some rows."""

    count: int
    mean: Float64s
    """(dh,)"""
    covariance: Float64s
    """(dh, dh) population covariance, as `Moments.covariance` gives it."""

    @property
    def unbiased(self) -> Float64s:
        """(dh, dh) covariance divided by count - 1."""
        covariance: Float64s = self.covariance * (self.count / (self.count - 1))
        return covariance

    @property
    def of_mean(self) -> Float64s:
        """(dh, dh) covariance of the mean."""
        covariance: Float64s = self.unbiased / self.count
        return covariance


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class MeanTest:
    """Hotelling's T^2 of two means."""

    t2: float
    p: float
    scheffe: float
    """What a standard error is multiplied by for intervals that hold along all directions at once."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Drift(ArrayHolder):
    """One head between two sets of rows."""

    test: MeanTest
    shifts: Float64s
    """(T,) standardised mean shift along each text, relative to the average text; positive is towards."""
    errors: Float64s
    """(T,) their standard errors."""
    spread: Interval
    """Total variance after relative to before."""
    spread_p: float
    """Of both total variances being equal."""

    @property
    def text(self) -> int:
        """The text along which the mean moved furthest, towards it or away."""
        return int(np.argmax(np.abs(self.shifts)))

    @property
    def effect(self) -> Interval:
        """The shift along that text, in standard deviations."""
        return self.along(self.text)

    def along(self, text: int) -> Interval:
        """The shift along a text; the intervals of all texts hold together."""
        value, margin = float(self.shifts[text]), self.test.scheffe * float(self.errors[text])
        return Interval(value=value, low=value - margin, high=value + margin)

    def towards(self, count: int) -> Ints:
        """(m,) int64 indices of up to `count` texts that the mean moved towards, furthest first."""
        order = np.argsort(-self.shifts, kind="stable")[:count]
        return order[self.shifts[order] > 0]

    def away(self, count: int) -> Ints:
        """(m,) int64 indices of up to `count` texts that the mean moved away from, furthest first."""
        order = np.argsort(self.shifts, kind="stable")[:count]
        return order[self.shifts[order] < 0]


def drift(before: HeadSample, after: HeadSample, texts: Floats) -> Drift:
    """How a head differs between two sets of rows (docs/method.md 2).

    texts: (T, dh) floats in the head's coordinates, `textspan.fold(Q, vectors)`. UsageError when a set has fewer than
    dh + 2 rows, too few for the test.
    """
    require_enough(len(before.mean), before.count, after.count)
    test = mean_test(before, after)
    shifts, errors = _along_texts(before, after, np.asarray(texts, np.float64))
    spread, spread_p = spread_test(before, after)
    return Drift(test=test, shifts=shifts, errors=errors, spread=spread, spread_p=spread_p)


def require_enough(dimensions: int, *counts: int) -> None:
    """UsageError when a set of rows is too small to compare heads of `dimensions` coordinates: it needs dh + 2 rows."""
    least, fewest = dimensions + 2, min(counts)
    if fewest < least:
        raise UsageError(f"a head of {dimensions} dimensions needs at least {least} rows to compare, not {fewest}")


def mean_test(before: HeadSample, after: HeadSample) -> MeanTest:
    """Hotelling's T^2 of equal means, where covariances may differ; each set needs more rows than dimensions.

    Source: Krishnamoorthy and Yu 2004 for the degrees of freedom; Scheffe 1953 for simultaneous intervals.
    """
    p = len(before.mean)
    parts = (before.of_mean, after.of_mean)
    # T^2 = d' (S1/n1 + S2/n2)^-1 d, in the eigenvectors of the sum
    values, vectors = np.linalg.eigh(parts[0] + parts[1])
    difference = vectors.T @ (after.mean - before.mean)
    if values[-1] <= 0:  # neither ever varies
        return MeanTest(t2=0.0, p=float(not difference.any()), scheffe=0.0)
    # floored: the inverse of a variance that float16 rounding made would fill all of T^2
    scale = 1 / np.sqrt(np.maximum(values, _FLOOR * values[-1]))
    t2 = float(((difference * scale) ** 2).sum())
    # nu = (p + p^2) / sum_i (tr W_i^2 + (tr W_i)^2) / (n_i - 1), W_i = (S_i/n_i) (S1/n1 + S2/n2)^-1
    spent = 0.0
    for part, count in zip(parts, (before.count, after.count), strict=True):
        share = (vectors.T @ part @ vectors) * scale[:, None] * scale
        spent += (float((share**2).sum()) + float(np.trace(share)) ** 2) / (count - 1)
    # at least that of the smaller set by itself
    freedom = max((p + p * p) / spent, min(before.count, after.count) - 1)
    factor = freedom * p / (freedom - p + 1)  # T^2 / factor is F(p, nu - p + 1) under the null hypothesis
    return MeanTest(
        t2=t2,
        p=float(stats.f.sf(t2 / factor, p, freedom - p + 1)),
        scheffe=float(np.sqrt(factor * stats.f.ppf(_LEVEL, p, freedom - p + 1))),
    )


def _along_texts(before: HeadSample, after: HeadSample, texts: Float64s) -> tuple[Float64s, Float64s]:
    """(T,) standardised shifts and standard errors; zeros along texts where nothing varies."""
    directions = texts - texts.mean(axis=0)  # all texts share a direction, which would name nothing
    variances = [np.einsum("td,td->t", directions @ sample.unbiased, directions) for sample in (before, after)]
    pooled = (variances[0] + variances[1]) / 2
    known = pooled > _FLOOR * float(np.einsum("td,td->t", directions, directions).max(initial=0.0)) * float(
        np.trace(before.unbiased + after.unbiased)
    )
    # effect d = (m2 - m1)' t / s, s^2 the mean of both variances; Bonett 2008, equation for unequal variances:
    # var d = sum_i s_i^2 / (s^2 n_i) + d^2 sum_i s_i^4 / (8 s^4 (n_i - 1))
    safe = np.where(known, pooled, 1.0)
    shifts = np.where(known, directions @ (after.mean - before.mean) / np.sqrt(safe), 0.0)
    error = np.zeros_like(shifts)
    for variance, sample in zip(variances, (before, after), strict=True):
        error += variance / safe / sample.count
        error += shifts**2 * (variance / safe) ** 2 / (8 * (sample.count - 1))
    return shifts, np.where(known, np.sqrt(error), 0.0)


def spread_test(before: HeadSample, after: HeadSample) -> tuple[Interval, float]:
    """The ratio of total variances, after to before, with its 95 % interval, and the p-value of their being equal.

    The ratio is 1 when neither varies. Variances of the logarithms are those of normal coordinates.
    """
    totals = [float(np.trace(sample.unbiased)) for sample in (before, after)]
    if min(totals) <= 0:
        ratio = 1.0 if max(totals) <= 0 else float("inf") if totals[1] > 0 else 0.0
        return Interval(value=ratio, low=ratio, high=ratio), float(max(totals) <= 0)
    # var log tr S = 2 tr S^2 / ((tr S)^2 (n - 1)) for normal coordinates
    error = 0.0
    for sample, total in zip((before, after), totals, strict=True):
        error += 2 * float((sample.unbiased**2).sum()) / total**2 / (sample.count - 1)
    # on the logarithm, where a ratio and its inverse are equally far from 1
    log = float(np.log(totals[1] / totals[0]))
    margin = float(stats.norm.ppf((1 + _LEVEL) / 2)) * error**0.5
    interval = Interval(value=float(np.exp(log)), low=float(np.exp(log - margin)), high=float(np.exp(log + margin)))
    return interval, float(2 * stats.norm.sf(abs(log) / error**0.5))
