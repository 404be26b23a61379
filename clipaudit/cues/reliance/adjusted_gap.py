"""A gap with another column held fixed: explained by it, or not to be told from it (S9b)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.reliance.clustered import Cells
from clipaudit.cues.reliance.drawn_columns import draw_places, drawn_columns, sorted_rows
from clipaudit.cues.reliance.images import CueCells, CueColumn, OtherColumn, ScoredImages
from clipaudit.cues.reliance.score_intervals import score_combination
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.multiplicity import tie_limit

INSEPARABLE: Final = 0.8
"""Correlation inside classes from which two columns cannot be told apart."""
_RELATED: Final = 0.5
"""Correlation from which they are not told apart where neither has a gap given the other."""
_SURE: Final = 0.99
"""Level of the gap given the other column: a follower's is above 0 by chance in 1 of 200 cases."""
_COMPARABLE: Final = 0.5
"""Share of the conflicting images that must have aligned ones beside them in their bin."""
_DRAWS: Final = 199


@dataclass(frozen=True, kw_only=True)
class AdjustedGap:
    """The gap of a cue inside the bins of another column."""

    column: str
    phi: float
    """Correlation of both columns inside classes, 0..1."""
    comparable: float
    """Share of the conflicting images, by weight, in bins that also hold aligned images of the class."""
    gap: Estimate
    """Of the cue inside class x bin, 99 %; None values where nothing is comparable."""
    other: Estimate
    """Of the other column, inside class x cue, 95 %."""
    p: float | None
    """One-sided, by permutation inside class x bin; None where nothing is comparable."""
    least: float = 0.0
    """What the cue's gap must exceed given the other column: more than 0 for a property of the pixels."""

    @property
    def inseparable(self) -> bool:
        """Whether the two columns cannot be told apart."""
        if self.phi >= INSEPARABLE or self.comparable < _COMPARABLE or self.gap.low is None:
            return True
        # neither holds given the other: the gap may lie in what they have in common
        neither = self.gap.low <= 0 and (self.other.low is None or self.other.low <= 0)
        return self.phi >= _RELATED and neither

    @property
    def explains(self) -> bool:
        """Whether the other column explains the gap: nothing that counts is left of the cue, but something of the
        other."""
        if self.inseparable or self.gap.low is None or self.other.low is None:
            return False
        return self.gap.low <= self.least and self.other.low > 0


def adjusted_gap(comparison: CueCells, right: Bools, other: OtherColumn, seed: int, margin: float) -> AdjustedGap:
    """S9b for one answerer's right answers (n,) and one other column; margin: the least gap that counts."""
    images, bins = comparison.images, int(other.codes.max(initial=-1)) + 1
    inside = (comparison.cells.cell >= 0) & (other.codes >= 0) & comparison.comparable[images.truth]
    conflicting = comparison.cue.conflicting(images.truth)
    strata = np.where(inside, images.truth * bins + other.codes, -1)
    gap, comparable = _inside_strata(images, comparison.shares, strata, bins, conflicting, right, _SURE)
    # the reverse: the other column's gap with the cue held fixed
    wrong_way = np.where(other.aligned[images.truth, np.maximum(other.codes, 0)], 0, 1)
    by_cue = np.where(inside, images.truth * 2 + np.maximum(comparison.cue.having, 0), -1)
    reverse, _ = _inside_strata(images, comparison.shares, by_cue, 2, np.where(inside, wrong_way, -1), right)
    return AdjustedGap(
        column=other.name,
        phi=_correlation(images, comparison.cue.having, other.codes, inside),
        comparable=comparable,
        gap=gap,
        other=reverse,
        p=_permutation_p(comparison, right, strata, bins, seed) if gap.value is not None else None,
        # brightness follows from water, and a column of two values does not hold all of the water: what is left of a
        # property must count by itself
        least=margin if comparison.cue.measured else 0.0,
    )


