"""Score intervals of accuracies and of their differences, with clusters (S8, S9)."""

from __future__ import annotations

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.reliance.clustered import Cells
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.statistics import normal_quantile, student_quantile, wilson


def effective(cells: Cells, right: Bools) -> Float64s:
    """(G,) independent images that each cell's accuracy is worth: p (1 - p) / its clustered variance.

    The number of images where every cluster is one image; the cell's pieces where all answers are alike.
    """
    if cells.single:
        return cells.images.astype(np.float64)
    share, pieces = cells.means(right), cells.pieces
    variance = cells.own_variances(right) * pieces / np.maximum(pieces - 1, 1.0)
    spread = share * (1 - share)
    # the n with p (1 - p) / n = variance; without variance the pieces are all that is known
    sizes = np.where(variance > 1e-12, spread / np.maximum(variance, 1e-12), pieces)
    # a few clusters may vary little by chance: never more than all images, nor than ten times the pieces
    return np.minimum(sizes, np.minimum(cells.images, 10 * pieces))


def quantile(cells: Cells, level: float) -> float:
    """Of two sides at a level: normal, or Student's t with G - 1 degrees of freedom for G sources."""
    if cells.sources:
        return student_quantile((1 + level) / 2, max(cells.clusters - 1, 1))
    return normal_quantile((1 + level) / 2)


def cell_accuracies(cells: Cells, right: Bools, level: float = 0.95, together: int = 1) -> list[Estimate]:
    """Each cell's accuracy, right (n,), with Wilson limits on its effective size; with several together all hold at
    once (Bonferroni)."""
    level = 1 - (1 - level) / max(together, 1)
    share, n = cells.means(right), effective(cells, right)
    low, high = wilson(share, n, quantile(cells, level))
    return [
        Estimate(
            value=float(share[g]) if images else None,
            low=float(low[g]) if images else None,
            high=float(high[g]) if images else None,
            n=int(images),
            level=level,
        )
        for g, images in enumerate(cells.independent.tolist())
    ]


def score_combination(
    cells: Cells, right: Bools, coefficients: Float64s, level: float = 0.95, least: float = -1.0
) -> Estimate:
    """sum_g c_g p_g of accuracies with an interval recovered from the cells' Wilson limits, cut to least..1.

    Newcombe (Stat. Med. 1998) for a difference, Zou and Donner (Stat. Med. 2008) for any combination and correlated
    cells: the distance to a limit is the root of d' R d, d_g = c_g x (distance of p_g to its limit on that side), R the
    correlations of the cells' means by shared clusters. coefficients (G,); right (n,). Value None without images.
    """
    used = np.flatnonzero(coefficients)
    n = int(cells.independent[used].sum())
    if not len(used) or bool((cells.images[used] == 0).any()):
        return Estimate(value=None, low=None, high=None, n=n, level=level)
    share = cells.means(right)
    low, high = wilson(share, effective(cells, right), quantile(cells, level))
    c, p = coefficients[used], share[used]
    value = float(c @ p)
    below = c * np.where(c > 0, p - low[used], p - high[used])  # each part's distance down, >= 0
    above = c * np.where(c > 0, high[used] - p, low[used] - p)
    # distances are taken as positive: a correlation has the sign of both coefficients' product
    together = _correlations(cells, right, used) * np.sign(np.outer(c, c))
    down, up = (float(np.sqrt(max(float(side @ together @ side), 0.0))) for side in (below, above))
    return Estimate(value=value, low=max(least, value - down), high=min(1.0, value + up), n=n, level=level)


def _correlations(cells: Cells, right: Bools, used: Ints) -> Float64s:
    """(U, U) correlations of the used cells' means that come from clusters with images in several."""
    if cells.single:
        return np.eye(len(used))
    place = np.full(cells.count, -1)
    place[used] = np.arange(len(used))
    where = place[cells.cell[cells.inside]]
    chosen = where >= 0
    rows = np.unique(cells.codes[chosen], return_inverse=True)[1]
    sums = np.zeros((int(rows.max(initial=-1)) + 1, len(used)))
    np.add.at(sums, (rows, where[chosen]), cells.influence(right)[chosen])
    # clusters with images in two cells make their means correlate
    covariance = sums.T @ sums
    error = np.sqrt(np.maximum(np.diagonal(covariance), 1e-30))
    correlations: Float64s = covariance / np.outer(error, error)
    np.fill_diagonal(correlations, 1.0)
    return correlations
