"""Images that share a source: found by the audit itself, and intervals that take it into account (S2b).

Pictures from one camera, page or patient are alike in more than their class. Where they are, images are no independent
pieces of data: intervals are widened to those of sources (delete-one-source jackknife, t with G - 1 degrees), and with
fewer than eight sources nothing is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from scipy import sparse

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.statistics import student_quantile

MIN_SOURCES: Final = 8
"""With fewer sources nothing is decided."""
MIN_LEVELS: Final = 20
"""Values that a column needs to be tried as a source."""
ALPHA: Final = 0.01
"""Of the permutation test, over all columns that are tried."""
COMPONENTS: Final = 20
_ROWS: Final = 5_000
"""Images that a column is tried on, at most."""
_OF_VALUE: Final = 50
"""Images of one value among these, where they suffice for a hundred values."""
_PER_COLUMN: Final = 200


@dataclass(frozen=True, kw_only=True)
class SourceTest:
    """One column tried as a source."""

    name: str
    levels: int
    icc: float
    """Mean intraclass correlation of the first 20 principal components of class-centred embeddings."""
    p: float
    """By permutation of the column inside classes."""
    design_effect: float
    """1 + (images a level - 1) * icc: how much wider variances become."""
    rows: int
    """Images that it was tried on, one of each near-duplicate cluster."""


def principal_components(embedding: Floats, truth: Ints, count: int = COMPONENTS) -> Float64s:
    """(n, count) scores of class-centred embeddings (n, D) along their first principal components."""
    x = np.asarray(embedding, np.float64)
    classes, codes = np.unique(truth, return_inverse=True)
    members = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(len(classes), len(codes)))
    counts = np.bincount(codes)
    # classes differ by themselves: a source must show in what is left inside them
    x = x - ((members @ x) / counts[:, None])[codes]
    # of D x D, however many images
    _, axes = np.linalg.eigh(x.T @ x)
    result: Float64s = x @ axes[:, ::-1][:, :count]
    return result


def intraclass(scores: Float64s, groups: Ints) -> float:
    """Mean over components of the intraclass correlation (one-way analysis of variance) of groups (n,), for scores
    (n, d); groups of one image count, too."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n, G = len(codes), len(sizes)
    if not 2 <= G < n:
        return 0.0
    sums = _sums(scores, codes, G)
    mean = scores.mean(axis=0)
    between = (sums**2 / sizes[:, None]).sum(axis=0) - n * mean**2
    within = (scores**2).sum(axis=0) - (sums**2 / sizes[:, None]).sum(axis=0)
    m0 = (n - (sizes**2).sum() / n) / (G - 1)  # mean size, corrected for unequal sizes (Donner, 1986)
    msb, msw = between / (G - 1), np.maximum(within / (n - G), 1e-30)
    # one-way random effects: (MSB - MSW) / (MSB + (m0 - 1) MSW)
    return float(np.mean((msb - msw) / (msb + (m0 - 1) * msw)))


def _sums(scores: Float64s, codes: Ints, count: int) -> Float64s:
    members = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(count, len(codes)))
    result: Float64s = members @ scores
    return result


@dataclass(frozen=True, eq=False, kw_only=True)
class SourceCandidate:
    """A column that is tried as a source of n images."""

    name: str
    codes: Ints
    """(n,) int64, -1 without a value."""
    cells: Ints
    """(n,) int64; images are compared inside these, the classes or parts of them."""


