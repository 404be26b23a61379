"""Rank D of a score between aligned and conflicting images inside classes: margin D (S9) and visibility (S10b)."""

from __future__ import annotations

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Floats, Ints
from clipaudit.cues.reliance.clustered import Spread
from clipaudit.cues.reliance.images import CueCells


def margins(logits: Float32s, truth: Ints, pointed: Bools) -> Float64s:
    """(n,) how far logits (n, C) lean towards the classes that have the cue, in logits.

    For an image of such a class: its class over the best of those that lack the cue; for an image of another class: the
    best of those that have it over its own.
    """
    n = len(truth)
    own = logits[np.arange(n), truth].astype(np.float64)
    best = [np.where(side, logits, -np.inf).max(axis=1).astype(np.float64) for side in (pointed, ~pointed)]
    leaning: Float64s = np.where(pointed[truth], own - best[1], best[0] - own)
    return leaning


def placements(scores: Floats, upper: Bools, weight: Float64s) -> Float64s:
    """(n,) for an image of the upper side the share of the lower side below it, for one of the lower side the share of
    the upper side above it; ties count half. Both weighted means are the AUC (DeLong's components, 1988)."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    tie = np.cumsum(np.append(False, ordered[1:] != ordered[:-1])[: len(order)])
    count = int(tie.max(initial=-1)) + 1
    shares = []
    for side in (upper, ~upper):
        # weight below each score, and half of that at it
        mass = np.bincount(tie, (weight * side)[order], minlength=count)
        shares.append((np.cumsum(mass) - mass / 2) / max(float(mass.sum()), 1e-300))
    of_upper, of_lower = shares
    placed = np.empty(len(scores))
    placed[order] = np.where(upper[order], of_lower[tie], 1 - of_upper[tie])
    return placed


def rank_difference(comparison: CueCells, scores: Floats, shares: Float64s, strata: Ints | None = None) -> Spread:
    """D = 2 AUC - 1 of scores (n,) of images with the cue over those without, inside classes, weighted by shares (C,).

    strata (n,) splits classes further: scores of different strata are never compared (two fits have two scales); their
    AUCs are averaged by the weight of their rarer side. Clustered errors of the placements; never 0 where the sides are
    fully apart, but 1 / (2 m^2) for m independent images of each (S1).
    """
    images, cue = comparison.images, comparison.cue
    placed = np.zeros(len(scores))
    conflicting = cue.conflicting(images.truth)
    having = cue.having == 1
    levels = np.zeros(len(scores), np.int64) if strata is None else strata
    cell = np.full(len(scores), -1, np.int64)
    parts = int(levels.max(initial=0)) + 1
    coefficients = np.zeros(2 * images.classes * parts)
    for k in np.flatnonzero(shares).tolist():
        usable = []
        for level in range(parts):
            rows = np.flatnonzero((images.truth == k) & (conflicting >= 0) & (levels == level))
            sides = [float(images.weight[rows][having[rows] == side].sum()) for side in (True, False)]
            if min(sides) > 0:
                placed[rows] = placements(scores[rows], having[rows], images.weight[rows])
                cell[rows] = 2 * (k * parts + level) + conflicting[rows]
                usable.append((level, min(sides)))
        total = sum(size for _, size in usable)
        for level, size in usable:
            at = 2 * (k * parts + level)
            coefficients[at : at + 2] = shares[k] * size / total
    cells = images.cells(cell, len(coefficients))
    # the AUC is the mean of both cells' placements: D = A_upper + A_lower - 1
    spread = cells.combine(placed, coefficients, floored=False)
    used = coefficients != 0
    if not used.any():
        return Spread(value=0.0, variance=float("inf"), freedom=1.0, n=0)
    # 4 / (2 m^2) on D, half of it from each of a class's two cells
    least = float((coefficients[used] ** 2 / np.maximum(cells.pieces[used], 1.0) ** 2).sum())
    return Spread(
        value=spread.value - float(coefficients.sum()) / 2,  # of the classes that can be compared
        variance=max(4 * spread.variance, least),  # D = 2 A - 1, and an image's influence on A is its placement's
        freedom=spread.freedom,
        n=spread.n,
    )