def _strata_weights(cells: Cells, shares: Float64s, bins: int) -> tuple[Float64s, float]:
    """(K bins,) weight of each stratum, and the share of conflicting weight that is comparable.

    Classes as in the plain gap, renormalised over those that remain; inside a class Mantel and Haenszel's
    m1 m0 / (m1 + m0), by which small strata count little.
    """
    pieces = cells.pieces.reshape(-1, 2)
    # one image on a side has no error
    usable = (pieces >= 2).all(axis=1)
    weights = np.where(usable, pieces[:, 0] * pieces[:, 1] / np.maximum(pieces.sum(axis=1), 1e-300), 0.0)
    by_class = weights.reshape(-1, bins)
    present = by_class.sum(axis=1) > 0
    remaining = np.where(present, shares, 0.0)
    remaining = remaining / max(float(remaining.sum()), 1e-300)
    spread = by_class / np.maximum(by_class.sum(axis=1, keepdims=True), 1e-300) * remaining[:, None]
    against = cells.total.reshape(-1, 2)[:, 1]
    counted = np.repeat(shares > 0, bins)
    comparable = float(against[usable & counted].sum() / max(float(against[counted].sum()), 1e-300))
    return spread.ravel(), comparable


def _inside_strata(
    images: ScoredImages,
    shares: Float64s,
    strata: Ints,
    bins: int,
    conflicting: Ints,
    right: Bools,
    level: float = 0.95,
) -> tuple[Estimate, float]:
    cell = np.where((strata >= 0) & (conflicting >= 0), 2 * strata + conflicting, -1)
    cells = images.cells(cell, 2 * images.classes * bins)
    weights, comparable = _strata_weights(cells, shares, bins)
    coefficients = np.stack([weights, -weights], axis=1).ravel()
    return score_combination(cells, right, coefficients, level), comparable


def _permutation_p(comparison: CueCells, right: Bools, strata: Ints, bins: int, seed: int) -> float:
    """One-sided p of the adjusted gap: the cue's column permuted inside class x bin, by clusters."""
    images = comparison.images
    inside = np.flatnonzero(strata >= 0)
    part = ScoredImages(
        truth=strata[inside],
        classes=images.classes * bins,
        cluster=images.cluster[inside],
        discovery=images.discovery[inside],
        sources=images.sources,
    )
    cue = CueColumn(
        name=comparison.cue.name,
        having=comparison.cue.having[inside],
        pointed=np.repeat(comparison.cue.pointed, bins),
        tested=np.repeat(comparison.comparable, bins),
    )
    cell = 2 * part.truth + cue.conflicting(part.truth)
    weights, _ = _strata_weights(part.cells(cell, 2 * part.classes), comparison.shares, bins)
    places = np.concatenate([np.arange(len(inside))[None], draw_places(part, _DRAWS, seed, part.truth)])
    rows = sorted_rows(part, np.ones(len(inside), np.bool_))
    drawn = drawn_columns(part, cue, places, rows)
    kinds = np.unique(part.truth)
    # the true column's weights in every draw: the estimand stays the same
    shares = np.broadcast_to(weights[kinds], drawn.shares.shape)
    gaps = drawn.difference(shares) @ right[inside][rows].astype(np.float32)
    return float((1 + (gaps[1:] >= tie_limit(gaps[0])).sum()) / (1 + _DRAWS))


def _correlation(images: ScoredImages, having: Ints, codes: Ints, inside: Bools) -> float:
    """Multiple correlation of the cue with the other column's bins inside classes, 0..1; |phi| for two bins."""
    rows = np.flatnonzero(inside)
    if not len(rows):
        return 0.0
    weight, truth = images.weight[rows], images.truth[rows]
    centred = having[rows] - _means(having[rows].astype(np.float64), truth, weight)
    pairs = truth * (int(codes.max(initial=0)) + 1) + codes[rows]
    # R^2: variance of the bins' means over all of it, inside classes
    between = _means(centred, pairs, weight)
    total = float(weight @ centred**2)
    return float(np.sqrt(weight @ between**2 / total)) if total > 1e-12 else 0.0


def _means(values: Float64s, groups: Ints, weight: Float64s) -> Float64s:
    """(m,) the weighted mean of each value's group."""
    codes = np.unique(groups, return_inverse=True)[1]
    means: Float64s = (np.bincount(codes, weight * values) / np.bincount(codes, weight))[codes]
    return means