def find_source(
    candidates: Sequence[SourceCandidate], read: Callable[[Ints], Floats], cluster: Ints, seed: int = 0
) -> tuple[SourceTest | None, tuple[SourceTest, ...]]:
    """The column that is a source, if any is, and all that were tried.

    read: gives the embeddings (m, D) at ascending places (m,); cluster (n,) int64 near duplicates, of which one image
    each is used. Of more than 5,000 such images some are drawn, for each column by itself (`drawn_rows`). A column
    counts when its permutation p-value is below .01 / columns; of several the one with the largest design effect.
    """
    rng = np.random.default_rng([seed, 18])
    first = np.sort(np.unique(cluster, return_index=True)[1])
    drawn = [(one, drawn_rows(one.codes, first, _ROWS, rng)) for one in candidates]
    usable = [
        (one, rows) for one, rows in drawn if len(np.unique(one.codes[rows])) >= 2 and len(rows) >= 2 * COMPONENTS
    ]
    if not usable:
        return None, ()
    union = np.unique(np.concatenate([rows for _, rows in usable]))
    embedding = read(union)
    tests = []
    for one, rows in usable:
        cells = one.cells[rows]
        scores = principal_components(embedding[np.searchsorted(union, rows)], cells)
        icc, p = _permuted(scores, one.codes[rows], cells, _PER_COLUMN * len(usable), rng)
        known = one.codes >= 0
        levels = len(np.unique(one.codes[known]))
        size = float(known.sum()) / levels
        effect = 1 + max(size - 1, 0) * icc
        tests.append(SourceTest(name=one.name, levels=levels, icc=icc, p=p, design_effect=effect, rows=len(rows)))
    # Bonferroni over the columns tried
    significant = [test for test in tests if test.p < ALPHA / len(usable) and test.icc > 0]
    return max(significant, key=lambda test: test.design_effect, default=None), tuple(tests)


def drawn_rows(codes: Ints, rows: Ints, limit: int, rng: np.random.Generator) -> Ints:
    """About `limit` of the rows (m,) that have a value, ascending: whole values drawn, of large ones a part.

    codes (n,) int64, -1 without a value. The error of an intraclass correlation of n = G m images falls with the root
    of n m: with as many images, 50 of each of 100 sources tell far more than one each of 5,000, which tell nothing.
    """
    rows = rows[codes[rows] >= 0]
    if len(rows) <= limit:
        return rows
    # values in a random order, and inside each its images in one
    _, value = np.unique(codes[rows], return_inverse=True)
    G = int(value.max()) + 1
    order = np.lexsort((rng.random(len(rows)), rng.permutation(G)[value]))
    starts = np.flatnonzero(np.diff(value[order], prepend=-1))
    within = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    chosen = order[within < max(_OF_VALUE, -(-limit // G))]
    return np.sort(rows[chosen[:limit]])


def _permuted(scores: Float64s, codes: Ints, cells: Ints, count: int, rng: np.random.Generator) -> tuple[float, float]:
    observed = intraclass(scores, codes)
    order = np.argsort(cells, kind="stable")
    bounds = np.searchsorted(cells[order], np.unique(cells), side="left").tolist()
    above = 0
    for _ in range(count):
        dealt = codes.copy()
        # inside classes (and splits): sources may hold different ones without making images alike
        for rows in np.split(order, bounds[1:]):
            dealt[rows] = rng.permutation(codes[rows])
        above += intraclass(scores, dealt) >= observed
    return observed, (1 + above) / (1 + count)


def nested(column: Ints, source: Ints) -> bool:
    """Whether every value of a column (n,) occurs in one source only: then sources are no clusters of its test."""
    known = (column >= 0) & (source >= 0)
    pairs = np.unique(np.stack([column[known], source[known]]), axis=1)
    return bool(pairs.shape[1] == 0 or np.bincount(pairs[0]).max() <= 1)


def effective_clusters(cluster: Ints) -> float:
    """How many equal clusters are worth as much as these (n,): (sum of sizes)^2 / sum of squared sizes."""
    sizes = np.bincount(cluster).astype(np.float64)
    return float(sizes.sum() ** 2 / max((sizes**2).sum(), 1.0))


@cache  # thousands of intervals have the same few levels and sizes
def quantile(level: float, clusters: float) -> float:
    """Two-sided quantile of t with clusters - 1 degrees of freedom; normal for thousands."""
    return student_quantile((1 + level) / 2, max(clusters - 1, 1.0))


def jackknife(estimate: Callable[[Bools], float], source: Ints, level: float = 0.95) -> tuple[float, float, int]:
    """Standard error of an estimate by leaving out one source at a time, the quantile to multiply it with, and G.

    estimate: of the images in a mask (n,), nan where it is not defined (that source is left out of the spread).
    """
    names = np.unique(source)
    values = np.array([estimate(source != name) for name in names])
    usable = values[np.isfinite(values)]
    G = len(usable)
    if G < 2:
        return float("inf"), float("inf"), G
    # var = (G - 1) / G sum_g (estimate without g - mean of these)^2
    error = float(np.sqrt((G - 1) / G * ((usable - usable.mean()) ** 2).sum()))
    return error, quantile(level, G), G
