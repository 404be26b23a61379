"""Whether heads see a cue: a ridge score of its column from their coordinates, ranked on other images (S10b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Floats, Ints
from clipaudit.cues.reliance.clustered import Spread
from clipaudit.cues.reliance.images import CueCells, ScoredImages
from clipaudit.cues.reliance.rank_difference import rank_difference
from clipaudit.cues.result.finding_parts import Estimate

VISIBLE: Final = 0.55
"""An AUC whose lower limit is not above this says that the heads do not show the cue."""
SEEING: Final = 0.60
"""Heads whose AUC's lower limit is above this see the cue, and are no controls for it."""


def cue_directions(comparison: CueCells, coordinates: Sequence[Floats], half: Bools) -> list[Float64s]:
    """For each head the direction (dh,) along which images with and without the cue differ inside classes, on a half.

    The mean difference of unit length, classes weighted as in `comparison`; zeros where the half has no such class.
    """
    contrast = _contrast(comparison, half)
    rows = np.flatnonzero(contrast)
    directions = []
    for values in coordinates:
        difference = contrast[rows] @ values[rows].astype(np.float64)
        directions.append(difference / max(float(np.linalg.norm(difference)), 1e-12))
    return directions


def whiteners(images: ScoredImages, coordinates: Sequence[Floats], halves: Sequence[Bools]) -> list[list[Float64s]]:
    """For each half and head the inverse (dh, dh) of its coordinates' covariance inside classes plus a ridge.

    The ridge is trace / n, so that 64 coordinates can be fitted on few images. It depends on no column.
    """
    inverses = []
    for half in halves:
        rows = np.flatnonzero(half)
        weight = images.weight[rows] / max(float(images.weight[rows].sum()), 1e-300)
        of_half = []
        for values in coordinates:
            # inside classes: what tells classes apart is no noise around the cue
            X = _class_centred(values[rows].astype(np.float64), images.truth[rows], weight)
            gram = (X * weight[:, None]).T @ X
            gram[np.diag_indices_from(gram)] += max(float(np.trace(gram)), 1e-12) / max(len(rows), 1)
            of_half.append(np.linalg.inv(gram).astype(np.float64))
        inverses.append(of_half)
    return inverses


def head_scores(
    comparison: CueCells,
    coordinates: Sequence[Floats],
    inverses: Sequence[Sequence[Float64s]],
    halves: Sequence[Bools],
) -> Float32s:
    """(P, n) each head's score of the cue, for every image by the half that it is not on.

    The mean difference of images with and without the cue inside classes times `whiteners`: Fisher's discriminant with
    a ridge. halves: (n,) masks of the two fitting halves.
    """
    scores = np.zeros((len(coordinates), len(comparison.images.truth)), np.float32)
    for half, of_half in zip(halves, inverses, strict=True):
        contrast = _contrast(comparison, half)
        rows, elsewhere = np.flatnonzero(contrast), np.flatnonzero(~half)
        for head, values in enumerate(coordinates):
            difference = contrast[rows].astype(np.float32) @ values[rows].astype(np.float32)
            # Fisher: (S + ridge)^-1 (mean with - mean without)
            discriminant = of_half[head] @ difference.astype(np.float64)
            scores[head, elsewhere] = values[elsewhere].astype(np.float32) @ discriminant.astype(np.float32)
    return scores


def set_visibility(
    comparison: CueCells, scores: Float32s, chosen: Sequence[Bools], fold: Ints, halves: Sequence[Bools]
) -> Spread:
    """D of the cue along the summed scores (P, n) of the heads chosen (P,) by each fit, on the images of its fold (n,).

    Folds lie inside halves. Fits with other heads have other levels: every head's scores are centred inside class x
    half before they are summed.
    """
    half = halves[0].astype(np.int64)
    summed = np.zeros(scores.shape[1])
    for f, mask in enumerate(chosen):
        inside = np.flatnonzero(fold == f)
        summed[inside] = _level(scores[mask], comparison.images.truth * 2 + half)[:, inside].sum(axis=0)
    # each half has the scale of its own fit: images are compared inside one only
    return rank_difference(comparison, summed, comparison.shares, strata=half)


def _level(scores: Float32s, strata: Ints) -> Float32s:
    """Scores (h, n) minus their mean inside strata (n,)."""
    count = np.maximum(np.bincount(strata), 1)
    means = np.stack([np.bincount(strata, row) for row in scores]) / count if len(scores) else scores[:, :0]
    centred: Float32s = (scores - means[:, strata]).astype(np.float32) if len(scores) else scores
    return centred


def head_visibility(comparison: CueCells, scores: Float32s, halves: Sequence[Bools]) -> list[Spread]:
    """The same for every head by itself, scores (P, n)."""
    strata = halves[0].astype(np.int64)
    return [rank_difference(comparison, head, comparison.shares, strata=strata) for head in scores]


def as_auc(spread: Spread) -> Estimate:
    """D = 2 AUC - 1 as an AUC, 0..1, with its 95 % interval."""
    d = spread.estimate()
    assert d.value is not None
    assert d.low is not None
    assert d.high is not None
    return Estimate(value=(1 + d.value) / 2, low=(1 + d.low) / 2, high=(1 + d.high) / 2, n=d.n, level=d.level)


def _contrast(comparison: CueCells, half: Bools) -> Float64s:
    """(n,) weights whose product with values is the mean difference with - without the cue, over classes of a half."""
    images, having = comparison.images, comparison.cue.having
    contrast = np.zeros(len(having))
    for k in np.flatnonzero(comparison.comparable).tolist():
        inside = half & (images.truth == k)
        sides = [np.flatnonzero(inside & (having == value)) for value in (1, 0)]
        if min(len(side) for side in sides):
            for rows, sign in zip(sides, (1.0, -1.0), strict=True):
                weight = images.weight[rows]
                contrast[rows] = sign * comparison.shares[k] * weight / weight.sum()
    return contrast


def _class_centred(values: Float64s, place: Ints, weight: Float64s) -> Float64s:
    """Values (m, dh) minus the weighted mean of their class."""
    kinds, codes = np.unique(place, return_inverse=True)
    centred = values.copy()
    for kind in range(len(kinds)):
        rows = codes == kind
        centred[rows] -= weight[rows] @ values[rows] / weight[rows].sum()
    return centred
