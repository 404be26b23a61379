"""How strongly classes differ along one direction: mean pairwise AUC with DeLong and clustered errors (S1, S2).

Scores are put into quantile bins first, and everything follows from the table of class x bin counts: memory and time
do not grow with rows x classes. With 1024 bins an AUC moves by less than 1e-6 (ties count half), and small data have a
bin for every value. Sources: DeLong, DeLong, Clarke-Pearson, Biometrics 1988; Obuchowski, Biometrics 1997 (clusters);
for several classes Hand and Till, Machine Learning 2001. Every class counts equally, whatever its size: a score that
weighs by class size vanishes with prevalence.

Letters: n images, K classes, B bins, G clusters, n_k images of class k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Float64s, Floats, Ints
from clipaudit.cues.statistics.cuts import Codes, Honest, against_others, half_tables, honest, merged
from clipaudit.cues.statistics.design import Design
from clipaudit.statistics import normal_above, normal_quantile

BINS: Final = 1024
_EDGE_ROWS: Final = 65_536
"""Rows from which bin edges are computed, evenly spaced, when there are more."""
_GRID: Final = 4096
_PIECE: Final = 65_536
Z95: Final = normal_quantile(0.975)
"""Half width of a 95 % interval in standard errors."""


def binned(scores: Floats, bins: int = BINS) -> Codes:
    """Scores (n,) as uint16 codes (n,), 0..bins-1, in their order; equal scores have equal codes.

    Bins hold about as many images each; scores with fewer than `bins` different values keep one bin a value.
    """
    step = max(1, len(scores) // _EDGE_ROWS)
    ordered = np.sort(scores[::step])
    places = np.arange(1, bins) * len(ordered) // bins
    # quantiles that fall on tied scores are one edge
    return _codes(scores, np.unique(ordered[places]))


def _codes(scores: Floats, edges: Floats) -> Codes:
    """(n,) how many of the ascending edges (E,) are at most each score: `searchsorted` from the right, in a third of
    its time.

    Scores are put into a fine grid. An edge in a lower cell is below the score and one in a higher cell above it, since
    rounding keeps the order; only an edge in the score's own cell is compared.
    """
    cells = _cells(edges, edges)
    # few scores, two edges in one cell (scores far off the others), or no numbers: nothing to gain, or to go by
    if len(scores) < _GRID or (np.diff(cells) < 1).any() or not np.isfinite(scores).all():
        return np.searchsorted(edges, scores, side="right").astype(np.uint16)
    lower, own = np.zeros(_GRID + 1, np.uint16), np.full(_GRID, np.inf, edges.dtype)
    lower[cells + 1], own[cells] = 1, edges
    lower = np.cumsum(lower, dtype=np.uint16)
    codes = np.empty(len(scores), np.uint16)
    for start in range(0, len(scores), _PIECE):
        piece = scores[start : start + _PIECE]
        place = _cells(piece, edges)
        np.add(lower[place], own[place] <= piece, out=codes[start : start + _PIECE])
    return codes


def _cells(scores: Floats, edges: Floats) -> Ints:
    """(n,) cell of each score, 0.._GRID-1, in a grid from the first edge to the last; others are in the end cells."""
    scale = scores.dtype.type((_GRID - 1) / max(float(edges[-1] - edges[0]), 1e-30))
    cells: Ints = np.clip((scores - edges[0]) * scale, 0, _GRID - 1).astype(np.int64)
    return cells


@dataclass(frozen=True, eq=False, kw_only=True)
class Strengths:
    """One direction against all K classes; arrays are float64."""

    d: Float64s
    """(K,) D_k = 2 A_k - 1, -1..1."""
    error: Float64s
    """(K,) standard error of D_k; not assuming that there is no effect."""
    z: Float64s
    """(K,) (A_k - 1/2) by its standard error if labels were exchangeable."""
    typical: Float64s
    """(K,) the median of D_kj over rivals; of two middle ones the weaker: what most rivals say."""
    pairs: Float64s
    """(K, K) D_kj, class k against class j; 0 on the diagonal."""
    honest: Honest
    """What is chosen on the discovery half and read on the confirmation half; the fields above are of all rows."""

    @property
    def p(self) -> Float64s:
        """(K,) two-sided p-values, 0..1."""
        return p_values(self.z)

    @property
    def low(self) -> Float64s:
        """(K,) 95 % lower limit of |D_k|, at least 0."""
        limit: Float64s = np.maximum(np.abs(self.d) - Z95 * self.error, 0.0)
        return limit


def p_values(z: Floats) -> Float64s:
    """Two-sided normal tails of z, any shape; float64 of the same shape, 0..1."""
    p: Float64s = 2 * normal_above(np.abs(z))
    return p


def one_sided(z: Floats) -> Float64s:
    """Upper normal tails of z, any shape; float64 of the same shape, 0..1."""
    return normal_above(z)


def strengths(codes: Codes, design: Design, bins: int = BINS) -> Strengths:
    """D of every class along one direction (S1), with its error and its z (S2), on all rows and on halves (S1c).

    codes: (n,) binned scores, 0..bins-1, of the rows of `design`.
    """
    tables = half_tables(codes, design, bins)
    whole = merged(*tables)
    d, error, z = against_others(codes, design, whole, np.ones(len(codes), np.bool_))
    P = whole.shares
    pairs = 2 * P @ (np.cumsum(P, axis=1) - P / 2).T - 1  # pairs[k, j] = 2 P(k above j) - 1, ties half
    np.fill_diagonal(pairs, 0.0)
    return Strengths(
        d=d, error=error, z=z, typical=typical(pairs), pairs=pairs, honest=honest(codes, design, bins, tables)
    )


def typical(pairs: Float64s) -> Float64s:
    """Medians over rivals (K,) of pairwise strengths (K, K); of two middle ones the weaker, 0 when signs differ."""
    K = len(pairs)
    if K < 2:
        return np.zeros(K)
    off = pairs[~np.eye(K, dtype=np.bool_)].reshape(K, K - 1)
    ordered = np.sort(off, axis=1)
    # the two middle values; of an odd number of rivals the same one twice
    low, high = ordered[:, (K - 2) // 2], ordered[:, (K - 1) // 2]
    weaker = np.where(np.abs(low) <= np.abs(high), low, high)
    return np.where(low * high > 0, weaker, 0.0)
