"""How the worst group grows with the conflicting images that are trained on, and how many more it takes (S14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.rehearsal.rehearsal import Rehearsal
from clipaudit.cues.reliance.images import CueCells
from clipaudit.cues.statistics.right import right_answers
from clipaudit.statistics import normal_below

WITHIN: Final = 0.05
"""The worst group is near enough when it is this far below the group mean."""
MIXES: Final = ((0.25, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0, 0.7), (1.0, 0.5))
"""Parts of the conflicting and of the aligned training images that are trained on: half of the aligned ones is the mix
that twice the conflicting ones would give."""
_AT_HAND: Final = 2
"""Place of what is at hand in it."""
LEAST: Final = 12
"""Conflicting training images below which no curve can be drawn."""
_DRAWS: Final = 8
_DRAW_ROWS: Final = 40_000
"""Training images over all draws of a size: fewer draws where there are many images."""
_RESAMPLED: Final = 400
_GRID: Final = 200
"""Ties between that at hand and none at which the lines are read."""
_WIDEST: Final = 4.0
"""Upper over lower limit from which a number to collect would say nothing."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CurveFit:
    """Sizes, what was measured there, and what follows."""

    sizes: Ints
    """(Z,) conflicting training images in a fold, ascending; more than there are stand for the same mix."""
    at_hand: int
    """Conflicting training images that there are."""
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
    rehearsal: Rehearsal, comparison: CueCells, conflicts: Ints, cluster: Ints, seed: int
) -> CurveFit | None:
    """The curve of the probe as it is; of the training images, conflicts (n,) 1 where the cue points to another class,
    0 where it points to theirs, -1 for others, and cluster (n,).

    Both kinds are thinned at random, whole clusters, all others staying; several draws of each mix are averaged. None
    with fewer than a dozen conflicting images.
    """
    at_hand, aligned = (
        float(np.mean([(conflicts[model.fold.train] == kind).sum() for model in rehearsal.models])) for kind in (1, 0)
    )
    if at_hand < LEAST or not comparison.both_sides_comparable:
        return None
    draws = max(2, min(_DRAWS, _DRAW_ROWS // max(len(conflicts), 1)))
    weights, again, mix_of = [], [], []
    rng = np.random.default_rng([seed, 35])
    codes = np.unique(cluster, return_inverse=True)[1]
    clusters = int(codes.max()) + 1
    for _ in range(draws):
        # smaller parts lie inside larger ones
        rank = rng.permutation(clusters)[codes] / clusters
        for place, (against, along) in enumerate(MIXES):
            if place != _AT_HAND:
                weights.append(_kept(conflicts, rank, against, along))
                mix_of.append(place)
        # which images are at hand is chance, too: all of them drawn again, by clusters
        times = rng.multinomial(clusters, np.full(clusters, 1 / clusters))[codes]
        again += [times * _kept(conflicts, rank, against, along) for against, along in MIXES[_AT_HAND:]]
    truth = comparison.images.truth
    answers, redrawn = rehearsal.retrained(np.stack(weights)), rehearsal.retrained(np.stack(again))
    right = np.concatenate([right_answers(answers, truth), right_answers(rehearsal.logits, truth)[None]])
    sizes = np.array([round(against / along * at_hand) for against, along in MIXES])
    spread = _training_spread(comparison, right_answers(redrawn, truth), draws)
    return _fitted(comparison, right, np.array([*mix_of, _AT_HAND]), sizes, aligned, spread, rng)


def _kept(conflicts: Ints, rank: Float64s, against: float, along: float) -> Float64s:
    """(n,) 1 for the images of a mix, 0 for others; rank (n,) 0..1."""
    return np.where(conflicts == 1, rank < against, (conflicts == -1) | (rank < along)).astype(np.float64)


def _training_spread(comparison: CueCells, right: Bools, draws: int) -> Float64s:
    """(T, Z, G) how accuracies of comparable cells differ from their mean over T drawings of the training images, from
    right answers (T x mixes, m) at what is at hand and beyond; smaller sizes have the spread of what is at hand."""
    used = np.flatnonzero(np.repeat(comparison.comparable, 2))
    accuracies = np.stack([comparison.cells.means(row)[used] for row in right]).reshape(draws, -1, len(used))
    spread = (accuracies - accuracies.mean(axis=0)) * np.sqrt(draws / (draws - 1))
    whole: Float64s = np.concatenate([np.repeat(spread[:, :1], _AT_HAND, axis=1), spread], axis=1)
    return whole


def _fitted(
    comparison: CueCells,
    right: Bools,
    size_of: Ints,
    sizes: Ints,
    aligned: float,
    spread: Float64s,
    rng: np.random.Generator,
) -> CurveFit:
    """From right answers (F, m) of F fits, of sizes by `size_of` (F,); spread (T, Z, G): of other training images."""
    observed = _resampled_accuracies(comparison, right, rng)  # (1 + B, F, G)
    by_size = np.stack(
        [
            np.stack([_mean_of_draws(observed[b, size_of == z], b, rng) for b in range(len(observed))])
            for z in range(len(sizes))
        ],
        axis=1,
    )  # (1 + B, Z, G)
    by_size[1:] = np.clip(by_size[1:] + spread[rng.integers(0, len(spread), len(by_size) - 1)], 0.0, 1.0)
    # one group throughout: the lowest of several noisy ones would be too low, and more so in every resample
    group_mean, worst = by_size.mean(axis=2), by_size[:, :, int(by_size[0].mean(axis=0).argmin())]
    shortfall = group_mean - worst
    needed = _needed(sizes, aligned, by_size)
    low, high = np.quantile(shortfall[1:], [0.025, 0.975], axis=0)
    limits = np.quantile(needed[1:], [0.025, 0.975], method="nearest")
    return CurveFit(
        sizes=sizes,
        at_hand=int(sizes[_AT_HAND]),
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


def _needed(sizes: Ints, aligned: float, accuracies: Float64s) -> Float64s:
    """(B,) conflicting images at which the shortfall is `WITHIN`, 0 where it is at hand, inf where it never is; from
    accuracies (B, Z, G) of groups at sizes (Z,), with `aligned` others.

    A probe weighs a cue by the log-odds of its tie, log(aligned / conflicting), and where margins are normal the probit
    of a group's accuracy falls straight with that weight: lines through what is at hand and through the mixes of up to
    twice as many, followed to where cue and class are untied. A power law of the images would not end there.
    """
    group = int(accuracies[0].mean(axis=0).argmin())
    ties = np.log(aligned / sizes[_AT_HAND:])
    probits = special.ndtri(np.clip(accuracies[:, _AT_HAND:], 0.002, 0.998))
    centred = ties - ties.mean()
    slopes = np.einsum("z,bzg->bg", centred, probits) / (centred @ centred)
    means = probits.mean(axis=1)
    grid = np.linspace(max(float(ties[0]), 0.0), 0.0, _GRID)
    lines = normal_below(means[:, None] + slopes[:, None] * (grid - ties.mean())[None, :, None])  # (B, grid, G)
    near = lines.mean(axis=2) - lines[:, :, group] <= WITHIN
    needed = np.where(near.any(axis=1), aligned * np.exp(-grid[near.argmax(axis=1)]), np.inf)
    result: Float64s = np.where(near[:, 0], 0.0, needed)
    return result


def to_collect(fit: CurveFit) -> tuple[int, int, int] | None:
    """How many more conflicting images, and its limits; None where it cannot be told.

    It can where twice the images at hand would be enough, and the limits of how many there would be then are no more
    than a factor of four apart.
    """
    at_hand = fit.at_hand
    point, low, high = (max(value, float(at_hand)) for value in (fit.needed, fit.needed_low, fit.needed_high))
    if point > 2 * at_hand or high > _WIDEST * low:
        return None
    return math.ceil(point - at_hand), math.floor(low - at_hand), math.ceil(high - at_hand)
