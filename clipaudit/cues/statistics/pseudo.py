"""Pseudo-attributes from a cue's texts, their error rates, and the 2 x 2 correction of what is measured with them (S7).

The cue is read from the embedding minus the heads that are tested: a group made by a head and then judged by ablating
that head would be judged by itself. The fifth of the images nearest to the threshold is left undecided, since there the
pseudo-attribute is least reliable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from clipaudit.arrays import Float64s, Floats, Ints
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.groups import Grouping
from clipaudit.statistics import normal_above, normal_below

UNDECIDED: Final = 0.2
"""Share of the images, nearest to the threshold, that get no value."""
MIN_PURITY: Final = 0.5
"""Share of the conflicting images that must be conflicting."""
VALUES: Final = ("without cue", "with cue")
_MIN_SEPARATION: Final = 2.0
"""Ashman's D: two normal parts closer than this are one mode, and their overlap gives no error rates."""
_STEPS: Final = 200
"""Of expectation maximisation, at most."""
_RESAMPLES: Final = 400
"""Of the bootstrap."""


def otsu(scores: Floats, bins: int = 256) -> float:
    """The threshold that splits scores (n,) into two groups with the least variance inside (Otsu, IEEE SMC 1979).

    The largest score when all are equal.
    """
    if float(np.ptp(scores)) <= 1e-6 * max(float(np.abs(scores).max()), 1e-12):
        return float(np.max(scores))
    counts, edges = np.histogram(np.asarray(scores, np.float64), bins=bins)
    centres = (edges[1:] + edges[:-1]) / 2
    weight = np.cumsum(counts).astype(np.float64)
    first = np.cumsum(counts * centres)
    above = weight[-1] - weight
    usable = (weight > 0) & (above > 0)
    # least variance inside = largest variance between: n_below n_above (mean_below - mean_above)^2
    between = np.zeros(bins)
    difference = first / np.maximum(weight, 1) - (first[-1] - first) / np.maximum(above, 1)
    between[usable] = (weight * above * difference**2)[usable]
    if not usable.any():
        return float(np.mean(scores))
    # a plateau between two separate groups has its best threshold in the middle
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


def pseudo_values(scores: Floats) -> tuple[Ints, float]:
    """Pseudo-attribute (n,) int64 of scores (n,), and Otsu's threshold (S7).

    1 with the cue, 0 without, -1 undecided: the fifth of the images nearest to the threshold.
    """
    threshold = otsu(scores)
    distance = np.abs(scores - threshold)
    codes = (scores > threshold).astype(np.int64)
    codes[distance <= np.quantile(distance, UNDECIDED)] = -1
    return codes, threshold


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """How often a pseudo-attribute is wrong, among the images that it decides (S7)."""

    false_with: float
    """P(called with | without), 0..1."""
    false_without: float
    """P(called without | with), 0..1."""
    known: int | None = None
    """Images with known values behind the rates; None when they come from the scores alone, taken as exact."""

    @property
    def usable(self) -> bool:
        """Whether the misclassification matrix can be inverted without multiplying noise: its determinant is > 0.2."""
        return self.false_with + self.false_without < 0.8


