"""Pseudo-attributes from a cue's texts, their error rates, and the 2 x 2 correction of what is measured with them (S7).

The cue is read from the embedding minus the heads that are tested: a group made by a head and then judged by ablating
that head would be judged by itself. Near the threshold nobody knows, so the middle fifth is left undecided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from clipaudit.arrays import Float64s, Floats, Ints
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.groups import Grouping

MIDDLE: Final = 0.2
MIN_PURITY: Final = 0.5
VALUES: Final = ("without cue", "with cue")
_MIN_SEPARATION: Final = 2.0
"""Ashman's D: two normal parts closer than this are one hump, and their overlap says nothing."""
_STEPS: Final = 200
_RESAMPLES: Final = 400


def otsu(scores: Floats, bins: int = 256) -> float:
    """The threshold that parts scores (n,) into two groups with the least variance inside (Otsu 1979)."""
    if float(np.ptp(scores)) <= 1e-6 * max(float(np.abs(scores).max()), 1e-12):
        return float(np.max(scores))  # nothing to part
    counts, edges = np.histogram(np.asarray(scores, np.float64), bins=bins)
    centres = (edges[1:] + edges[:-1]) / 2
    weight = np.cumsum(counts).astype(np.float64)
    first = np.cumsum(counts * centres)
    rest = weight[-1] - weight
    usable = (weight > 0) & (rest > 0)
    between = np.zeros(bins)
    difference = first / np.maximum(weight, 1) - (first[-1] - first) / np.maximum(rest, 1)
    between[usable] = (weight * rest * difference**2)[usable]
    if not usable.any():
        return float(np.mean(scores))
    # a plateau between two separate groups has its best threshold in the middle
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


def pseudo_values(scores: Floats) -> tuple[Ints, float]:
    """(n,) 1 with, 0 without, -1 undecided (the fifth of the images nearest to the threshold), and the threshold."""
    threshold = otsu(scores)
    distance = np.abs(scores - threshold)
    codes = (scores > threshold).astype(np.int64)
    codes[distance <= np.quantile(distance, MIDDLE)] = -1
    return codes, threshold


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """How often a pseudo-attribute is wrong, among the images that it decides."""

    false_with: float
    """P(says with | without)."""
    false_without: float
    """P(says without | with)."""
    known: int | None = None
    """Images with known values behind the rates; None when they come from the scores alone, taken as exact."""

    @property
    def usable(self) -> bool:
        """Whether the rates can be inverted without blowing up noise."""
        return self.false_with + self.false_without < 0.8


def rates_from_truth(codes: Ints, truth: Ints) -> ErrorRates | None:
    """From images whose attribute is known (0, 1; -1 unknown); None with fewer than 20 of either value."""
    decided = (codes >= 0) & (truth >= 0)
    without, having = decided & (truth == 0), decided & (truth == 1)
    if min(int(without.sum()), int(having.sum())) < 20:
        return None
    return ErrorRates(
        false_with=float((codes[without] == 1).mean()),
        false_without=float((codes[having] == 0).mean()),
        known=int(decided.sum()),
    )


def rates_from_scores(scores: Floats, codes: Ints, threshold: float) -> ErrorRates | None:
    """From the overlap of two normal parts of the scores beyond the undecided zone; None when there is one hump."""
    x = np.asarray(scores, np.float64)
    low, high = x[x <= threshold], x[x > threshold]
    if min(len(low), len(high)) < 20:
        return None
    mean = np.array([low.mean(), high.mean()])
    spread = np.maximum(np.array([low.std(), high.std()]), 1e-9)
    weight = np.array([len(low), len(high)]) / len(x)
    for _ in range(_STEPS):
        density = weight * stats.norm.pdf(x[:, None], mean, spread)
        share = density / np.maximum(density.sum(axis=1, keepdims=True), 1e-300)
        total = share.sum(axis=0)
        if total.min() < 5:
            return None
        moved = (share * x[:, None]).sum(axis=0) / total
        spread = np.maximum(np.sqrt((share * (x[:, None] - moved) ** 2).sum(axis=0) / total), 1e-9)
        weight = total / len(x)
        if np.abs(moved - mean).max() < 1e-6 * spread.max():
            mean = moved
            break
        mean = moved
    separation = np.sqrt(2.0) * abs(mean[1] - mean[0]) / np.sqrt((spread**2).sum())
    if separation < _MIN_SEPARATION or mean[1] <= mean[0]:
        return None
    undecided = np.abs(x[codes < 0] - threshold).max(initial=0.0)
    above = stats.norm.sf(threshold + undecided, mean, spread)
    below = stats.norm.cdf(threshold - undecided, mean, spread)
    said_with = above / np.maximum(above + below, 1e-300)
    return ErrorRates(false_with=float(said_with[0]), false_without=float(1 - said_with[1]))


