"""Which heads push a probe's answer along a cue, in the words of their directions; description only (S10r)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clipaudit.arrays import Float64s, Ints
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.rehearsal.rehearsal import Rehearsal
from clipaudit.cues.reliance.images import CueCells
from clipaudit.cues.result.rehearsal_parts import LeanedHead

_HEADS = 5


def leaned_heads(
    rehearsal: Rehearsal, answers: Answers, comparison: CueCells, word_of: Callable[[str], str]
) -> tuple[LeanedHead, ...]:
    """The heads through which most of the cue's push goes.

    The probe is linear in the embedding, which is the sum of its heads and a rest: the mean difference of its margin
    (classes that have the cue minus the others) between images with and without the cue, inside classes, is a sum over
    heads. answers: of the scored images, `comparison.images`; word_of: a head's text.
    """
    pushes = np.zeros(len(answers.heads))
    total = 0.0
    for model in rehearsal.models:
        rows = model.fold.scored
        toward = _margin_direction(model.plain.weights[0], comparison.cue.pointed[model.present])
        if toward is None:
            continue
        contrast = _contrast(comparison, rows)
        total += float(contrast @ (model.scored @ toward.astype(np.float32)))
        # features are (z - mean) @ matrix: a head adds y Q @ matrix
        direction = model.to_features.matrix.astype(np.float64) @ toward
        for place, head in enumerate(answers.heads):
            inside = (answers.bases[head] @ direction).astype(np.float32)
            pushes[place] += float(contrast @ (answers.values[head][rows].astype(np.float32) @ inside))
    if abs(total) < 1e-9:
        return ()
    shares = pushes / total
    order = np.argsort(-shares, kind="stable")[:_HEADS]
    return tuple(
        LeanedHead(head=answers.heads[place], text=word_of(answers.heads[place]), share=float(shares[place]))
        for place in order.tolist()
        if shares[place] > 0
    )


def _margin_direction(weights: np.ndarray, pointed: np.ndarray) -> Float64s | None:
    """(r,) mean of the classes that have the cue minus mean of the others, of weights (K, r); None with one side."""
    if not pointed.any() or pointed.all():
        return None
    direction: Float64s = weights[pointed].mean(axis=0).astype(np.float64) - weights[~pointed].mean(axis=0)
    return direction


def _contrast(comparison: CueCells, rows: Ints) -> Float64s:
    """(m,) weights whose product with values of the images `rows` (m,) is the mean difference with - without the cue
    inside those classes that have both among them."""
    cue, images = comparison.cue, comparison.images
    weights = np.zeros(len(rows))
    for k in np.flatnonzero(comparison.comparable).tolist():
        sides = [np.flatnonzero((images.truth[rows] == k) & (cue.having[rows] == value)) for value in (1, 0)]
        if min(len(side) for side in sides):
            for side, sign in zip(sides, (1.0, -1.0), strict=True):
                mass = images.weight[rows[side]]
                weights[side] = sign * comparison.shares[k] * mass / mass.sum()
    return weights
