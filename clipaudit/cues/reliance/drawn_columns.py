"""Columns permuted inside class x half by clusters, and their gaps, many at a time (S10c)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from scipy import sparse

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.reliance.images import CueColumn, ScoredImages, class_shares


def draw_places(
    images: ScoredImages, draws: int, seed: int, strata: Ints | None = None, inside: Ints | None = None
) -> Ints:
    """(draws, n) the image whose columns each image gets: all columns of an image move together, inside class x half.

    Whole clusters exchange their values; a cluster that is larger than the one it gets values from repeats them. Images
    of a class on a half that are one cluster keep theirs. strata (n,) int64 in place of class x half; inside (n,) int64
    groups that split either further, such as images that all answerers answer.
    """
    rng = np.random.default_rng([seed, 21])
    stratum = images.truth * 2 + images.discovery if strata is None else strata
    if inside is not None:
        stratum = stratum * (int(inside.max(initial=0)) + 1) + inside
    order = np.lexsort((images.cluster, stratum))
    change = np.ones(len(order), np.bool_)
    change[1:] = (np.diff(stratum[order]) != 0) | (np.diff(images.cluster[order]) != 0)
    piece = np.cumsum(change) - 1  # of each image in `order`
    start = np.flatnonzero(change)
    size = np.diff(np.append(start, len(order)))
    within = np.arange(len(order)) - start[piece]
    level = stratum[order][start]  # of each piece, ascending
    places = np.empty((draws, len(order)), np.int64)
    for draw in range(draws):
        giver = np.lexsort((rng.random(len(start)), level))  # pieces of one stratum shuffled among themselves
        source = giver[piece]
        places[draw, order] = order[start[source] + within % size[source]]
    return places


_LEAST_DRAWN: Final = 2.0
"""Independent images that each cell needs on a half."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DrawnColumns:
    """R versions of one cue's column on m images that are sorted by class."""

    aligned: Float32s
    """(R, m) share of each image in the mean of its class's aligned images, 0 for others."""
    conflicting: Float32s
    """(R, m) the same of the conflicting images."""
    shares: Float64s
    """(R, K) weight of each class present among the images."""
    pieces: tuple[Float64s, Float64s]
    """(R, K) independent pieces of the aligned and of the conflicting cells, about."""
    pointed: Bools
    """(K,)"""
    starts: Ints
    """(K,) first image of each class."""
    together: sparse.csr_array | None
    """(m, clusters) which images share a cluster; None where each is its own."""

    @cached_property
    def class_of(self) -> Ints:
        """(m,) class of each image, 0..K-1."""
        m = self.aligned.shape[1]
        classes: Ints = np.searchsorted(self.starts, np.arange(m), side="right") - 1
        return classes

    def difference(self, shares: Float64s | None = None) -> Float32s:
        """(R, m) coefficients of aligned minus conflicting, classes weighted by shares (R, K)."""
        weights = (self.shares if shares is None else shares).astype(np.float32)[:, self.class_of]
        coefficients: Float32s = weights * (self.aligned - self.conflicting)
        return coefficients

    @cached_property
    def mean(self) -> Float32s:
        """(R, m) coefficients of the group mean over the cells of usable classes."""
        usable = (self.shares > 0).astype(np.float32)
        weights = usable / np.maximum(2 * usable.sum(axis=1, keepdims=True), 1)
        coefficients: Float32s = weights[:, self.class_of] * (self.aligned + self.conflicting)
        return coefficients

    @cached_property
    def of_pointed(self) -> Float64s:
        """(R, K) weights over the classes that have the cue alone."""
        chosen = np.where(self.pointed, self.shares, 0.0)
        weights: Float64s = chosen / np.maximum(chosen.sum(axis=1, keepdims=True), 1e-300)
        return weights

    def take(self, rows: Ints) -> DrawnColumns:
        """The versions with these numbers (m,)."""
        return DrawnColumns(
            aligned=self.aligned[rows],
            conflicting=self.conflicting[rows],
            shares=self.shares[rows],
            pieces=(self.pieces[0][rows], self.pieces[1][rows]),
            pointed=self.pointed,
            starts=self.starts,
            together=self.together,
        )

    def errors(self, values: Float32s, shares: Float64s | None = None, floored: bool = False) -> Float64s:
        """(R,) standard errors of the difference of values (m,) or (R, m), by clusters.

        floored: values are changes, and each cell has half an observation at -1 and at 1 more, as in `Cells.combine`.
        """
        weights = self.shares if shares is None else shares
        variance, sums = np.zeros(len(weights)), None
        for share, pieces, sign in zip((self.aligned, self.conflicting), self.pieces, (1.0, -1.0), strict=True):
            weighted = share * values
            mean = np.add.reduceat(weighted, self.starts, axis=1).astype(np.float64)  # (R, K)
            squares = np.add.reduceat(weighted * values, self.starts, axis=1).astype(np.float64)
            # E v^2 - (E v)^2 over m - 1
            own = np.maximum(squares - mean**2, 0.0) / np.maximum(pieces - 1, 1.0)
            if floored:
                least = ((pieces * squares + 1) / (pieces + 2) - (pieces * mean / (pieces + 2)) ** 2) / (pieces + 2)
                variance += (weights**2 * np.maximum(least - own, 0.0)).sum(axis=1)
            if self.together is None:  # images of one weight: the variance follows from both sums
                variance += (weights**2 * own).sum(axis=1)
            else:
                # as in `Cells.combine`: influences summed by cluster over both cells, then squared
                influence = weighted - share * mean.astype(np.float32)[:, self.class_of]
                scale = sign * weights * np.sqrt(pieces / np.maximum(pieces - 1, 1.0))
                by_cluster = (scale.astype(np.float32)[:, self.class_of] * influence) @ self.together
                sums = by_cluster if sums is None else sums + by_cluster
        if sums is not None:
            variance += (sums.astype(np.float64) ** 2).sum(axis=1)
        return np.sqrt(variance)


