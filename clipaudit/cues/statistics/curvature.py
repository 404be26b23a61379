"""What a search takes the curvature of softmax objectives to be: a diagonal of each, or blocks that all of them share.

Blocks are near the true curvature and take a third of the steps, but have to be made and inverted first: they pay where
many weightings of the same images are fitted.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from scipy.linalg import lapack

from clipaudit.arrays import Bools, Float32s, Float64s, Ints

_TOLERANCE: Final = 2e-4
"""Largest entry of the preconditioned gradient at which a problem is solved."""
FALL: Final = 4e-5
"""Twice the fall of the objective that a step through blocks may still promise. On the demo's `planted` logits are then
as near to the exact ones as with the diagonal's tolerance: 0.04 away in the mean, 0.1 % of the answers others."""
_DIAGONAL: Final = 0.1
"""About p (1 - p) of a fitted model's probabilities."""
_FLOOR: Final = 2e-3
"""Added to p (1 - p) in blocks: other weights make images doubtful that are certain where the blocks are taken."""
_STEPS_SAVED: Final = 20
"""About how many evaluations of each problem blocks save."""


class Curvature(Protocol):
    """Of R problems with p parameters each."""

    def solve(self, vectors: Float32s) -> Float32s:
        """(R, p) inverse curvature times vectors (R, p)."""
        ...

    def solved(self, gradient: Float32s, slope: Float32s) -> Bools:
        """(R,) which problems are solved, by gradients (R, p) and their products (R,) with the next steps."""
        ...

    def take(self, problems: Ints | Bools) -> Curvature:
        """Of the problems with these numbers (Q,)."""
        ...


@dataclass(frozen=True, eq=False)
class DiagonalCurvature:
    """p (1 - p) var_j + penalty, with the same p for all; the bias has variance 1 and no penalty."""

    inverse: Float32s
    """(R, p)"""

    def solve(self, vectors: Float32s) -> Float32s:
        """(R, p)."""
        return vectors * self.inverse

    def solved(self, gradient: Float32s, slope: Float32s) -> Bools:
        """(R,) by the largest entry of the gradient."""
        small: Bools = np.abs(gradient * np.sqrt(self.inverse)).max(axis=1) <= _TOLERANCE
        return small

    def take(self, problems: Ints | Bools) -> DiagonalCurvature:
        """Of the problems with these numbers (Q,), or marked (R,)."""
        return DiagonalCurvature(self.inverse[problems])


@dataclass(frozen=True, eq=False)
class BlockCurvature:
    """The second derivatives inside each class, at one model for all problems."""

    inverse: Float32s
    """(K, r + 1, r + 1)"""
    fall: float = FALL
    """Twice the fall of the objective that the last step may promise."""

    def solve(self, vectors: Float32s) -> Float32s:
        """(R, p)."""
        K, d, _ = self.inverse.shape
        by_class = vectors.reshape(-1, K, d).transpose(1, 0, 2)
        solved: Float32s = np.matmul(by_class, self.inverse).transpose(1, 0, 2).reshape(len(vectors), -1)
        return solved

    def solved(self, gradient: Float32s, slope: Float32s) -> Bools:
        """(R,) by what the next step promises."""
        return -slope <= self.fall

    def take(self, problems: Ints | Bools) -> BlockCurvature:
        """The same for any problems (Q,): they share it."""
        return self


def blocks_pay(problems: int, images: int, features: int) -> bool:
    """Whether making and inverting blocks costs less than the evaluations that they save."""
    width = features + 1
    # of each class 2 n d^2 to make and 4 d^3 to invert; 4 n d for its scores and gradient
    return 2 * width * (images + 2 * width) <= 4 * images * _STEPS_SAVED * problems


def diagonal_curvature(variance: Float64s, penalty: Float64s, classes: int) -> DiagonalCurvature:
    """From the features' variances (r,) and penalties (R, r), or (R, 1) the same for all features."""
    r = len(variance)
    diagonal = np.full((len(penalty), classes, r + 1), _DIAGONAL, np.float64)
    diagonal[:, :, :r] = _DIAGONAL * variance + penalty[:, None] + 1e-9
    return DiagonalCurvature((1 / diagonal).reshape(len(penalty), -1).astype(np.float32))


def block_curvature(
    features: Float32s,
    penalty: Float64s,
    shares: Float32s,
    weights: Float32s,
    bias: Float32s,
    pool: Executor | None = None,
    fall: float = FALL,
) -> BlockCurvature:
    """At a model (K, r), (K,) for images (n, r) with shares (n,) of the loss; penalty (r,), or (1,) for all features.

    pool: works on classes side by side; None for one after the other. fall: see `BlockCurvature`.
    """
    scores = features @ weights.T + bias
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances = scores / scores.sum(axis=1, keepdims=True)
    with_one = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
    width = with_one.shape[1]
    ridge = np.full(width, 1e-9)  # the bias is not penalised
    ridge[:-1] = penalty
    inverse = np.empty((len(bias), width, width), np.float32)

    def invert(k: int) -> None:
        curve = shares * (chances[:, k] * (1 - chances[:, k]) + np.float32(_FLOOR))
        # a product of a matrix with its own transpose takes half the work of other products
        rooted = with_one * np.sqrt(curve)[:, None]
        block = (rooted.T @ rooted).astype(np.float64)
        block[np.diag_indices(width)] += ridge
        inverse[k] = _inverse(block)

    list(map(invert, range(len(bias))) if pool is None else pool.map(invert, range(len(bias))))
    return BlockCurvature(inverse, fall)


def _inverse(block: Float64s) -> Float64s:
    """Of a symmetric, positive definite matrix (d, d): by Cholesky, in half the time of `np.linalg.inv`."""
    factor, failed = lapack.dpotrf(block, lower=1)
    if failed:  # by rounding, where features of very different sizes are hardly penalised
        return np.asarray(np.linalg.inv(block), np.float64)
    lower = np.tril(lapack.dpotri(factor, lower=1, overwrite_c=1)[0])
    lower[np.diag_indices(len(lower))] /= 2
    whole: Float64s = lower + lower.T
    return whole
