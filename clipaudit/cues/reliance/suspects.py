"""Values that no class goes with but an answerer may hang on: found on the discovery half, by its own answers.

Whoever tries many columns finds one whose conflicting images are answered worse by chance. So a column that is chosen
here is scored on the other half (`CueColumn.scored`).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Ints
from clipaudit.cues.reliance.images import CueColumn, ScoredImages
from clipaudit.cues.statistics.right import right_answers

SUSPECT: Final = 2.5
"""Standard errors between accuracies from which a value is tried."""
_SIDE: Final = 50
"""Independent images on either side that this needs."""
_LEAST: Final = 5
"""Independent images of a class with a value, and without it, that say where its answers move."""


def suspected_cue(
    name: str, images: ScoredImages, logits: Float32s, having: Ints, tested: Bools
) -> tuple[float, CueColumn] | None:
    """The value as a cue of the classes that answers (n, C) move to with it, to be scored on the confirmation half, and
    by how many standard errors its conflicting images are answered worse on the discovery half; None where by too few.

    having (n,) 1 with the value, 0 without, -1 unknown; tested (C,).
    """
    pointed = _pointed(images, logits, having, tested)
    if pointed is None:
        return None
    cue = CueColumn(name=name, having=having, pointed=pointed, tested=tested, scored=~images.discovery)
    # copies and images of one source share a weight and an error, as in the gap that is then measured (S2b)
    against = cue.pointing(images.truth)
    cells = images.cells(np.where(images.discovery, against, -1), 2)
    if float(cells.pieces.min()) < _SIDE:
        return None
    difference = cells.combine(right_answers(logits, images.truth), np.array([1.0, -1.0])).t
    return (difference, cue) if difference > SUSPECT else None


def _pointed(images: ScoredImages, logits: Float32s, having: Ints, tested: Bools) -> Bools | None:
    """(C,) the tested classes to which the answers move with the value, inside classes, on the discovery half: those
    above the largest step between classes; None where it cannot be told."""
    kinds = np.flatnonzero(tested)
    scores = logits[:, kinds]
    # what all classes gain alike changes no answer
    scores = scores - scores.mean(axis=1, keepdims=True)
    moves = []
    for k in kinds.tolist():
        inside = images.discovery & (images.truth == k)
        sides = [np.flatnonzero(inside & (having == value)) for value in (1, 0)]
        if min(len(np.unique(images.cluster[rows])) for rows in sides) >= _LEAST:
            means = [np.average(scores[rows], axis=0, weights=images.weight[rows]) for rows in sides]
            moves.append(means[0] - means[1])
    if not moves:
        return None
    move = np.mean(moves, axis=0)
    order = np.argsort(-move, kind="stable")
    steps = move[order][:-1] - move[order][1:]
    pointed = np.zeros(len(tested), np.bool_)
    pointed[kinds[order[: int(np.argmax(steps)) + 1]]] = True
    return pointed