def rates_from_scores(scores: Floats, codes: Ints, threshold: float) -> ErrorRates | None:
    """Error rates from the overlap of two normal parts of the scores (n,), beyond the undecided zone (S7).

    codes, threshold: from `pseudo_values`. None when the scores have one mode (Ashman's D below 2) or a part has fewer
    than 20 images.
    """
    x = np.asarray(scores, np.float64)
    low, high = x[x <= threshold], x[x > threshold]
    if min(len(low), len(high)) < 20:
        return None
    mean = np.array([low.mean(), high.mean()])
    spread = np.maximum(np.array([low.std(), high.std()]), 1e-9)
    weight = np.array([len(low), len(high)]) / len(x)
    # expectation maximisation of a mixture of two normals, started from the two sides of the threshold
    for _ in range(_STEPS):
        z = (x[:, None] - mean) / spread
        density = weight * (np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / spread)
        share = density / np.maximum(density.sum(axis=1, keepdims=True), 1e-300)
        total = share.sum(axis=0)
        # a part that has shrunk to a few scores is no mode
        if total.min() < 5:
            return None
        moved = (share * x[:, None]).sum(axis=0) / total
        spread = np.maximum(np.sqrt((share * (x[:, None] - moved) ** 2).sum(axis=0) / total), 1e-9)
        weight = total / len(x)
        if np.abs(moved - mean).max() < 1e-6 * spread.max():
            mean = moved
            break
        mean = moved
    # Ashman's D = sqrt 2 |m1 - m0| / sqrt(s0^2 + s1^2)
    separation = np.sqrt(2.0) * abs(mean[1] - mean[0]) / np.sqrt((spread**2).sum())
    if separation < _MIN_SEPARATION or mean[1] <= mean[0]:
        return None
    # tails of both parts beyond the zone that gets no value
    undecided = np.abs(x[codes < 0] - threshold).max(initial=0.0)
    above = normal_above((threshold + undecided - mean) / spread)
    below = normal_below((threshold - undecided - mean) / spread)
    called_with = above / np.maximum(above + below, 1e-300)  # (2,) of the parts without and with the cue
    return ErrorRates(false_with=float(called_with[0]), false_without=float(1 - called_with[1]))


# -- correction --------------------------------------------------------------------------------------------------------


def corrected_counts(counts: npt.ArrayLike, rates: ErrorRates) -> Float64s:
    """(..., 2) float64 counts by true value, from counts (..., 2) by called value (S7).

    The inverse of the misclassification matrix; sampling noise can make a small count negative.
    """
    matrix = np.array(
        [[1 - rates.false_with, rates.false_with], [rates.false_without, 1 - rates.false_without]]
    )  # [true, called]
    by_truth: Float64s = np.asarray(counts, np.float64) @ np.linalg.inv(matrix)
    return by_truth


def purity(counts: npt.ArrayLike, rates: ErrorRates | None, k: int, value: int) -> float | None:
    """Share, 0..1, of the images called conflicting that are, from (K, 2) counts by called value (S7).

    The conflict is class k without the value and the other classes with it. None when rates are unknown or too large,
    or no image is called conflicting.
    """
    if rates is None or not rates.usable:
        return None
    called = np.asarray(counts, np.float64)
    true = np.maximum(corrected_counts(called, rates), 0)
    error = [rates.false_with, rates.false_without]
    own, others = 1 - value, value
    # images that conflict and are called so, over all that are called so
    conflicting = true[k, own] * (1 - error[own]) + (true[:, others].sum() - true[k, others]) * (1 - error[others])
    total = called[k, own] + called[:, others].sum() - called[k, others]
    return float(min(1.0, conflicting / total)) if total > 0 else None


@dataclass(frozen=True, eq=False, kw_only=True)
class CorrectedChange:
    """Paired changes by class and true value, from called values; -1..1."""

    conflict: Estimate
    """Mean change over the conflict: class k without the cue, and the others with it, both sides equally."""
    group_mean: Estimate
    """Mean over all groups."""


