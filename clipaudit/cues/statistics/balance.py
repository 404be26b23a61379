"""Groups of equal weight: the weights and the subset that a report exports and that a rehearsal trains with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.statistics.attribute import Attribute

CAP: Final = 50.0
"""Most that one image may weigh: a few images of a rare group would otherwise decide a training."""


def group_codes(truth: Ints, attributes: Sequence[Attribute]) -> Ints:
    """(n,) class x values of all columns, from classes (n,); a missing value is a value of its own."""
    groups = truth.copy()
    for attribute in attributes:
        groups = groups * (len(attribute.values) + 1) + attribute.codes + 1
    return groups


def balanced_weights(groups: Ints) -> tuple[Float64s, float]:
    """(n,) weights n / (G n_g), capped, and the effective number of images (sum w)^2 / sum w^2; groups (n,) >= 0."""
    if not len(groups):
        return np.empty(0), 0.0
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights = np.minimum(len(groups) / (len(counts) * counts[codes]), CAP)
    return weights, float(weights.sum() ** 2 / (weights**2).sum())


def balanced_subset(groups: Ints, seed: int = 0) -> Ints:
    """(m,) places of as many images of each group as the smallest has, drawn, in order; groups (n,)."""
    if not len(groups):
        return np.empty(0, np.int64)
    rng = np.random.default_rng([seed, 10])
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.lexsort((rng.random(len(groups)), codes))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(order)) - np.repeat(starts, counts)
    places: Ints = np.sort(order[rank < counts.min()])
    return places


def balanced_mean(values: Floats, truth: Ints, chosen: Bools, weight: Float64s | None = None) -> Float64s:
    """(m,) the mean over classes of each class's weighted mean of values (n, m) over the chosen images; over all images
    when none is chosen.

    truth (n,) classes; chosen (n,); weight (n,) of each image in its class's mean, such as 1 / copies of it; None for
    equal ones.
    """
    rows = np.flatnonzero(chosen) if chosen.any() else np.arange(len(truth))
    mass = np.ones(len(rows)) if weight is None else weight[rows]
    kinds, place = np.unique(truth[rows], return_inverse=True)
    # 1 / K to each class, split inside it by weight
    shares = mass / np.bincount(place, mass)[place] / len(kinds)
    mean: Float64s = shares @ values[rows].astype(np.float64)
    return mean
