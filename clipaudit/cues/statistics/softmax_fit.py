"""Multinomial logistic regression, many weightings of the same images at a time: L-BFGS in float32."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from clipaudit.arrays import Float32s, Float64s, Ints
from clipaudit.cues.statistics.curvature import Curvature, block_curvature, blocks_pay, diagonal_curvature

_PAIRS: Final = 8
"""Pairs of steps and gradient changes that L-BFGS remembers."""
_STEPS: Final = 150
_ARMIJO: Final = 1e-4
_HALVINGS: Final = 8
_SCORES: Final = 2**23
"""Scores that are held at a time: rows x problems x classes."""
_PARTS: Final = 2
"""Of the problems, which threads solve side by side."""
_THREADS: Final = 4
_WORTH_PARTS: Final = 2**17
"""Scores below which threads cost more than they save: folds are fitted side by side, too."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftmaxFits:
    """R fitted models of K classes on r features."""

    weights: Float32s
    """(R, K, r)"""
    bias: Float32s
    """(R, K)"""

    def logits(self, features: Float32s) -> Float32s:
        """(R, n, K) of features (n, r)."""
        R, K, r = self.weights.shape
        scores = features @ self.weights.reshape(R * K, r).T + self.bias.reshape(R * K)
        return np.ascontiguousarray(scores.reshape(len(features), R, K).transpose(1, 0, 2))

    def take(self, problems: Ints) -> SoftmaxFits:
        """Some of the models, by their numbers (Q,); with repeated numbers, starts for several problems."""
        return SoftmaxFits(weights=self.weights[problems], bias=self.bias[problems])


