"""Answers without one direction of each head: the cue's own, a text's, or random ones of the same variance (S10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Floats, Ints
from clipaudit.cues.reliance.head_parts import HeadParts, Removal
from clipaudit.cues.statistics.balance import balanced_mean

_POWERS: Final = (-0.5, 0.0, 0.5, 1.0, 2.0)


def without_directions(
    base: Removal,
    parts: HeadParts,
    truth: Ints,
    directions: Mapping[int, Float64s],
    centre: Mapping[int, Float64s],
    alpha: float = 1.0,
) -> Bools:
    """(n,) right answers with `alpha ((c - mu) . u) u` taken out of the coordinates c of each head.

    directions: head, 0..P-1, to unit u (dh,); centre: head to its mean mu (dh,).
    """
    if not directions or alpha == 0:
        return base.right
    taken = np.zeros_like(base.base)
    for head, u in directions.items():
        along = (parts.coordinates[head].astype(np.float32) - centre[head].astype(np.float32)) @ u.astype(np.float32)
        taken += along * _relative(u @ parts.toward[head], truth)
    rights: Bools = (base.base - np.float32(alpha) * taken).max(axis=0) < 0
    return rights


def head_centres(parts: HeadParts, heads: Ints, truth: Ints, half: Bools, weight: Float64s) -> dict[int, Float64s]:
    """Means (dh,) of some heads' coordinates over a half, every class with equal weight."""
    return {head: balanced_mean(parts.coordinates[head], truth, half, weight) for head in heads.tolist()}


def random_directions(values: Floats, u: Float64s, count: int, rng: np.random.Generator) -> Float64s:
    """(count, dh) unit directions along which values (m, dh) vary about as much as along u, uncorrelated with u.

    Random vectors, drawn out along the head's principal directions by several powers of its covariance; of each draw
    the power whose variance comes closest.
    """
    covariance = np.cov(values.astype(np.float64), rowvar=False, bias=True).reshape(len(u), len(u))
    wanted = float(u @ covariance @ u)
    sizes, axes = np.linalg.eigh(covariance)
    sizes = np.maximum(sizes, 1e-12 * max(float(sizes.max()), 1e-300))
    g = rng.standard_normal((count, len(u)))
    # powers below 0 favour directions that hardly vary, high ones the main direction
    candidates = np.stack([(g * sizes**power) @ axes.T for power in _POWERS])  # (powers, count, dh)
    along = covariance @ u / max(wanted, 1e-300)
    # uncorrelated with the cue's direction: g' S u = 0; at most one dimension is lost
    candidates -= (candidates @ along)[..., None] * u
    candidates /= np.maximum(np.linalg.norm(candidates, axis=-1, keepdims=True), 1e-12)
    variance = np.einsum("pcd,de,pce->pc", candidates, covariance, candidates)
    # closest in ratio: half and double are equally far
    best = np.abs(np.log(np.maximum(variance, 1e-300) / max(wanted, 1e-300))).argmin(axis=0)
    directions: Float64s = candidates[best, np.arange(count)]
    return directions


def _relative(toward: Float64s, truth: Ints) -> Float32s:
    """(C,) to (C - 1, n): of each other class minus the true class's, in the order of `relative_to_truth`."""
    C = len(toward)
    others = (truth[None, :] + np.arange(1, C)[:, None]) % C
    relative: Float32s = (toward[others] - toward[truth][None, :]).astype(np.float32)
    return relative