def sorted_rows(images: ScoredImages, chosen: Bools) -> Ints:
    """Places of the chosen images (n,), by class, then by cluster."""
    rows = np.flatnonzero(chosen)
    ordered: Ints = rows[np.lexsort((images.cluster[rows], images.truth[rows]))]
    return ordered


def drawn_columns(images: ScoredImages, cue: CueColumn, places: Ints, rows: Ints) -> DrawnColumns:
    """Versions of a cue's column by places (R, n), on images `rows` (m,) in the order of `sorted_rows`."""
    truth, codes = images.truth[rows], np.unique(images.cluster[rows], return_inverse=True)[1]
    weight = images.weight[rows].astype(np.float32)
    starts = _first_of_each(truth)
    # rows lie by class, then cluster: sums over both are sums of runs
    piece_starts = _first_of_each(truth * (int(codes.max(initial=0)) + 1) + codes)
    piece_class = np.searchsorted(piece_starts, starts)
    kinds = truth[starts]
    having = cue.drawn(rows, places[:, rows])  # (R, m)
    known = (having >= 0) & cue.tested[truth]
    right_way = (having == 1) == cue.pointed[truth]
    parts, pieces = [], []
    for chosen in (known & right_way, known & ~right_way):
        mass = chosen * weight
        total = np.add.reduceat(mass, starts, axis=1).astype(np.float64)
        by_cluster = np.add.reduceat(mass, piece_starts, axis=1).astype(np.float64)
        squares = np.add.reduceat(by_cluster**2, piece_class, axis=1)
        pieces.append(np.maximum(total**2 / np.maximum(squares, 1e-30), 1e-9))
        spread = np.repeat(np.maximum(total, 1e-30), np.diff(np.append(starts, len(rows))), axis=1)
        parts.append((mass / spread).astype(np.float32))
    usable = (pieces[0] >= _LEAST_DRAWN) & (pieces[1] >= _LEAST_DRAWN)
    single = int(codes.max(initial=-1)) + 1 == len(rows)
    return DrawnColumns(
        aligned=parts[0],
        conflicting=parts[1],
        shares=class_shares(usable, cue.pointed[kinds]),
        pieces=(pieces[0], pieces[1]),
        pointed=cue.pointed[kinds],
        starts=starts,
        together=None if single else sparse.csr_array((np.ones(len(rows), np.float32), (np.arange(len(rows)), codes))),
    )


def _first_of_each(codes: Ints) -> Ints:
    """Places where sorted codes change, the first among them."""
    change = np.ones(len(codes), np.bool_)
    change[1:] = np.diff(codes) != 0
    return np.flatnonzero(change)