def fit_softmax(
    features: Float32s,
    truth: Ints,
    classes: int,
    weights: Float64s,
    penalty: Float64s,
    start: SoftmaxFits | None = None,
    curvature: Curvature | None = None,
) -> SoftmaxFits:
    """Models that minimise  sum_i w_i loss_i / sum_i w_i + penalty / 2 |W|^2  for each row of weights.

    features (n, r) float32. truth (n,) 0..classes-1. weights (R, n) >= 0, penalty (R,) > 0; with weights of 1 this is
    scikit-learn's `LogisticRegression` with C = 1 / (n penalty). A penalty (R, r) is of each feature. The bias is not
    penalised. start: R models to begin with, else zeros. curvature: what the search takes the objectives' to be; by
    default it is made for them, which asks for uncorrelated features (principal components).

    ValueError where a row of weights is 0 throughout.
    """
    R, n = weights.shape
    totals = weights.sum(axis=1)
    if bool((totals <= 0).any()):
        raise ValueError("a model needs an image of positive weight")
    shares = (weights / totals[:, None]).astype(np.float32)
    r = features.shape[1]
    by_feature = penalty.reshape(R, -1)  # (R, r), or (R, 1) the same for all
    solved_w, solved_b = np.zeros((R, classes, r), np.float32), np.zeros((R, classes), np.float32)
    begin = (solved_w, solved_b) if start is None else (start.weights, start.bias)
    # the same parts on every machine, so that results do not depend on its cores; exponentials leave Python's lock
    parts = _PARTS if R * n * classes >= _WORTH_PARTS else 1
    at_once = min(-(-R // parts), max(1, _SCORES // _THREADS // max(n * classes, 1)))
    chunks = np.split(np.arange(R), range(at_once, R, at_once))
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        curved = curvature or _curvature_of(features, by_feature, shares, begin, pool)

        def solve(chunk: Ints) -> None:
            problem = _Problem(features, truth, classes, shares[chunk], by_feature[chunk])
            parameters = _minimise(problem, curved.take(chunk), problem.packed(begin[0][chunk], begin[1][chunk]))
            solved_w[chunk], solved_b[chunk] = problem.unpacked(parameters)

        list(pool.map(solve, chunks) if len(chunks) > 1 else map(solve, chunks))
    return SoftmaxFits(weights=solved_w, bias=solved_b)


def _curvature_of(
    features: Float32s, penalty: Float64s, shares: Float32s, begin: tuple[Float32s, Float32s], pool: Executor
) -> Curvature:
    """Of R problems with penalties (R, r) or (R, 1) and shares (R, n), at the models to begin with."""
    n, r = features.shape
    if blocks_pay(len(shares), n, r):
        middle, w, b = (part.mean(axis=0, dtype=np.float64).astype(np.float32) for part in (shares, *begin))
        return block_curvature(features, penalty.mean(axis=0), middle, w, b, pool)
    variance = np.einsum("nr,nr->r", features, features, dtype=np.float64) / max(n, 1)
    return diagonal_curvature(variance, penalty, begin[1].shape[1])


class _Problem:
    """R objectives over one set of features; parameters are (R, K (r + 1)), the bias last of each class."""

    def __init__(self, features: Float32s, truth: Ints, classes: int, shares: Float32s, penalty: Float64s) -> None:
        self._features, self._truth, self._classes, self._shares = features, truth, classes, shares
        self._penalty = penalty.astype(np.float32)

    def packed(self, weights: Float32s, bias: Float32s) -> Float32s:
        return np.concatenate([weights, bias[:, :, None]], axis=2).reshape(len(bias), -1)

    def unpacked(self, parameters: Float32s) -> tuple[Float32s, Float32s]:
        shaped = parameters.reshape(len(parameters), self._classes, -1)
        return shaped[:, :, :-1], shaped[:, :, -1]

    def value_and_gradient(self, parameters: Float32s, problems: Ints) -> tuple[Float64s, Float32s]:
        """(Q,) objectives and (Q, K (r + 1)) gradients of some of the problems."""
        weights, bias = self.unpacked(parameters)
        Q, K, r = weights.shape
        n = len(self._features)
        # classes first: maxima and sums over them run along whole rows of images, several times faster than over a
        # last axis of a few classes
        scores = weights.transpose(1, 0, 2).reshape(K * Q, r) @ self._features.T
        scores += bias.T.reshape(K * Q, 1)
        cells = scores.reshape(K, Q, n)
        own = cells[self._truth, :, np.arange(n)].T  # (Q, n)
        top = cells.max(axis=0)
        cells -= top
        np.exp(cells, out=cells)
        total = cells.sum(axis=0)
        shares = self._shares[problems]  # (Q, n)
        loss = np.einsum("qn,qn->q", shares, top + np.log(total) - own, dtype=np.float64)
        cells *= shares / total
        cells[self._truth, :, np.arange(n)] -= shares.T
        gradient = np.empty((Q, K, r + 1), np.float32)
        gradient[:, :, :r] = (scores @ self._features).reshape(K, Q, r).transpose(1, 0, 2)
        gradient[:, :, r] = scores.sum(axis=1).reshape(K, Q).T
        penalised = self._penalty[problems][:, None] * weights
        gradient[:, :, :r] += penalised
        loss += 0.5 * np.einsum("qkr,qkr->q", penalised, weights, dtype=np.float64)
        return loss, gradient.reshape(Q, -1)


@dataclass
class _Memory:
    """The last steps and gradient changes of each problem, for L-BFGS's two loops (Nocedal and Wright, alg. 7.4)."""

    steps: list[Float32s] = field(default_factory=list)
    changes: list[Float32s] = field(default_factory=list)

    def add(self, step: Float32s, change: Float32s) -> None:
        self.steps.append(step)
        self.changes.append(change)
        del self.steps[:-_PAIRS], self.changes[:-_PAIRS]

    def take(self, chosen: Ints) -> None:
        self.steps = [step[chosen] for step in self.steps]
        self.changes = [change[chosen] for change in self.changes]

    def direction(self, gradient: Float32s, curvature: Curvature) -> Float32s:
        """(Q, p) minus the approximate inverse Hessian times the gradient."""
        q = gradient.copy()
        parts: list[tuple[Float32s, Float32s, Float32s, Float32s]] = []
        for step, change in zip(reversed(self.steps), reversed(self.changes), strict=True):
            inner = _inner(step, change)
            # pairs without positive curvature say nothing
            rho = np.where(inner > 1e-12, 1 / np.maximum(inner, 1e-12), 0).astype(np.float32)
            alpha = rho * _inner(step, q)
            q -= alpha[:, None] * change
            parts.append((step, change, rho, alpha))
        q = curvature.solve(q)
        if self.steps:
            step, change = self.steps[-1], self.changes[-1]
            scale = _inner(step, change) / np.maximum(_inner(change, curvature.solve(change)), 1e-12)
            q *= np.clip(scale, 1e-2, 1e2).astype(np.float32)[:, None]
        for step, change, rho, alpha in reversed(parts):
            q += (alpha - rho * _inner(change, q))[:, None] * step
        return -q


def _inner(a: Float32s, b: Float32s) -> Float32s:
    products: Float32s = np.einsum("qp,qp->q", a, b)
    return products


def _minimise(problem: _Problem, curvature: Curvature, parameters: Float32s) -> Float32s:
    """The parameters (R, p) at the minima, from parameters to begin with; solved problems drop out."""
    result = parameters.copy()
    active = np.arange(len(parameters))
    value, gradient = problem.value_and_gradient(parameters, active)
    memory = _Memory()
    for _ in range(_STEPS):
        direction = memory.direction(gradient, curvature)
        slope = _inner(direction, gradient)
        bad = slope >= 0
        if bad.any():
            direction[bad] = -curvature.take(bad).solve(gradient[bad])
            slope[bad] = _inner(direction[bad], gradient[bad])
        solved = curvature.solved(gradient, slope)
        if solved.any():
            # the step is known already, and too short to fail
            result[active[solved]] = parameters[solved] + direction[solved]
            going = np.flatnonzero(~solved)
            active, parameters, value, gradient = active[going], parameters[going], value[going], gradient[going]
            direction, slope, curvature = direction[going], slope[going], curvature.take(going)
            memory.take(going)
        if not len(active):
            break
        moved, new_value, new_gradient = _step(problem, active, parameters, value, direction, slope)
        memory.add(moved - parameters, new_gradient - gradient)
        stalled = new_value >= value - 1e-7 * np.maximum(np.abs(value), 1e-3)
        parameters, value, gradient = moved, new_value, new_gradient
        # what float32 cannot improve any more is solved
        gradient[stalled] = 0
    result[active] = parameters
    return result


def _step(
    problem: _Problem, active: Ints, parameters: Float32s, value: Float64s, direction: Float32s, slope: Float32s
) -> tuple[Float32s, Float64s, Float32s]:
    """Parameters, objectives and gradients after a step that each problem halves until its objective falls."""
    length = np.ones(len(active), np.float32)
    moved = parameters + direction
    new_value, new_gradient = problem.value_and_gradient(moved, active)
    for _ in range(_HALVINGS):
        worse = np.flatnonzero(new_value > value + _ARMIJO * length * slope + 1e-7 * np.abs(value))
        if not len(worse):
            break
        length[worse] /= 2
        moved[worse] = parameters[worse] + length[worse, None] * direction[worse]
        new_value[worse], new_gradient[worse] = problem.value_and_gradient(moved[worse], active[worse])
    return moved, new_value, new_gradient
