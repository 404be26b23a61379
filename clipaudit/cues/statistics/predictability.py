"""How well one head's coordinates tell the classes apart: cross-validated logistic regression (S5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Float64s, Floats, Ints
from clipaudit.cues.result.finding_parts import Estimate, Predictability
from clipaudit.cues.statistics.strength import Z95

FOLDS: Final = 5
MAX_ROWS: Final = 2000
_PENALTY: Final = 1.0
_ITERATIONS: Final = 40
MOST_CLASSES: Final = 20
"""The largest classes, when there are more."""
_CLOSE: Final = 1e-4


def folds_of(truth: Ints, cluster: Ints, seed: int = 0) -> Ints:
    """(n,) fold of each image: whole clusters, every class spread evenly."""
    rng = np.random.default_rng([seed, 5])
    names, first, codes = np.unique(cluster, return_index=True, return_inverse=True)
    order = rng.permutation(len(names))
    order = order[np.argsort(truth[first][order], kind="stable")]
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % FOLDS
    return fold[codes]


def skill(values: Floats, truth: Ints, classes: int, cluster: Ints, seed: int = 0) -> Estimate:
    """1 - log loss / log(classes present), every class with equal weight; 0 knows nothing, 1 everything.

    values (n, dh); folds keep near duplicates together. The interval is that of the mean over clusters.
    """
    fold = folds_of(truth, cluster, seed)
    counts = np.bincount(truth, minlength=classes)
    present = int((counts > 0).sum())
    weight = 1 / np.maximum(counts, 1)[truth] / present  # sums to 1
    loss = np.zeros(len(truth))
    for number in range(FOLDS):
        test = fold == number
        if not test.any() or len(np.unique(truth[~test])) < 2:
            loss[test] = np.log(present)
            continue
        loss[test] = _loss(values[~test], truth[~test], values[test], truth[test], classes)
    prior = float(np.log(max(present, 2)))
    value = 1 - float((weight * loss).sum()) / prior
    _, codes = np.unique(cluster, return_inverse=True)
    sums = np.bincount(codes, weight * (loss - float((weight * loss).sum())))
    half = Z95 * float(np.sqrt((sums**2).sum())) / prior
    return Estimate(value=value, low=value - half, high=min(1.0, value + half), n=len(truth))


def predictability(
    head: str, values: Floats, class_part: Floats, truth: Ints, classes: int, cluster: Ints, seed: int = 0
) -> Predictability:
    """A head's skill with and without the class prompts' part; class_part (r, dh) spans that part in the head."""
    whole = skill(values, truth, classes, cluster, seed)
    _, sizes, basis = np.linalg.svd(class_part, full_matrices=False)
    basis = basis[sizes > 1e-6 * max(float(sizes.max(initial=0.0)), 1e-12)]
    free = values - (values @ basis.T) @ basis
    rest = skill(free, truth, classes, cluster, seed)
    share = None
    if whole.value is not None and rest.value is not None and whole.low is not None and whole.low > 0:
        share = rest.value / whole.value
    return Predictability(head=head, skill=whole, skill_class_free=rest, cue_share=share)


def _loss(train: Floats, labels: Ints, test: Floats, truth: Ints, classes: int) -> Float64s:
    """(n_test,) log loss of a penalised, class-balanced multinomial regression.

    Each fold starts from zero: another fold's coefficients have seen this fold's test images, and the minimiser stops
    before it has forgotten them.
    """
    mean, deviation = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-12)
    X = np.column_stack([(train - mean) / deviation, np.ones(len(train))]).astype(np.float32)
    Z = np.column_stack([(test - mean) / deviation, np.ones(len(test))]).astype(np.float32)
    counts = np.bincount(labels, minlength=classes)
    weight = (len(labels) / (np.maximum(counts, 1)[labels] * (counts > 0).sum())).astype(np.float32)
    rows = np.arange(len(labels))

    def objective(flat: Float64s) -> tuple[float, Float64s]:
        B = flat.reshape(X.shape[1], classes)
        share, loss = _softmax(X @ B.astype(np.float32), labels)
        share[rows, labels] -= 1
        share *= weight[:, None]
        gradient = (X.T @ share).astype(np.float64)
        gradient[:-1] += _PENALTY * B[:-1]
        total = float((weight * loss).sum(dtype=np.float64)) + _PENALTY / 2 * float((B[:-1] ** 2).sum())
        return total, gradient.ravel()

    flat = minimised(objective, np.zeros(X.shape[1] * classes))
    loss = _softmax(Z @ flat.reshape(X.shape[1], classes).astype(np.float32), truth)[1]
    # a class that the training folds lack would otherwise cost without bound
    found: Float64s = np.minimum(loss.astype(np.float64), 2 * np.log(max(classes, 2)))
    return found


def _softmax(logits: npt.NDArray[np.float32], labels: Ints) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(n, K) logits, in place -> probabilities, and (n,) log losses of the labels."""
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(labels)), labels].copy()
    np.exp(logits, out=logits)
    total = logits.sum(axis=1)
    logits /= total[:, None]
    return logits, np.log(total) - own


def minimised(
    objective: Callable[[Float64s], tuple[float, Float64s]], start: Float64s, iterations: int = _ITERATIONS
) -> Float64s:
    """The minimum of a smooth convex function by L-BFGS with halved steps; `objective` gives value and gradient.

    Nocedal and Wright, Numerical Optimization, algorithm 7.4. scipy's spends milliseconds a step on problems that are
    as small as these.
    """
    x = start
    value, gradient = objective(x)
    steps: list[Float64s] = []
    turns: list[Float64s] = []
    for _ in range(iterations):
        direction = -_inverse_hessian(gradient, steps, turns)
        slope = float(direction @ gradient)
        if slope > -_CLOSE * max(abs(value), 1.0):
            break
        length = 1.0 if steps else 1.0 / max(float(np.linalg.norm(gradient)), 1.0)
        for _ in range(20):
            moved, changed = objective(x + length * direction)
            if moved <= value + 1e-4 * length * slope:
                break
            length /= 2
        else:
            break
        step, turn = length * direction, changed - gradient
        if float(step @ turn) > 1e-12:
            steps, turns = [*steps[-9:], step], [*turns[-9:], turn]
        x, value, gradient = x + step, moved, changed
    return x


def _inverse_hessian(gradient: Float64s, steps: list[Float64s], turns: list[Float64s]) -> Float64s:
    """The two-loop recursion."""
    q = gradient.copy()
    shares = []
    for step, turn in zip(reversed(steps), reversed(turns), strict=True):
        share = float(step @ q) / float(step @ turn)
        shares.append(share)
        q -= share * turn
    if steps:
        q *= float(steps[-1] @ turns[-1]) / float(turns[-1] @ turns[-1])
    for step, turn, share in zip(steps, turns, reversed(shares), strict=True):
        q += (share - float(turn @ q) / float(step @ turn)) * step
    return q
