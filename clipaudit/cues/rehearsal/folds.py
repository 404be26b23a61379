"""Which images train for which: never an image for itself, nor for a near duplicate of it (S14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Ints
from clipaudit.errors import UsageError

FOLDS: Final = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Fold:
    """Images that train, and images that are scored by what was learned from them."""

    train: Ints
    """(t,) places among the training images."""
    scored: Ints
    """(s,) places among the scored images."""


def split_fold(train_cluster: Ints, scored_cluster: Ints) -> tuple[Fold]:
    """One fold: every training image without a near duplicate among the scored ones trains for all of these.

    Clusters (n,) and (m,) are numbered alike in both.
    """
    train = np.flatnonzero(~np.isin(train_cluster, scored_cluster))
    return (Fold(train=train, scored=np.arange(len(scored_cluster))),)


def cross_folds(
    train_cluster: Ints, train_truth: Ints, scored_cluster: Ints, seed: int, folds: int = FOLDS
) -> tuple[Fold, ...]:
    """Each cluster is on one of `folds` parts, drawn so that every class is spread evenly; a part is scored by what was
    learned from the others.

    train_truth (n,) classes; scored clusters (m,) that no training image has are scored by the first part's model.
    UsageError with fewer than two clusters.
    """
    clusters, first = np.unique(train_cluster, return_index=True)
    if len(clusters) < 2:
        raise UsageError("all images are near duplicates of each other: nothing could be learned and scored apart")
    order = np.lexsort((np.random.default_rng([seed, 30]).random(len(clusters)), train_truth[first]))
    part = np.empty(len(clusters), np.int64)
    # dealt out class by class: every fold gets its share of each
    part[order] = np.arange(len(clusters)) % min(folds, len(clusters))
    train_part = part[np.searchsorted(clusters, train_cluster)]
    place = np.minimum(np.searchsorted(clusters, scored_cluster), len(clusters) - 1)
    scored_part = np.where(clusters[place] == scored_cluster, part[place], 0)
    result = [
        Fold(train=np.flatnonzero(train_part != number), scored=np.flatnonzero(scored_part == number))
        for number in range(int(part.max()) + 1)
    ]
    return tuple(fold for fold in result if len(fold.scored))
