"""Ways to train the probe and how each answers: as it is, weights, a subset, the cue taken out, last layer (S14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Float32s, Float64s, Ints
from clipaudit.cues.rehearsal.cue_in_features import answers_without
from clipaudit.cues.rehearsal.experiment import ColumnExperiment
from clipaudit.cues.rehearsal.rehearsal import Rehearsal
from clipaudit.cues.result.rehearsal_parts import ArmName
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.balance import balanced_subset, group_codes

SUBSETS: Final = 5
"""Balanced subsets: the one that a report exports, and others."""
LAST_LAYERS: Final = 10
"""Last layers, each on a balanced subset of the held-out half, that are averaged (Kirichenko et al., ICLR 2023)."""
_REPEATS: Final = 3
"""Halvings into a part for features and a part for last layers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ArmAnswers:
    """One arm's answers for m scored images."""

    name: ArmName
    logits: Float32s
    """(m, C)"""
    repeats: tuple[Float32s, ...]
    """(m, C) of other random draws; none for an arm without chance."""
    training_images: int
    """With a weight above 0, in a fold."""


def arm_answers(
    rehearsal: Rehearsal,
    truth: Ints,
    cluster: Ints,
    column: Attribute,
    experiment: ColumnExperiment | None,
    exported: Ints,
    weights: Float64s,
    seed: int,
) -> list[ArmAnswers]:
    """All arms of a column.

    truth, cluster (n,) of the training images; experiment: whose logits with the group weights are taken, None to train
    them here; exported: places of the training images in the subset that the report exports; weights (n,) that it
    exports.
    """
    groups = group_codes(truth, [column])
    weighted = rehearsal.retrained(weights[None])[0] if experiment is None else experiment.weighted
    arms = [
        ArmAnswers(name="as it is", logits=rehearsal.logits, repeats=(), training_images=rehearsal.training_rows),
        ArmAnswers(name="group weights", logits=weighted, repeats=(), training_images=rehearsal.training_rows),
    ]
    subsets = [exported, *(balanced_subset(groups, seed + number) for number in range(1, SUBSETS))]
    answers = _of_subsets(rehearsal, subsets, len(truth))
    if answers is not None:
        arms.append(
            ArmAnswers(
                name="balanced subset",
                logits=answers[0],
                repeats=tuple(answers[1:]),
                training_images=_per_fold(rehearsal, subsets[0]),
            )
        )
    erased = answers_without(rehearsal, column.codes)
    arms.append(ArmAnswers(name="cue taken out", logits=erased, repeats=(), training_images=rehearsal.training_rows))
    layers = [_last_layers(rehearsal, groups, cluster, seed + number) for number in range(_REPEATS)]
    usable = [layer for layer in layers if layer is not None]
    if usable:
        logits, images = usable[0]
        others = tuple(other for other, _ in usable[1:])
        arms.append(
            ArmAnswers(name="last layer on a balanced part", logits=logits, repeats=others, training_images=images)
        )
    return arms


def _last_layers(rehearsal: Rehearsal, groups: Ints, cluster: Ints, seed: int) -> tuple[Float32s, int] | None:
    """(m, C) mean logits of probes on balanced subsets of a random half of the clusters, and the images of one.

    Embeddings are features already: the half that would train them teaches nothing here.
    """
    codes = np.unique(cluster, return_inverse=True)[1]
    half = np.random.default_rng([seed, 34]).permutation(int(codes.max()) + 1) % 2 == 0
    held_out = np.flatnonzero(half[codes])
    if set(np.unique(groups[held_out])) != set(np.unique(groups)):
        return None
    subsets = [held_out[balanced_subset(groups[held_out], seed + number)] for number in range(LAST_LAYERS)]
    answers = _of_subsets(rehearsal, subsets, len(groups))
    if answers is None:
        return None
    # a linear probe's mean logits are those of its mean weights
    mean: Float32s = answers.mean(axis=0)
    return mean, _per_fold(rehearsal, subsets[0])


def _of_subsets(rehearsal: Rehearsal, subsets: list[Ints], n: int) -> Float32s | None:
    """(R, m, C) logits of probes on subsets of the n training images; None where a fold has nothing of one."""
    weights = np.zeros((len(subsets), n))
    for row, subset in zip(weights, subsets, strict=True):
        row[subset] = 1
    if any(bool((weights[:, model.fold.train].sum(axis=1) < 2).any()) for model in rehearsal.models):
        return None
    return rehearsal.retrained(weights, np.unique(np.concatenate(subsets)))


def _per_fold(rehearsal: Rehearsal, subset: Ints) -> int:
    """Images of a subset that a fold trains on, on average."""
    return round(float(np.mean([np.isin(model.fold.train, subset).sum() for model in rehearsal.models])))
