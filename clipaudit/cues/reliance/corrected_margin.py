"""Margin D where the cue's column is wrong with a known rate: what its wrong values hide of it, given back (S6c, S9).

Among images said to have a value some lack it, and the other way round, so that both sides' margins are mixtures of
the true ones. The inverse of the misclassification matrix takes the mixtures apart. AUCs are linear in each side's
margins, so that inside a class D grows by a factor that follows from the said share of the value and the rate alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.reliance.clustered import Spread
from clipaudit.cues.reliance.images import CueCells, class_shares
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.known_error import KnownError, drawn_rate, stretched

_RESAMPLES: Final = 400
_LEAST: Final = 1.0
"""Images that a corrected side needs: below one its margins are noise divided by nothing."""


def corrected_rank_difference(
    comparison: CueCells, scores: Floats, error: KnownError, plain: Spread, seed: int
) -> Estimate:
    """D of scores (n,) inside classes (`rank_difference`, which gave `plain`) corrected for the known error of the
    cue's column, with a 95 % bootstrap interval over groups of images and over the rate.

    Of the comparable classes with at least one image on both sides after correction; its value None where these are
    not on both sides of the cue. Where a resample leaves a class less, the whole -1..1 is possible there. The interval
    is never narrower than the uncorrected one times the factor. It is assumed that being wrong has nothing to do with
    the score, given class and true value.
    """
    ranked = _ranked(comparison, scores)
    point = _corrected(ranked, ranked.weight, error.rate, comparison.cue.values)
    shares = class_shares(comparison.comparable & point.told, comparison.cue.pointed)
    sides = [bool(shares[side].any()) for side in (comparison.cue.pointed, ~comparison.cue.pointed)]
    if not all(sides):
        return Estimate(value=None, low=None, high=None, n=plain.n)
    value, groups = float(shares @ point.d), int(ranked.group.max()) + 1
    rng = np.random.default_rng([seed, 23])
    draws = np.empty((2, _RESAMPLES))
    for number in range(_RESAMPLES):
        times = np.bincount(rng.integers(0, groups, groups), minlength=groups)
        rate = drawn_rate(error, rng)
        drawn = _corrected(ranked, ranked.weight * times[ranked.group], rate, comparison.cue.values)
        # what cannot be told on a side may be anything
        draws[:, number] = [shares @ np.where(drawn.told, drawn.d, end) for end in (-1.0, 1.0)]
    stretch = stretched(groups) if comparison.images.sources else 1.0
    low = value + stretch * (float(np.quantile(draws[0], 0.025)) - value)
    high = value + stretch * (float(np.quantile(draws[1], 0.975)) - value)
    uncorrected = plain.estimate()
    assert uncorrected.low is not None
    assert uncorrected.high is not None
    # a bootstrap of few images is too sure, and of sides that lie fully apart has no spread at all (S1)
    factor = float(shares @ point.factor)
    low = min(low, value - factor * (plain.value - uncorrected.low))
    high = max(high, value + factor * (uncorrected.high - plain.value))
    return Estimate(value=value, low=max(low, -1.0), high=min(high, 1.0), n=plain.n)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Ranked:
    """The m images of comparable classes by class and score; T are the runs of equal scores of a class."""

    tie: Ints
    """(m,) 0..T-1, ascending."""
    class_of: Ints
    """(T,)"""
    start: Ints
    """(C,) the first run of each class."""
    having: Bools
    """(m,) said to have the cue."""
    weight: Float64s
    """(m,)"""
    group: Ints
    """(m,) what is drawn again together: near duplicates, or a source."""


def _ranked(comparison: CueCells, scores: Floats) -> _Ranked:
    images = comparison.images
    inside = np.flatnonzero((comparison.cells.cell >= 0) & comparison.comparable[images.truth])
    rows = inside[np.lexsort((scores[inside], images.truth[inside]))]
    change = (np.diff(images.truth[rows]) != 0) | (np.diff(scores[rows]) != 0)
    first = np.concatenate([np.ones(min(len(rows), 1), np.bool_), change])
    class_of = images.truth[rows][first]
    return _Ranked(
        tie=np.cumsum(first) - 1,
        class_of=class_of,
        start=np.searchsorted(class_of, np.arange(images.classes)),
        having=comparison.cue.having[rows] == 1,
        weight=images.weight[rows],
        group=np.unique(images.cluster[rows], return_inverse=True)[1].astype(np.int64),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Corrected:
    d: Float64s
    """(C,) corrected D of each class, -1..1; 0 where it is not told."""
    factor: Float64s
    """(C,) what the said D was multiplied by, 1 or more; 0 where it is not told."""
    told: Bools
    """(C,) at least one image on both sides after correction."""


def _corrected(ranked: _Ranked, weight: Float64s, rate: float, values: int) -> _Corrected:
    """Each class's D under weights (m,), corrected for a rate of wrong values of a column of so many."""
    C, T = len(ranked.start), len(ranked.class_of)
    having, lacking = (np.bincount(ranked.tie, weight * side, minlength=T) for side in (ranked.having, ~ranked.having))
    S, R = (np.bincount(ranked.class_of, part, minlength=C) for part in (having, lacking))
    total = np.concatenate([[0.0], np.cumsum(lacking)])
    # weight of the lacking side of the class below each run, and half of that in it
    below = total[:-1] + lacking / 2 - total[ranked.start][ranked.class_of]
    U = np.bincount(ranked.class_of, having * below, minlength=C)
    others = rate / max(values - 1, 1)  # P(said to have it | lacks it)
    seen = 1 - rate - others
    # said to have it: S = (1 - rate) H + others L; h = seen H and l = seen L by the inverse of that matrix
    h, lack = (1 - others) * S - others * R, (1 - rate) * R - rate * S
    told = (h >= _LEAST * seen) & (lack >= _LEAST * seen)
    # 2 AUC - 1 of the said sides is seen H L / (S R) of the true ones'
    factor = np.where(told, seen * S * R / np.where(told, h * lack, 1.0), 0.0)
    d = 2 * U / np.maximum(S * R, 1e-300) - 1
    return _Corrected(d=np.clip(d * factor, -1.0, 1.0), factor=factor, told=told)