def corrected_change(
    change: Ints, grouped: Grouping, k: int, value: int, rates: ErrorRates, seed: int = 0, cluster: Ints | None = None
) -> CorrectedChange | None:
    """The paired change by true group from called groups; bootstrap interval with the rates' own uncertainty (S7).

    change: (n,) +1, 0, -1 for the images of `grouped`, whose values are `VALUES`; cluster: (n,) near duplicates or
    sources, whose images share the weight of one and are drawn together. Assumes that mistakes of the pseudo-attribute
    do not depend on the answer, given class and true value. None when rates are too large to invert or a true group
    comes out empty.
    """
    if not rates.usable:
        return None
    used = np.flatnonzero(grouped.group >= 0)
    cells = (grouped.group * 3 + change + 1)[used]
    names = np.arange(len(used)) if cluster is None else cluster[used]
    _, codes, sizes = np.unique(names, return_inverse=True, return_counts=True)
    # what each cluster adds to the group x change cells
    of_cluster = sparse.csr_array((1 / sizes[codes], (codes, cells)), shape=(len(sizes), grouped.count * 3))
    counts = np.asarray(of_cluster.sum(axis=0)).reshape(grouped.count, 3)
    point = _corrected(counts[None], len(grouped.classes), k, value, [rates])
    if point is None:
        return None
    rng = np.random.default_rng([seed, 4])
    drawn = _redrawn_counts(counts, of_cluster, rng)
    drawn_rates = [_redrawn(rates, rng) for _ in range(_RESAMPLES)]
    spread = _corrected(drawn.reshape(_RESAMPLES, grouped.count, 3), len(grouped.classes), k, value, drawn_rates)
    if spread is None:
        return None
    n = len(sizes)

    def estimate(column: int) -> Estimate:
        centre = float(point[0, column])
        half = 1.96 * float(np.nanstd(spread[:, column]))
        return Estimate(value=centre, low=max(-1.0, centre - half), high=min(1.0, centre + half), n=n)

    return CorrectedChange(conflict=estimate(0), group_mean=estimate(1))


def _redrawn_counts(counts: Float64s, of_cluster: sparse.csr_array, rng: np.random.Generator) -> Float64s:
    """(R, cells) counts with the clusters drawn again with replacement, from what each adds to the cells."""
    clusters = of_cluster.shape[0]
    if of_cluster.nnz == clusters:  # each in one cell: multinomial counts, whatever their number
        return rng.multinomial(clusters, counts.ravel() / counts.sum(), _RESAMPLES).astype(np.float64)
    even = np.full(clusters, 1 / clusters)
    return np.stack([rng.multinomial(clusters, even) @ of_cluster for _ in range(_RESAMPLES)])


def _corrected(counts: Float64s, classes: int, k: int, value: int, rates: list[ErrorRates]) -> Float64s | None:
    """(R, 2) corrected change of the conflict and of the group mean, from (R, G, 3) counts of changes -1, 0, +1.

    NaN in draws where it is not defined; None when that is more than a fifth of them.
    """
    R = len(counts)
    by_value = counts.reshape(R, classes, 2, 3).astype(np.float64)
    images = by_value.sum(axis=3)
    gained = by_value[..., 2] - by_value[..., 0]
    out = np.full((R, 2), np.nan)
    for number in range(R):
        rate = rates[number if len(rates) > 1 else 0]
        if not rate.usable:
            continue
        # images and net gains are sums over images, so both are corrected by the same matrix
        n, gain = corrected_counts(images[number], rate), corrected_counts(gained[number], rate)
        # a corrected group of one image or less has no accuracy
        present = n > 1
        change = np.where(present, np.clip(gain / np.where(present, n, 1), -1, 1), np.nan)
        others = np.arange(classes) != k
        weight = np.where(present[others, value], n[others, value], 0)
        if not present[k, 1 - value] or not weight.sum():
            continue
        other_side = float(np.nansum(weight * np.nan_to_num(change[others, value])) / weight.sum())
        out[number] = ((change[k, 1 - value] + other_side) / 2, float(np.nanmean(change)))
    return None if np.isnan(out).mean() > 0.2 else out


def _redrawn(rates: ErrorRates, rng: np.random.Generator) -> ErrorRates:
    """Rates drawn again within their uncertainty; unchanged when they are taken as exact."""
    if rates.known is None:
        return rates
    # about half of the known images stand behind each of the two rates
    half = max(rates.known // 2, 1)
    return ErrorRates(
        false_with=float(rng.binomial(half, rates.false_with) / half),
        false_without=float(rng.binomial(half, rates.false_without) / half),
        known=rates.known,
    )
