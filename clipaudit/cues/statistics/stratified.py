"""The share of images that have a cue, from images that a person labelled, drawn by strata (S6d).

The stratified estimator is that of Horvitz and Thompson (JASA 1952) with the weights `N_h / n_h` in Hajek's form, since
images that the person cannot tell are left out and their stratum's others stand for them: the sum over strata of
`W_h p_h`. Its variance is Cochran's (Sampling Techniques, 1977, 5.26 with finite population corrections); in a stratum
whose answers are all alike the share is taken half an image off the end, so that it is never 0. The interval is
Wilson's on the effective number `p (1 - p) / var` (Korn and Graubard, Survey Methodology 1998), t for normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from clipaudit.arrays import Float64s
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.statistics import student_quantile, wilson

_LEVEL: Final = 0.95


def stratified_share(rows: Sequence[int], told: Sequence[int], having: Sequence[int]) -> Estimate | None:
    """The share of a population that has a cue, with a 95 % interval; None while nothing is told.

    rows (H,): images of each stratum; told (H,): those drawn at random from it that were labelled; having (H,): those
    of them that have the cue. Strata without a told image share the estimate of the others.

    >>> estimate = stratified_share([100, 100], [10, 10], [9, 1])
    >>> round(estimate.value, 2), estimate.n
    (0.5, 20)
    """
    N, n, y = (np.asarray(each, np.float64) for each in (rows, told, having))
    used = (n > 0) & (N > 0)
    if not used.any():
        return None
    N, n, y = N[used], n[used], y[used]
    weight = N / N.sum()
    share = float(weight @ (y / n))
    variance, freedom = _variance(weight, N, n, y)
    if variance == 0:  # every image was told: the share is known
        return Estimate(value=share, low=share, high=share, n=int(n.sum()))
    # half an image off the ends also where all strata say the same: p (1 - p) must not be 0
    inside = min(max(share, 0.5 / float(n.sum())), 1 - 0.5 / float(n.sum()))
    # strata never make few images worth many: at most twice as many, but for those of a population that is nearly told
    most = 2 * float(n.sum()) / max(1 - float(n.sum() / N.sum()), 1e-9)
    effective = min(inside * (1 - inside) / variance, most)
    low, high = wilson(share, effective, student_quantile((1 + _LEVEL) / 2, freedom))
    return Estimate(value=share, low=float(low), high=float(high), n=int(n.sum()))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """first - second of independent shares, by Newcombe's hybrid of their limits (Statistics in Medicine 1998, 10)."""
    a, b = float(first.value or 0.0), float(second.value or 0.0)
    below = np.hypot(a - float(first.low or 0.0), float(1.0 if second.high is None else second.high) - b)
    above = np.hypot(float(1.0 if first.high is None else first.high) - a, b - float(second.low or 0.0))
    low, high = max(-1.0, a - b - float(below)), min(1.0, a - b + float(above))
    return Estimate(value=a - b, low=low, high=high, n=first.n + second.n)


def slip_rate(disagreements: int, repeats: int) -> float:
    """How often one answer is wrong, 0..0.5, from images that were answered twice: two answers differ in
    `2 e (1 - e)` of them when each slips by itself with rate e.

    >>> round(slip_rate(2, 20), 3)
    0.053
    """
    share = min(disagreements / repeats, 0.5) if repeats else 0.0
    return float((1 - np.sqrt(1 - 2 * share)) / 2)


def _variance(weight: Float64s, N: Float64s, n: Float64s, y: Float64s) -> tuple[float, float]:
    """Of the weighted share, and its degrees of freedom (Satterthwaite)."""
    softened = (y + 0.5) / (n + 1)
    # an image alone in its stratum has no spread of its own: its divisor stays 1
    parts = weight**2 * (1 - n / N) * softened * (1 - softened) / np.maximum(n - 1, 1)
    total = float(parts.sum())
    squares = float((parts**2 / np.maximum(n - 1, 1)).sum())
    return total, max(total**2 / squares, 1.0) if squares > 0 else max(float(n.sum()) - 1, 1.0)
