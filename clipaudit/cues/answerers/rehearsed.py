"""A probe trained on a run's own images answers for others: what a model would learn here (S14)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from clipaudit.arrays import Float32s, Ints
from clipaudit.cues.measure.duplicates_between import clusters_between
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.vectors import read_vectors
from clipaudit.cues.rehearsal.folds import cross_folds, split_fold
from clipaudit.cues.rehearsal.rehearsal import Choice, Rehearsal, rehearse, right_count
from clipaudit.cues.statistics.cluster_sample import cluster_sample

TRAINING_ROWS: Final = 50_000
"""Images that a probe is trained on, at most; of more a random sample of whole clusters is drawn."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RehearsedAnswerer:
    """A linear probe's answers; its proof is an experiment on the training data, so it has no heads to take out."""

    name: str = "rehearsed"
    logits: Float32s
    """(m, C) of the scored images, none of which was trained on, nor a near duplicate of it. Images of a class that the
    probe was never shown are not answered: it could only be wrong."""
    parts: None = None
    training: ImageFacts = field(repr=False)
    """The n images that train: all of them, or the sample."""
    scored: ImageFacts = field(repr=False)
    """The m images that are answered for."""
    out_of_fold: bool
    """Each of five parts was scored by a probe of the other four; else one probe of `training` scored all."""
    rehearsal: Rehearsal = field(repr=False)
    """To train again with other weights."""


def rehearsed_answerer(
    training: ImageFacts,
    scored: ImageFacts,
    classes: int,
    *,
    out_of_fold: bool,
    seed: int = 0,
    choice: Choice = right_count,
) -> RehearsedAnswerer:
    """Train on labelled images of one set, answer for those of another or, out of fold, for the same ones.

    classes: C; `truth` of both sets is 0..C-1, and images with -1 are left out of the training. out_of_fold: `scored`
    are some of the images of `training`, and each is scored by a probe trained on parts without its cluster. Else no
    image of `training` that is scored, or is a near duplicate of a scored one, is trained on. choice: what L2 is chosen
    by.

    UsageError where the training images that are left are of fewer than two classes.
    """
    training = training.take(training.truth >= 0)
    chosen = cluster_sample(training.cluster, TRAINING_ROWS, [seed, 32])
    own, other = _clusters_inside(training, scored) if out_of_fold else clusters_between(training, scored)
    training, own = training.take(chosen), own[chosen]
    folds = cross_folds(own, training.truth, other, seed) if out_of_fold else split_fold(own, other)
    rehearsal = rehearse(
        read_vectors(training.run, "embedding", training.position),
        training.truth,
        read_vectors(scored.run, "embedding", scored.position),
        folds,
        classes,
        seed,
        choice,
    )
    rehearsal = replace(rehearsal, logits=_of_known_classes(rehearsal, scored.truth))
    return RehearsedAnswerer(
        logits=rehearsal.logits, training=training, scored=scored, out_of_fold=out_of_fold, rehearsal=rehearsal
    )


def _of_known_classes(rehearsal: Rehearsal, truth: Ints) -> Float32s:
    """(m, C) logits, equal ones for images whose class (m,) the probe that scores them was not trained on."""
    logits = rehearsal.logits.copy()
    for model in rehearsal.models:
        scored = model.fold.scored
        logits[scored[~np.isin(truth[scored], model.present)]] = 0
    return logits


def _clusters_inside(training: ImageFacts, scored: ImageFacts) -> tuple[Ints, Ints]:
    """(n,) and (m,) the audit's clusters of images of one run, looked up by their places in it; scored images that are
    no training images have clusters of their own."""
    place = np.minimum(np.searchsorted(training.position, scored.position), max(len(training) - 1, 0))
    known = training.position[place] == scored.position
    alone = int(training.cluster.max(initial=-1)) + 1 + np.arange(len(scored))
    return training.cluster, np.where(known, training.cluster[place], alone)