# -- correction --------------------------------------------------------------------------------------------------------


def corrected_counts(counts: npt.ArrayLike, rates: ErrorRates) -> Float64s:
    """(..., 2) counts by said value -> by true value: the misclassification matrix, inverted."""
    matrix = np.array(
        [[1 - rates.false_with, rates.false_with], [rates.false_without, 1 - rates.false_without]]
    )  # [true, said]
    found: Float64s = np.asarray(counts, np.float64) @ np.linalg.inv(matrix)
    return found


def purity(counts: npt.ArrayLike, rates: ErrorRates | None, k: int, value: int) -> float | None:
    """Share of the images called conflicting that are, from (K, 2) said counts; None when rates are unknown."""
    if rates is None or not rates.usable:
        return None
    said = np.asarray(counts, np.float64)
    true = np.maximum(corrected_counts(said, rates), 0)
    wrong = [rates.false_with, rates.false_without]
    own, others = 1 - value, value
    really = true[k, own] * (1 - wrong[own]) + (true[:, others].sum() - true[k, others]) * (1 - wrong[others])
    called = said[k, own] + said[:, others].sum() - said[k, others]
    return float(min(1.0, really / called)) if called > 0 else None


@dataclass(frozen=True, eq=False, kw_only=True)
class CorrectedChange:
    """Paired changes by class and true value, from said values."""

    conflict: Estimate
    """Mean change over the conflict: class k without the cue, and the others with it, both sides equally."""
    group_mean: Estimate
    """Mean over all groups."""


def corrected_change(
    change: Ints, found: Grouping, k: int, value: int, rates: ErrorRates, seed: int = 0
) -> CorrectedChange | None:
    """The paired change per true group from said groups; bootstrap interval with the rates' own uncertainty.

    Assumes that mistakes of the pseudo-attribute do not depend on the answer, given class and true value. None when
    rates are too large to invert or a true group comes out empty.
    """
    if not rates.usable:
        return None
    used = found.group >= 0
    cells = np.stack([(found.group * 3 + change + 1)[used]]).ravel()
    counts = np.bincount(cells, minlength=found.count * 3).reshape(found.count, 3)  # group x (-1, 0, 1)
    point = _corrected(counts[None], len(found.classes), k, value, [rates])
    if point is None:
        return None
    rng = np.random.default_rng([seed, 4])
    drawn = rng.multinomial(int(counts.sum()), counts.ravel() / counts.sum(), _RESAMPLES)
    many = [_redrawn(rates, rng) for _ in range(_RESAMPLES)]
    spread = _corrected(drawn.reshape(_RESAMPLES, found.count, 3), len(found.classes), k, value, many)
    if spread is None:
        return None
    n = int(used.sum())

    def estimate(place: int) -> Estimate:
        value_ = float(point[0, place])
        half = 1.96 * float(np.nanstd(spread[:, place]))
        return Estimate(value=value_, low=max(-1.0, value_ - half), high=min(1.0, value_ + half), n=n)

    return CorrectedChange(conflict=estimate(0), group_mean=estimate(1))


def _corrected(counts: Ints, classes: int, k: int, value: int, rates: list[ErrorRates]) -> Float64s | None:
    """(R, G, 3) counts -> (R, 2) corrected change of the conflict and of the group mean; None when not defined."""
    R = len(counts)
    by_value = counts.reshape(R, classes, 2, 3).astype(np.float64)
    images = by_value.sum(axis=3)
    gained = by_value[..., 2] - by_value[..., 0]
    out = np.full((R, 2), np.nan)
    for number in range(R):
        rate = rates[number if len(rates) > 1 else 0]
        if not rate.usable:
            continue
        n, gain = corrected_counts(images[number], rate), corrected_counts(gained[number], rate)
        good = n > 1
        change = np.where(good, np.clip(gain / np.where(good, n, 1), -1, 1), np.nan)
        others = np.arange(classes) != k
        weight = np.where(good[others, value], n[others, value], 0)
        if not good[k, 1 - value] or not weight.sum():
            continue
        rest = float(np.nansum(weight * np.nan_to_num(change[others, value])) / weight.sum())
        out[number] = ((change[k, 1 - value] + rest) / 2, float(np.nanmean(change)))
    return None if np.isnan(out).mean() > 0.2 else out


def _redrawn(rates: ErrorRates, rng: np.random.Generator) -> ErrorRates:
    """Rates drawn again within their uncertainty; unchanged when they are taken as exact."""
    if rates.known is None:
        return rates
    half = max(rates.known // 2, 1)
    return ErrorRates(
        false_with=float(rng.binomial(half, rates.false_with) / half),
        false_without=float(rng.binomial(half, rates.false_without) / half),
        known=rates.known,
    )
