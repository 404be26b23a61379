"""How well one head's coordinates tell the classes apart: cross-validated logistic regression (S5)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

import numpy as np
from scipy.special import log_softmax
from threadpoolctl import ThreadpoolController

from clipaudit.arrays import Bools, Float32s, Float64s, Floats, Ints
from clipaudit.cues.result.finding_parts import Estimate, Predictability
from clipaudit.cues.statistics.curvature import block_curvature
from clipaudit.cues.statistics.softmax_fit import SoftmaxFits, fit_softmax
from clipaudit.cues.statistics.strength import Z95

FOLDS: Final = 5
MAX_ROWS: Final = 2000
"""Images that predictability is estimated from, at most."""
MAX_CLASSES: Final = 20
"""The largest classes, when there are more."""
_FALL: Final = 1e-7
"""Twice what the last step of a fit may still promise of the mean loss: skills are within 1e-4 of the minimum's."""


def folds_of(truth: Ints, cluster: Ints, seed: int = 0) -> Ints:
    """(n,) int64 fold of each image, 0..4: whole clusters, every class spread evenly.

    truth: (n,) classes; cluster: (n,) near-duplicate clusters.
    """
    rng = np.random.default_rng([seed, 5])
    names, first, codes = np.unique(cluster, return_index=True, return_inverse=True)
    # clusters in random order inside classes, dealt to the folds in turn
    order = rng.permutation(len(names))
    order = order[np.argsort(truth[first][order], kind="stable")]
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % FOLDS
    return fold[codes]


def skill(values: Floats, truth: Ints, classes: int, cluster: Ints, seed: int = 0) -> Estimate:
    """1 - log loss / log(classes present), every class with equal weight; 0 knows nothing, 1 everything (S5).

    values: (n, dh) coordinates; truth: (n,) classes 0..classes-1; cluster: (n,) near duplicates, which folds keep
    together. The interval is that of the mean over clusters.
    """
    fold = folds_of(truth, cluster, seed)
    counts = np.bincount(truth, minlength=classes)
    present = int((counts > 0).sum())
    weight = 1 / np.maximum(counts, 1)[truth] / present  # sums to 1
    loss = _held_out_loss(values, truth, fold, classes)
    prior = float(np.log(max(present, 2)))
    value = 1 - float((weight * loss).sum()) / prior
    # standard error of a weighted mean: sums of its influences over clusters
    _, codes = np.unique(cluster, return_inverse=True)
    sums = np.bincount(codes, weight * (loss - float((weight * loss).sum())))
    half = Z95 * float(np.sqrt((sums**2).sum())) / prior
    return Estimate(value=value, low=value - half, high=min(1.0, value + half), n=len(truth))


def predictability(
    head: str, values: Floats, class_part: Floats, truth: Ints, classes: int, cluster: Ints, seed: int = 0
) -> Predictability:
    """A head's skill with and without the class prompts' part (S5).

    values: (n, dh) coordinates; class_part: (r, dh), rows that span the class prompts' part of the head; truth,
    cluster: (n,) as for `skill`.
    """
    whole = skill(values, truth, classes, cluster, seed)
    _, sizes, basis = np.linalg.svd(class_part, full_matrices=False)
    # directions without a singular value are no part of what the rows span
    basis = basis[sizes > 1e-6 * max(float(sizes.max(initial=0.0)), 1e-12)]
    free = values - (values @ basis.T) @ basis
    class_free = skill(free, truth, classes, cluster, seed)
    share = None
    # a share of a skill that may be 0 would be a ratio of noise
    if whole.value is not None and class_free.value is not None and whole.low is not None and whole.low > 0:
        share = class_free.value / whole.value
    return Predictability(head=head, skill=whole, skill_class_free=class_free, cue_share=share)


def _held_out_loss(values: Floats, truth: Ints, fold: Ints, classes: int) -> Float64s:
    """(n,) log loss of each image by the regression of the other folds, at most 2 log K.

    A class that the training folds lack would otherwise cost without bound.
    """
    most = 2 * float(np.log(max(classes, 2)))
    loss = np.full(len(truth), most)
    train = fold != np.arange(FOLDS)[:, None]
    trained = np.stack([np.bincount(truth[rows], minlength=classes) > 0 for rows in train])
    learnable = (trained.sum(axis=1) > 1) & [bool(np.ptp(values[rows], axis=0).any()) for rows in train]
    loss[~learnable[fold]] = np.log(len(np.unique(truth)))  # even odds
    # folds that train on the same classes, nearly always all of them, are fitted at one time
    for kinds in np.unique(trained[learnable], axis=0):
        numbers = np.flatnonzero(learnable & (trained == kinds).all(axis=1))
        rows = np.flatnonzero(kinds[truth])
        own = (np.cumsum(kinds) - 1)[truth[rows]]
        fits, features = fitted(values[rows], own, train[numbers][:, rows])
        for place, number in enumerate(numbers.tolist()):
            test = np.flatnonzero(fold[rows] == number)
            logits = fits.take(np.array([place])).logits(features[test])[0].astype(np.float64)
            loss[rows[test]] = np.minimum(-log_softmax(logits, axis=1)[np.arange(len(test)), own[test]], most)
    return loss


def fitted(values: Floats, truth: Ints, train: Bools) -> tuple[SoftmaxFits, Float32s]:
    """Penalised, class-balanced multinomial regressions of classes (n,) on values (n, dh), one for each row of train
    (F, n), and the features (n, dh) that they are of: the values, standardised over all n images.

    Each minimises sum_i w_i (-log P(y_i | x_i)) + 1/2 |B|^2 over its training images, with w_i = n / (K n_class), an
    intercept without penalty, and B of values that are standardised over those images. truth: 0..K-1, all of which
    every row trains on.
    """
    sizes, K = train.sum(axis=1), int(truth.max()) + 1
    counts = np.stack([np.bincount(truth[rows], minlength=K) for rows in train])
    weights = np.where(train, (sizes[:, None] / (K * counts))[:, truth], 0.0)
    deviation = np.maximum(values.std(axis=0), 1e-12)
    features = ((values - values.mean(axis=0)) / deviation).astype(np.float32)
    # B of other standardised values is B times a ratio of deviations. What never varies among the training images is
    # told from the intercept by its penalty alone, and gets 0 with any.
    ratio = np.stack([values[rows].std(axis=0) for rows in train]) / deviation
    penalty = np.where(ratio > 1e-6, ratio**2, 1.0) / sizes[:, None]
    share = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0).astype(np.float32)
    nothing = np.zeros((K, features.shape[1]), np.float32), np.zeros(K, np.float32)
    curvature = block_curvature(features, penalty.mean(axis=0), share, *nothing, fall=_FALL)
    return fit_softmax(features, truth, K, weights, penalty, curvature=curvature), features


def one_thread_each() -> AbstractContextManager[object]:
    """Linear algebra with one thread a call, for the whole process, while regressions run in threads of ours.

    Problems this small lose more to a second thread than it saves. Entered once around all of them: the limit is
    global, so two that overlap would restore each other's.
    """
    import scipy.linalg  # noqa: F401 - the controller sees the libraries that are loaded by now

    limit: AbstractContextManager[object] = ThreadpoolController().limit(limits=1)
    return limit
