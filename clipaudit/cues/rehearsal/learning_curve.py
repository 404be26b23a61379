"""How the worst group grows with the conflicting images that are trained on, and how many more it takes (S14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.rehearsal.rehearsal import Rehearsal
from clipaudit.cues.reliance.images import CueCells

WITHIN: Final = 0.05
"""The worst group is near enough when it is this far below the group mean."""
SHARES: Final = (0.25, 0.5, 1.0)
"""Parts of the conflicting training images that are trained on."""
LEAST: Final = 12
"""Conflicting training images below which no curve can be drawn."""
_DRAWS: Final = 8
_DRAW_ROWS: Final = 40_000
"""Training images over all draws of a size: fewer draws where there are many images."""
_RESAMPLED: Final = 400
_WIDEST: Final = 4.0
"""Upper over lower limit from which a number to collect would say nothing."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CurveFit:
    """Sizes, what was measured there, and what follows."""

    sizes: Ints
    """(Z,) conflicting training images in a fold, ascending."""
    group_mean: Float64s
    """(Z,)"""
    worst: Float64s
    """(Z,)"""
    shortfall: Float64s
    """(Z,) group mean minus worst group."""
    low: Float64s
    high: Float64s
    """(Z,) 95 % limits of the shortfall."""
    needed: float
    """Conflicting images at which the shortfall would be 5 points; 0 where it is that small already, inf for never."""
    needed_low: float
    needed_high: float
    """95 % limits."""


def learning_curve(
    rehearsal: Rehearsal, comparison: CueCells, conflicting: Bools, cluster: Ints, seed: int
) -> CurveFit | None:
    """The curve of the probe as it is; conflicting, cluster (n,) of the training images.

    Smaller sizes are random parts of the conflicting images, whole clusters, all others staying; several draws of each
    are averaged. None with fewer than a dozen conflicting images.
    """
    pool = np.flatnonzero(conflicting)
    at_hand = float(np.mean([conflicting[model.fold.train].sum() for model in rehearsal.models]))
    if at_hand < LEAST or not comparison.both_sides_comparable:
        return None
    draws = max(2, min(_DRAWS, _DRAW_ROWS // max(len(conflicting), 1)))
    weights, share_of = [], []
    rng = np.random.default_rng([seed, 35])
    codes = np.unique(cluster[pool], return_inverse=True)[1]
    for _ in range(draws):
        rank = rng.permutation(int(codes.max()) + 1)[codes] / (int(codes.max()) + 1)
        for place, share in enumerate(SHARES[:-1]):
            row = np.ones(len(conflicting))
            # smaller parts lie inside larger ones
            row[pool[rank >= share]] = 0
            weights.append(row)
            share_of.append(place)
    truth = comparison.images.truth
    answers = rehearsal.retrained(np.stack(weights))
    right = np.concatenate([answers.argmax(axis=2) == truth, (rehearsal.logits.argmax(axis=1) == truth)[None]])
    size_of = np.array([*share_of, len(SHARES) - 1])
    sizes = np.array([round(share * at_hand) for share in SHARES])
    return _fitted(comparison, right, size_of, sizes, rng)


def _fitted(comparison: CueCells, right: Bools, size_of: Ints, sizes: Ints, rng: np.random.Generator) -> CurveFit:
    """From right answers (F, m) of F fits, of sizes by `size_of` (F,)."""
    observed = _resampled_accuracies(comparison, right, rng)  # (1 + B, F, G)
    by_size = np.stack(
        [
            np.stack([_mean_of_draws(observed[b, size_of == z], b, rng) for b in range(len(observed))])
            for z in range(len(sizes))
        ],
        axis=1,
    )  # (1 + B, Z, G)
    group_mean, worst = by_size.mean(axis=2), by_size.min(axis=2)
    shortfall = group_mean - worst
    needed = np.array([_needed(sizes, row) for row in shortfall])
    low, high = np.quantile(shortfall[1:], [0.025, 0.975], axis=0)
    limits = np.quantile(needed[1:], [0.025, 0.975], method="nearest")
    return CurveFit(
        sizes=sizes,
        group_mean=group_mean[0],
        worst=worst[0],
        shortfall=shortfall[0],
        low=low,
        high=high,
        needed=float(needed[0]),
        needed_low=float(limits[0]),
        needed_high=float(limits[1]),
    )


def _mean_of_draws(accuracies: Float64s, replicate: int, rng: np.random.Generator) -> Float64s:
    """(G,) mean over draws (d, G); in a bootstrap replicate over draws that are drawn again."""
    chosen = np.arange(len(accuracies)) if not replicate else rng.integers(0, len(accuracies), len(accuracies))
    mean: Float64s = accuracies[chosen].mean(axis=0)
    return mean


def _resampled_accuracies(comparison: CueCells, right: Bools, rng: np.random.Generator) -> Float64s:
    """(1 + B, F, G) accuracies of comparable cells: as they are, then with scored clusters drawn again."""
    cells = comparison.cells
    used = np.flatnonzero(np.repeat(comparison.comparable, 2))
    counts = np.concatenate(
        [
            np.ones((1, cells.clusters)),
            rng.multinomial(cells.clusters, np.full(cells.clusters, 1 / cells.clusters), _RESAMPLED),
        ]
    ).astype(np.float32)
    result = np.empty((len(counts), len(right), len(used)))
    where = cells.cell[cells.inside]
    for place, g in enumerate(used.tolist()):
        rows = np.flatnonzero(where == g)
        mass = counts[:, cells.codes[rows]] * cells.weight[cells.inside[rows]].astype(np.float32)  # (1 + B, rows)
        sums = mass @ right[:, cells.inside[rows]].T.astype(np.float32)
        result[:, :, place] = sums / np.maximum(mass.sum(axis=1, keepdims=True), 1e-9)
    return result


def _needed(sizes: Ints, shortfall: Float64s) -> float:
    """Conflicting images at which the shortfall is `WITHIN`, by a power law through the sizes at hand."""
    if shortfall[-1] <= WITHIN:
        return 0.0
    # learning curves are power laws: log shortfall falls straight with log size
    x, y = np.log(sizes.astype(np.float64)), np.log(np.maximum(shortfall, 1e-3))
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    if slope >= -1e-3:
        return math.inf
    # through the largest size: only the slope is taken from the others
    return float(np.exp(min(x[-1] + (math.log(WITHIN) - y[-1]) / slope, 40.0)))


def to_collect(fit: CurveFit) -> tuple[int, int, int] | None:
    """How many more conflicting images, and its limits; None where it cannot be told.

    It can where twice the images at hand would be enough and the limits are no more than a factor of four apart.
    """
    at_hand = int(fit.sizes[-1])
    if fit.needed <= at_hand and fit.needed_high <= at_hand:
        return 0, 0, 0
    if not fit.needed <= 2 * at_hand:
        return None
    point, low, high = (max(0.0, value - at_hand) for value in (fit.needed, fit.needed_low, fit.needed_high))
    if not math.isfinite(high) or high > _WIDEST * max(low, 1.0):
        return None
    return math.ceil(point), math.floor(low), math.ceil(high)
