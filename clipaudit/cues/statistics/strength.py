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
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from clipaudit.arrays import Float64s, Floats, Ints

Codes: TypeAlias = npt.NDArray[np.uint16]
"""(n,) bin of each image along one direction."""

BINS: Final = 1024
_EDGE_ROWS: Final = 65_536
"""Rows from which bin edges are computed, evenly spaced, when there are more."""
Z95: Final = float(stats.norm.ppf(0.975))
"""Half width of a 95 % interval in standard errors."""


def binned(scores: Floats, bins: int = BINS) -> Codes:
    """Scores (n,) as uint16 codes (n,), 0..bins-1, in their order; equal scores have equal codes.

    Bins hold about as many images each; scores with fewer than `bins` different values keep one bin a value.
    """
    step = max(1, len(scores) // _EDGE_ROWS)
    ordered = np.sort(scores[::step])
    places = np.arange(1, bins) * len(ordered) // bins
    edges = np.unique(ordered[places])
    return np.searchsorted(edges, scores, side="right").astype(np.uint16)


@dataclass(frozen=True, eq=False)
class Design:
    """Labels and clusters of the rows that are tested: all that does not depend on the direction.

    Every class has at least one row.
    """

    truth: Ints
    """(n,) int64 class of each row, 0..K-1."""
    classes: int
    """K."""
    cluster: Ints | None = None
    """(n,) int64 near-duplicate cluster of each row, 0..G-1; None when every row stands for itself."""

    @cached_property
    def counts(self) -> Float64s:
        """(K,) float64 n_k, rows of each class."""
        return np.bincount(self.truth, minlength=self.classes).astype(np.float64)

    @cached_property
    def repeated(self) -> Ints:
        """(r,) places of the rows in clusters of two or more; only they differ from independent rows."""
        if self.cluster is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(np.bincount(self.cluster)[self.cluster] > 1)

    @cached_property
    def groups(self) -> tuple[Ints, int]:
        """(r,) cluster of each row of `repeated`, renumbered from 0, and how many clusters these are."""
        if self.cluster is None or not len(self.repeated):
            return np.empty(0, np.int64), 0
        _, codes = np.unique(self.cluster[self.repeated], return_inverse=True)
        return codes.astype(np.int64), int(codes.max()) + 1

    @cached_property
    def independent(self) -> Ints:
        """(K,) int64 clusters that each class has images in."""
        if self.cluster is None:
            return self.counts.astype(np.int64)
        pairs = np.unique(self.truth * (int(self.cluster.max(initial=0)) + 1) + self.cluster)
        clusters: Ints = np.bincount(pairs // (int(self.cluster.max(initial=0)) + 1), minlength=self.classes)
        return clusters

    @cached_property
    def clusters(self) -> int:
        """Independent pieces of data: clusters, and rows that are in none."""
        return len(self.truth) if self.cluster is None else len(self.truth) - len(self.repeated) + self.groups[1]

    @cached_property
    def null_variance(self) -> Float64s:
        """(K,) variance of A_k under exchangeable labels, without ties: Mann-Whitney's, for a mean over rivals (S2)."""
        n, rivals = self.counts, self.classes - 1
        inverse = 1 / n
        others = inverse.sum() - inverse
        # Var AUC(k, j) = (1/n_k + 1/n_j + 1/(n_k n_j)) / 12; rivals share class k, so their AUCs covary by 1/(12 n_k)
        variance: Float64s = (inverse + (others + inverse * others) / rivals**2) / 12
        return variance

    @cached_property
    def shared_weight(self) -> Float64s:
        """(K,) what pairs of rows in one cluster add to the variance of A_k, per covariance of their ranks."""
        codes, count = self.groups
        if not count:
            return np.zeros(self.classes)
        inside = np.bincount(codes * self.classes + self.truth[self.repeated], minlength=count * self.classes)
        share = inside.reshape(count, self.classes) / self.counts  # (clusters, K)
        rivals = self.classes - 1
        # weight of a row: 1/n_k in the class, -1/((K-1) n_j) in its rivals
        summed = share * (1 + 1 / rivals) - share.sum(axis=1, keepdims=True) / rivals
        own = (inside.reshape(count, self.classes) / self.counts**2).sum(axis=0)  # (K,)
        # (sum of weights)^2 = squares of single weights + products of pairs: only the pairs are wanted
        singles = own + (own.sum() - own) / rivals**2
        pairs: Float64s = (summed**2).sum(axis=0) - singles
        return pairs


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
    """(K, K) D_kj, class k against class j; 0 on the diagonal. Empty (0, 0) where it is not stored."""

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
    p: Float64s = 2 * stats.norm.sf(np.abs(z))
    return p


def strengths(codes: Codes, design: Design, bins: int = BINS) -> Strengths:
    """D of every class along one direction (S1), with its error and its z (S2).

    codes: (n,) binned scores, 0..bins-1, of the rows of `design`.
    """
    K, n = design.classes, design.counts
    table = np.bincount(design.truth * bins + codes, minlength=K * bins).reshape(K, bins)
    P = table / n[:, None]
    F = np.cumsum(P, axis=1) - P / 2  # (K, B) share of class j below a bin, ties half
    A = P @ F.T  # (K, K) A[k, j] = P(k above j)
    G = (F.sum(axis=0) - F) / (K - 1)  # (K, B) the same against all rivals of k
    mean = np.einsum("kb,kb->k", P, G)  # (K,) A_k
    # DeLong: Var A_k = Var over class k of G / n_k + sum over rivals j of Var over class j of F_k / (n_j (K - 1)^2)
    own = np.einsum("kb,kb->k", P, G * G) - mean**2
    # V[k, j] = variance over class j of its placement in class k
    V = np.maximum((F * F) @ P.T - (F @ P.T) ** 2, 0)
    unbiased = n / np.maximum(n - 1, 1)
    per_row = V * (unbiased / n)[None, :]
    variance = np.maximum(own, 0) * unbiased / n + (per_row.sum(axis=1) - np.diagonal(per_row)) / (K - 1) ** 2
    pairs = 2 * A - 1
    np.fill_diagonal(pairs, 0.0)
    pooled = table.sum(axis=0)
    null, ranks = _null(pooled, design)
    if design.groups[1]:
        variance = variance + _clustered(codes, design, F, G, mean)
        null = null + rank_covariance(ranks[codes[design.repeated]], design) * design.shared_weight
        null = null * design.clusters / max(design.clusters - 1, 1)  # few clusters: G / (G - 1)
    # with full separation the errors above are 0, which few images do not warrant
    floor = 1 / (2 * design.independent.astype(np.float64) ** 2)
    error = 2 * np.sqrt(np.maximum(variance, floor))
    usable = null > 0
    z = np.where(usable, (mean - 0.5) / np.sqrt(np.where(usable, null, 1.0)), 0.0)
    return Strengths(d=2 * mean - 1, error=error, z=z, typical=typical(pairs), pairs=pairs)


def typical(pairs: Float64s) -> Float64s:
    """Medians over rivals (K,) of pairwise strengths (K, K); of two middle ones the weaker, 0 when signs differ."""
    K = len(pairs)
    if K < 2:
        return np.zeros(K)
    off = pairs[~np.eye(K, dtype=np.bool_)].reshape(K, K - 1)
    ordered = np.sort(off, axis=1)
    low, high = ordered[:, (K - 2) // 2], ordered[:, (K - 1) // 2]
    weaker = np.where(np.abs(low) <= np.abs(high), low, high)
    return np.where(low * high > 0, weaker, 0.0)


def _null(pooled: Ints, design: Design) -> tuple[Float64s, Float64s]:
    """(K,) variance of A_k under exchangeable labels with ties, and (B,) centred ranks of the bins, -1/2..1/2.

    pooled: (B,) images in each bin.
    """
    n = float(pooled.sum())
    share = pooled / n
    # Mann-Whitney's correction for ties of size t: 1 - sum (t^3 - t) / (n^3 - n)
    ties = 1 - float((pooled.astype(np.float64) ** 3 - pooled).sum()) / max(n**3 - n, 1.0)
    ranks = np.cumsum(share) - share / 2 - 0.5
    return design.null_variance * ties, ranks


def rank_covariance(values: Float64s, design: Design) -> float:
    """Covariance of the centred ranks of two images of one cluster, at least 0; 0 without clusters of two or more.

    values: (r,) float64 centred ranks of the rows `design.repeated`.
    """
    groups, count = design.groups
    if not count:
        return 0.0
    sums = np.bincount(groups, values, minlength=count)
    size = np.bincount(groups, minlength=count).astype(np.float64)
    pairs = float((size * (size - 1)).sum())
    # sum over ordered pairs of v_i v_j = (sum v)^2 - sum v^2
    return max(float((sums**2).sum() - (values**2).sum()) / pairs, 0.0)


def _clustered(codes: Codes, design: Design, F: Float64s, G: Float64s, mean: Float64s) -> Float64s:
    """(K,) what near duplicates add to the variance of A_k: products of the influences of two rows of one cluster.

    Obuchowski, Biometrics 1997: the variance of a sum of cluster totals, less that of its single rows.
    """
    rows, (groups, count), K = design.repeated, design.groups, design.classes
    truth, places, n = design.truth[rows], codes[rows].astype(np.int64), design.counts
    added = np.zeros(K)
    below = _weighted_mean(F, codes, design)  # (K, K) mean over class j of its placement in class k
    for k in range(K):
        # influence of a row of class k, and of its rivals: DeLong's placements
        effect = np.where(
            truth == k,
            (G[k, places] - mean[k]) / n[k],
            -(F[k, places] - below[k, truth]) / ((K - 1) * n[truth]),
        )
        sums = np.bincount(groups, effect, minlength=count)
        added[k] = float((sums**2).sum() - (effect**2).sum())
    return added


def _weighted_mean(F: Float64s, codes: Codes, design: Design) -> Float64s:
    """(K, K) mean over class j (columns) of the share of class k (rows) below its images."""
    bins = F.shape[1]
    table = np.bincount(design.truth * bins + codes, minlength=design.classes * bins)
    means: Float64s = F @ (table.reshape(design.classes, bins) / design.counts[:, None]).T
    return means
