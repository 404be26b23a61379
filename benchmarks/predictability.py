"""Seconds of the class predictability of 48 heads (S5), in CPU time on one thread, against scikit-learn's regression.

python benchmarks/predictability.py            48 heads x 2,000 images of 64 numbers, 2, 10 and 20 classes; a minute
python benchmarks/predictability.py --smoke    two heads, to see that it runs

A is the audit's own: `skill`, which fits five folds at one time. B is scikit-learn's `LogisticRegression` (L-BFGS, each
fold from the one before, gradients to 5e-5), which the audit used before. They alternate. The last columns are the
largest differences of their skills from those of minima found to 1e-8.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.arrays import Float64s, Ints
from clipaudit.cues.statistics.predictability import FOLDS, MAX_ROWS, folds_of, one_thread_each, skill

HEADS, DIM, CLASSES = 48, 64, (2, 10, 20)


def head_values(classes: int, head: int, heads: int) -> tuple[Float64s, Ints]:
    """(2000, 64) correlated coordinates whose class means lie further apart from head to head, and (2000,) classes."""
    rng = np.random.default_rng([classes, head])
    truth = rng.integers(0, classes, MAX_ROWS)
    means = (0.05 + (head / heads) ** 2) * rng.normal(size=(classes, DIM))
    mixing = np.eye(DIM) + 0.3 * rng.normal(size=(DIM, DIM))
    return rng.normal(size=(MAX_ROWS, DIM)) @ mixing + means[truth], truth


def own(values: Float64s, truth: Ints, classes: int) -> float:
    """The audit's."""
    return skill(values, truth, classes, np.arange(len(truth))).value or 0.0


def scikit_learn(values: Float64s, truth: Ints, classes: int, tolerance: float = 5e-5) -> float:
    """The same, a fold at a time."""
    fold = folds_of(truth, np.arange(len(truth)))
    # of two classes scikit-learn has one vector, and so half the penalty
    C = 2.0 if classes == 2 else 1.0
    model = LogisticRegression(C=C, class_weight="balanced", tol=tolerance, max_iter=1000, warm_start=True)
    losses = np.empty(len(truth))
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        mean, deviation = values[train].mean(axis=0), values[train].std(axis=0)
        model.fit(((values[train] - mean) / deviation).astype(np.float32), truth[train])
        chances = model.predict_proba(((values[test] - mean) / deviation).astype(np.float32))
        losses[test] = -np.log(chances[np.arange(test.sum()), truth[test]])
    weight = 1 / np.bincount(truth)[truth] / classes
    return 1 - float((weight * np.minimum(losses, 2 * np.log(classes))).sum()) / float(np.log(classes))


def timed(way: Callable[[Float64s, Ints, int], float], values: Float64s, truth: Ints, classes: int) -> Float64s:
    """CPU seconds, and the skill."""
    began = time.process_time()
    value = way(values, truth, classes)
    return np.array([time.process_time() - began, value])


def main() -> None:
    """Print the table."""
    parser = parser_for(__doc__)
    parser.add_argument("--heads", type=int, default=HEADS)
    heads = parse(parser, heads=2).heads
    print(f"{'classes':>7} {'A, ours':>10} {'B, scikit-learn':>16} {'A / B':>6} {'A off':>8} {'B off':>8}")
    for classes in CLASSES:
        seconds, off = np.zeros(2), np.zeros(2)
        for head in range(heads):
            values, truth = head_values(classes, head, heads)
            with one_thread_each():
                found = np.stack([timed(way, values, truth, classes) for way in (own, scikit_learn)])
                seconds += found[:, 0]
                if head % 8 == 0:
                    off = np.maximum(off, np.abs(found[:, 1] - scikit_learn(values, truth, classes, 1e-8)))
        a, b = seconds
        print(f"{classes:>7} {a:>8.1f} s {b:>14.1f} s {a / b:>6.2f} {off[0]:>8.5f} {off[1]:>8.5f}", flush=True)


if __name__ == "__main__":
    main()
