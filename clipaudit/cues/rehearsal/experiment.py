"""Training again with the weights of a column and of permuted columns: does the gap come from it? (S10r)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from clipaudit.arrays import Float32s, Float64s, Ints
from clipaudit.cues.rehearsal.rehearsal import Rehearsal
from clipaudit.cues.reliance.clustered import Numbers
from clipaudit.cues.reliance.drawn_columns import draw_places
from clipaudit.cues.reliance.images import ScoredImages
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.balance import balanced_weights, group_codes
from clipaudit.cues.statistics.cluster_sample import cluster_sample
from clipaudit.cues.statistics.right import right_answers

Read: TypeAlias = Callable[[Float32s], Numbers]
"""From logits (..., m, C) what is kept of them, (..., m): which are right, or scores."""
DRAW_ROWS: Final = 5000
"""Training images that the permuted columns are trained on, at most: whole clusters, drawn evenly."""
LEAST_DRAWS: Final = 99
_SCORES: Final = 2**24
"""Scores of permuted columns that are held at a time."""


def draws_for(findings: int) -> int:
    """Permuted columns for a number of findings: the smallest p-value is 1 / (draws + 1)."""
    return max(LEAST_DRAWS, 20 * findings)


@dataclass(frozen=True, eq=False, kw_only=True)
class ColumnExperiment:
    """Which of m scored images are answered right, before and after; with another `Read`, what that says of them."""

    before: Numbers
    """(m,) as it is."""
    weighted: Float32s
    """(m, C) logits with the column's group weights, on all training images."""
    after: Numbers
    """(m,)"""
    drawn_before: Numbers
    """(m,) as it is, on the training images of the draws."""
    drawn: Numbers
    """(1 + R, m) the true column, then permuted ones."""
    training_rows: int


def weights_of(truth: Ints, column: Attribute) -> Float64s:
    """(n,) the weights that a report exports for a column: class x value, capped."""
    return balanced_weights(group_codes(truth, [column]))[0]


def column_experiments(
    rehearsal: Rehearsal,
    truth: Ints,
    cluster: Ints,
    columns: Sequence[Attribute],
    scored_truth: Ints,
    draws: int,
    seed: int,
    read: Read | None = None,
) -> list[ColumnExperiment]:
    """One for each column of the n training images; the same permutations for all columns.

    truth, cluster (n,) of the training images; scored_truth (m,). Columns move inside class, whole clusters together.
    read: what is kept of answers, None for which are right.
    """
    of_logits: Read = read if read is not None else lambda logits: right_answers(logits, scored_truth)
    part = cluster_sample(cluster, DRAW_ROWS, [seed, 33])
    own, codes = truth[part], cluster[part]
    images = ScoredImages(truth=own, classes=rehearsal.classes, cluster=codes, discovery=np.zeros(len(part), np.bool_))
    places = np.concatenate([np.arange(len(part))[None], draw_places(images, draws, seed, strata=own)])
    whole = len(part) == len(truth)
    before = of_logits(rehearsal.logits)
    drawn_before = before if whole else of_logits(_answers(rehearsal, np.ones((1, len(part))), part, len(truth)))[0]
    at_once = max(1, _SCORES // max(len(scored_truth) * rehearsal.classes, 1))
    experiments = []
    for column in columns:
        weighted = rehearsal.retrained(weights_of(truth, column)[None])[0]
        groups = group_codes(own, [column.take(part)])
        # groups hold the class, which no permutation changes: the weights move with the column's values
        weights = balanced_weights(groups)[0][places]
        drawn = np.concatenate(
            [
                of_logits(_answers(rehearsal, weights[first : first + at_once], part, len(truth)))
                for first in range(0, len(weights), at_once)
            ]
        )
        experiments.append(
            ColumnExperiment(
                before=before,
                weighted=weighted,
                after=of_logits(weighted),
                drawn_before=drawn_before,
                drawn=drawn,
                training_rows=len(part),
            )
        )
    return experiments


def _answers(rehearsal: Rehearsal, weights: Float64s, part: Ints, n: int) -> Float32s:
    """(R, m, C) logits of models trained on the images `part` with weights (R, part), of n training images."""
    spread = np.zeros((len(weights), n))
    spread[:, part] = weights
    return rehearsal.retrained(spread)
