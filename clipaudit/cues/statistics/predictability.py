"""How well one head's coordinates tell the classes apart: cross-validated logistic regression (S5)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import log_softmax
from threadpoolctl import ThreadpoolController

from clipaudit.arrays import Float64s, Floats, Ints
from clipaudit.cues.result.finding_parts import Estimate, Predictability
from clipaudit.cues.statistics.strength import Z95

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

FOLDS: Final = 5
MAX_ROWS: Final = 2000
"""Images that predictability is estimated from, at most."""
MAX_CLASSES: Final = 20
"""The largest classes, when there are more."""
_PENALTY: Final = 1.0
"""lambda of lambda / 2 |B|^2, for standardised coordinates and weights that sum to the number of images."""
_TOLERANCE: Final = 5e-5
"""Largest component of the gradient of the mean penalised loss at the minimum; skills are then within 3e-4 of it."""
_NEWTON_SIZE: Final = 512
"""Classes times coordinates up to which Newton's steps, whose cost grows with the square of it, beat L-BFGS."""
_NEWTON_TOLERANCE: Final = 1e-3
"""The same for Newton's steps: the last one squares the error, and skills are within 1e-4."""
_ITERATIONS: Final = 1000
"""Never reached with a penalty; the 48 heads of `benchmarks/predictability.py` need 10 to 80."""


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
    loss = np.zeros(len(truth))
    model: LogisticRegression | None = None
    for number in range(FOLDS):
        test = fold == number
        if not test.any() or len(np.unique(truth[~test])) < 2 or not np.ptp(values[~test], axis=0).any():
            # nothing to learn from: the loss of even odds
            loss[test] = np.log(present)
            continue
        model, mean, deviation = fitted(values[~test], truth[~test], model)
        loss[test] = _log_loss(model, (values[test] - mean) / deviation, truth[test], classes)
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


def fitted(
    values: Floats, truth: Ints, start: LogisticRegression | None = None
) -> tuple[LogisticRegression, Float64s, Float64s]:
    """A penalised, class-balanced multinomial regression of classes (n,) on values (n, dh), and their mean and scale.

    Minimises sum_i w_i (-log P(y_i | x_i)) + 1/2 |B|^2 over standardised values, with w_i = n / (K n_class) and an
    intercept without penalty. `start` is a regression of the same classes whose minimum is near, such as that of
    another fold: it is fitted anew from there.
    """
    mean, deviation = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-12)
    classes = np.unique(truth)
    same = start is not None and np.array_equal(start.classes_, classes)
    model = start if start is not None and same else _regression(len(classes), values.shape[1])
    model.fit(((values - mean) / deviation).astype(np.float32), truth)
    return model, mean, deviation


def _regression(classes: int, dims: int) -> LogisticRegression:
    # a second that only an audit pays, in a thread beside its tests; it brings no linear algebra but scipy's
    from sklearn.linear_model import LogisticRegression

    # two classes get one vector w = b1 - b2 with b1 = -b2, so that |B|^2 = |w|^2 / 2: half the penalty
    penalty = _PENALTY / 2 if classes == 2 else _PENALTY
    newton = classes * dims <= _NEWTON_SIZE
    return LogisticRegression(
        C=1 / penalty,
        class_weight="balanced",
        solver="newton-cholesky" if newton else "lbfgs",
        tol=_NEWTON_TOLERANCE if newton else _TOLERANCE,
        max_iter=_ITERATIONS,
        warm_start=True,
    )


def _log_loss(model: LogisticRegression, values: Floats, truth: Ints, classes: int) -> Float64s:
    """(n,) log losses of standardised values (n, dh), at most 2 log K.

    A class that the training folds lack would otherwise cost without bound.
    """
    logits = np.asarray(model.decision_function(values.astype(np.float32)), np.float64)
    if logits.ndim == 1:  # of two classes only the second has a logit
        logits = np.column_stack([np.zeros(len(logits)), logits])
    logarithms = log_softmax(logits, axis=1)
    most = 2 * float(np.log(max(classes, 2)))
    columns = np.searchsorted(model.classes_, truth)
    trained = np.isin(truth, model.classes_)
    losses = np.full(len(truth), most)
    losses[trained] = np.minimum(-logarithms[trained, columns[trained]], most)
    return losses


def one_thread_each() -> AbstractContextManager[object]:
    """Linear algebra with one thread a call, for the whole process, while regressions run in threads of ours.

    Problems this small lose more to a second thread than it saves. Entered once around all of them: the limit is
    global, so two that overlap would restore each other's.
    """
    import scipy.linalg  # noqa: F401 - the controller sees the libraries that are loaded by now

    limit: AbstractContextManager[object] = ThreadpoolController().limit(limits=1)
    return limit
