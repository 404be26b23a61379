"""A column in a probe's features, inside classes: how well it can be read off, and the features without it."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.sparse import csr_array

from clipaudit.arrays import Float32s, Float64s, Ints
from clipaudit.cues.rehearsal.rehearsal import FoldModel, Rehearsal, all_classes
from clipaudit.cues.side_by_side import each
from clipaudit.cues.statistics.softmax_fit import fit_softmax

_RIDGE: Final = 1e-2
"""Part of the mean variance that is added to all variances."""


def cue_scores(rehearsal: Rehearsal, having: Ints) -> tuple[Float64s, Ints]:
    """(m,) score of every scored image for a value, and (m,) the fold that taught it; having (n,) 1, 0 or -1 of the
    training images.

    Fisher's discriminant inside classes with a ridge. Scores of different folds have different scales.
    """
    scores = np.zeros(len(rehearsal.logits))
    fold = np.zeros(len(rehearsal.logits), np.int64)
    for number, model in enumerate(rehearsal.models):
        own = having[model.fold.train]
        known = np.flatnonzero(own >= 0)
        difference = _centred_products(model, known, own[known][:, None].astype(np.float64))
        direction = np.linalg.solve(_inside_covariance(model), difference)[:, 0]
        scores[model.fold.scored] = model.scored @ direction.astype(np.float32)
        fold[model.fold.scored] = number
    return scores, fold


def answers_without(rehearsal: Rehearsal, codes: Ints) -> Float32s:
    """(m, C) logits of a probe that is trained and asked on features from which a column is taken out.

    codes (n,) of the training images, -1 unknown. Inside classes no linear model can tell the column's values from the
    features that are left (LEACE: Belrose et al., NeurIPS 2023, theorem 4.3, with class-centred features).
    """
    answers = np.empty_like(rehearsal.logits)

    def train(model: FoldModel) -> None:
        keep = _eraser(model, codes[model.fold.train])
        fits = fit_softmax(
            model.features @ keep,
            model.truth,
            len(model.present),
            np.ones((1, len(model.truth))),
            np.array([1 / (model.strength * len(model.truth))]),
            model.plain,
        )
        answers[model.fold.scored] = all_classes(fits.logits(model.scored @ keep), model.present, rehearsal.classes)[0]

    each(train, rehearsal.models)
    return answers


def _eraser(model: FoldModel, codes: Ints) -> Float32s:
    """(r, r) matrix that features are multiplied with from the right."""
    known = np.flatnonzero(codes >= 0)
    kinds, place = np.unique(codes[known], return_inverse=True)
    values, vectors = np.linalg.eigh(_inside_covariance(model))
    products = _centred_products(model, known, np.eye(len(kinds))[place])  # (r, V)
    # W = S^-1/2; the eraser is I - W^-1 P W with P the projection on the columns of W Sxz. In the axes of S multiplying
    # with W is a division.
    root = np.sqrt(values)[:, None]
    left, size, _ = np.linalg.svd(vectors.T @ products / root, full_matrices=False)
    basis = left[:, size > 1e-6 * max(float(size.max(initial=0.0)), 1e-12)]
    eraser = np.eye(len(values)) - (vectors @ (root * basis)) @ (vectors @ (basis / root)).T
    return np.asarray(eraser.T, np.float32)


def _inside_covariance(model: FoldModel) -> Float64s:
    """(r, r) covariance of the training features inside classes, with a ridge."""
    n, r = model.features.shape
    means = _class_means(model.features, model.truth, len(model.present))
    sizes = np.bincount(model.truth, minlength=len(model.present))
    total = (model.features.T @ model.features).astype(np.float64)
    covariance: Float64s = (total - (means * sizes[:, None]).T @ means) / n
    covariance[np.diag_indices(r)] += _RIDGE * max(float(np.trace(covariance)) / max(r, 1), 1e-12)
    return covariance


def _centred_products(model: FoldModel, rows: Ints, columns: Float64s) -> Float64s:
    """(r, V) covariances of features with columns (m, V) of the images at `rows` (m,), inside classes."""
    truth = model.truth[rows]
    centred = columns - _class_means(columns, truth, len(model.present))[truth]
    products: Float64s = (model.features[rows].T @ centred.astype(np.float32)).astype(np.float64) / max(len(rows), 1)
    return products


def _class_means(values: np.ndarray, truth: Ints, classes: int) -> Float64s:
    """(K, r) mean of values (n, r) in each class; 0 for a class without images."""
    members = csr_array((np.ones(len(truth)), (truth, np.arange(len(truth)))), shape=(classes, len(truth)))
    sums = members @ values
    means: Float64s = sums / np.maximum(np.bincount(truth, minlength=classes), 1)[:, None]
    return means
