"""Cuts of the classes along a direction: who has a cue, who lacks it; chosen on one half, read on the other (S1b, S1c).

A cue that most classes share flags no class against its median rival. So the classes are put in the order in which they
lie along the direction, and each of the K - 1 cuts "these have it, those lack it" is a test. The order, the cut and the
sign are chosen on the discovery half; D and its error come from the confirmation half alone, because the largest of
many directions, read from the images that chose it, is too large (the winner's curse).

D of a cut is 2 A - 1 with A the mean AUC over all pairs of a class above and a class below: every class counts equally.
With P_k the distribution of class k over bins, A = sum_b P_up F_low, where P_up is the mean of the P_k above, F_low the
share of the classes below that lies under a bin, ties half. DeLong's variance follows from the placements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse, special

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.statistics.design import Design, Repeated

Codes: TypeAlias = npt.NDArray[np.uint16]
"""(n,) bin of each image along one direction."""
_INFLUENCES: Final = 2**20
"""Influences of rows that are held at a time: rows x masks."""
_LEAST_RATIO: Final = 0.02
"""Groups that mix the classes evenly make a contrast more certain, but no more than this."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """One half's classes over bins."""

    shares: Float64s
    """(K, B) weight of each class by bin, sums of 1."""
    squares: Float64s
    """(K, B) sums of squared weights, relative to the class's squared total: 1 / n each where every row weighs 1."""
    n: Float64s
    """(K,) independent images."""
    pooled: Float64s
    """(B,) rows of all classes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Contrasts:
    """C contrasts of classes above against classes below, on one set of rows."""

    a: Float64s
    """(C,) A, 0..1."""
    variance: Float64s
    """(C,) of A, as if rows were independent but for their weights."""
    null: Float64s
    """(C,) variance of A if labels were exchangeable, with ties."""
    floor: Float64s
    """(C,) least variance of A that so few images warrant: full separation leaves none."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Honest:
    """One direction: what the discovery half chooses, and what the confirmation half says of it."""

    d: Float64s
    """(K,) D of each class against all others on the confirmation half, -1..1."""
    error: Float64s
    """(K,) its standard error."""
    low: Float64s
    """(K,) 95 % lower limit of |D| on the discovery half: for choosing, no result."""
    cut: Cut
    quantile: float
    """Of 95 % intervals from the confirmation half."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cut:
    """The cut of the classes along one direction that the discovery half chooses."""

    upper: Bools
    """(K,) classes above the cut: those that have what the direction points to."""
    order: Ints
    """(K,) classes from the highest to the lowest, on the discovery half."""
    d: float
    """Above against below on the confirmation half, -1..1; positive when the halves agree."""
    error: float
    """Standard error of d, images of one group together."""
    z: float
    """(A - 1/2) / its standard error if labels were exchangeable."""
    low: float
    """95 % lower limit of |d| on the discovery half: what the cut was chosen by, and no result."""
    replication: float
    """D of the cut that the confirmation half would choose, read on the discovery half."""
    replicated: bool
    """Whether that is the same cut."""


def half_tables(codes: Codes, design: Design, bins: int) -> tuple[Table, Table]:
    """The tables of the discovery and of the confirmation half; codes (n,) uint16 bins 0..bins-1."""
    K, bins = design.classes, min(bins, int(codes.max(initial=0)) + 1)
    # half x class x bin as one number: both tables from one count
    cell = design.half_and_class * bins + codes
    count = np.bincount(cell, minlength=2 * K * bins).astype(np.float64)
    weights, squares = count, count
    if design.weight is not None:
        rows = design.repeated_copies
        # copies were counted as 1: w and w^2 take their place
        w = design.weight[rows]
        weights = count + np.bincount(cell[rows], w - 1, minlength=2 * K * bins)
        squares = count + np.bincount(cell[rows], w**2 - 1, minlength=2 * K * bins)
    parts = [array.reshape(2, K, bins) for array in (weights, squares, count)]
    confirmation, discovery = (_table(*(part[half] for part in parts)) for half in (0, 1))
    return discovery, confirmation


def _table(weights: Float64s, squares: Float64s, count: Float64s) -> Table:
    n = weights.sum(axis=1)
    total = np.maximum(n, 1e-12)[:, None]
    return Table(shares=weights / total, squares=squares / total**2, n=n, pooled=count.sum(axis=0))


def merged(a: Table, b: Table) -> Table:
    """The table of two disjoint sets of rows together."""
    n = a.n + b.n
    total = np.maximum(n, 1e-12)[:, None]
    shares = (a.shares * a.n[:, None] + b.shares * b.n[:, None]) / total
    squares = (a.squares * a.n[:, None] ** 2 + b.squares * b.n[:, None] ** 2) / total**2
    return Table(shares=shares, squares=squares, n=n, pooled=a.pooled + b.pooled)


def contrasts(table: Table, upper: Bools) -> Contrasts:
    """Classes above, a mask (C, K), against all others."""
    up = upper / np.maximum(upper.sum(axis=1, keepdims=True), 1)
    low = ~upper / np.maximum((~upper).sum(axis=1, keepdims=True), 1)
    P, S, n = table.shares, table.squares, np.maximum(table.n, 1e-12)
    above, below = up @ P, low @ P
    F_up, F_low = _under(above), _under(below)  # (C, B)
    a = np.einsum("cb,cb->c", above, F_low)
    variance = _placement_variance(P, S, n, F_low, up) + _placement_variance(P, S, n, F_up, low)
    # Mann-Whitney's variance (1/n1 + 1/n2 + 1/(n1 n2)) / 12 for means over classes, times the share of ties
    each = S.sum(axis=1)  # 1 / n of a class whose rows all weigh 1
    first, second = (up**2) @ each, (low**2) @ each
    null = (first + second + first * second) / 12 * _ties(table.pooled)
    # 4 / (2 n^2) = 2 / n^2 on D (S1): few separated images have a DeLong variance of 0
    smaller = np.minimum(upper @ table.n, ~upper @ table.n)
    return Contrasts(a=a, variance=variance, null=null, floor=1 / (2 * np.maximum(smaller, 1.0) ** 2))


def _under(shares: Float64s) -> Float64s:
    result: Float64s = np.cumsum(shares, axis=-1) - shares / 2
    return result


def _placement_variance(P: Float64s, S: Float64s, n: Float64s, F: Float64s, side: Float64s) -> Float64s:
    """(C,) variance of the mean over the classes of a side (C, K) of their rows' placements F (C, B)."""
    mean = P @ F.T  # (K, C)
    # sum_b S (F - mean)^2 multiplied out; n / (n - 1) as in DeLong's variance of placements
    spread = S @ (F * F).T - 2 * mean * (S @ F.T) + mean**2 * S.sum(axis=1, keepdims=True)
    spread = np.maximum(spread, 0) * (n / np.maximum(n - 1, 1))[:, None]
    result: Float64s = np.einsum("ck,kc->c", side**2, spread)
    return result


def _ties(pooled: Float64s) -> float:
    # Mann-Whitney's correction: 1 - sum (t^3 - t) / (n^3 - n) over bins of t tied rows
    n = float(pooled.sum())
    return 1 - float((pooled**3 - pooled).sum()) / max(n**3 - n, 1.0)


def order_of(table: Table) -> Ints:
    """(K,) classes by their mean placement among all classes, highest first."""
    whole = _under(table.shares.mean(axis=0, keepdims=True))[0]
    return np.argsort(-(table.shares @ whole), kind="stable")


def masks_of(order: Ints, sizes: Ints) -> Bools:
    """(C, K) the classes above each cut."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    result: Bools = rank[None, :] < sizes[:, None]
    return result


# -- groups of images --------------------------------------------------------------------------------------------------


def grouped_variances(codes: Codes, design: Design, table: Table, upper: Bools, rows: Bools) -> Float64s:
    """(C,) what images of one group add to the variance of A: products of the influences of two rows of one group.

    upper (C, K) classes above; rows (n,) which half. Times G / (G - 1), G the effective number of groups on the half.
    """
    added = np.zeros(len(upper))
    if design.groups is None or not len(design.repeated):
        return added
    repeated = design.repeated_among(rows)
    if not len(repeated.places):
        return added
    at_once = max(1, _INFLUENCES // len(repeated.places))
    for first in range(0, len(upper), at_once):
        part = slice(first, first + at_once)
        added[part] = _within_groups(codes, design, table, upper[part], repeated)
    # this half's share of the groups
    G = max(design.effective * repeated.share, 2.0)
    return added * G / (G - 1)


def _within_groups(codes: Codes, design: Design, table: Table, upper: Bools, repeated: Repeated) -> Float64s:
    """(C,) the sums over pairs of rows of one group, of classes above (C, K)."""
    C, P, places = len(upper), table.shares, repeated.places
    up = upper / np.maximum(upper.sum(axis=1, keepdims=True), 1)
    low = ~upper / np.maximum((~upper).sum(axis=1, keepdims=True), 1)
    F_up, F_low = _under(up @ P), _under(low @ P)  # (C, B)
    truth, bins = design.truth[places], codes[places].astype(np.int64)
    centre = np.where(upper, F_low @ P.T, F_up @ P.T)  # (C, K) mean placement of each class
    weight = np.ones(len(places)) if design.weight is None else design.weight[places]
    share = np.where(upper, up, low) / np.maximum(table.n, 1e-12)  # (C, K) of one image of weight 1
    above = upper[:, truth]  # (C, m)
    placed = np.where(above, F_low[:, bins], F_up[:, bins])
    # a rival that lies higher lowers A: the sign makes the sum over a group the change of A
    influence = np.where(above, 1.0, -1.0) * weight * share[:, truth] * (placed - centre[:, truth])
    groups = int(repeated.groups.max()) + 1
    cell = np.arange(C)[:, None] * groups + repeated.groups
    sums = np.bincount(cell.ravel(), influence.ravel(), minlength=C * groups).reshape(C, groups)
    # Obuchowski, Biometrics 1997: the variance of a sum of group totals, less that of its single rows
    within: Float64s = (sums**2).sum(axis=1) - (influence**2).sum(axis=1)
    return within


def with_groups(read: Contrasts, added: Float64s) -> tuple[Float64s, Float64s]:
    """(C,) variances of A with what groups add, and those under exchangeable labels, widened alike."""
    variance = np.maximum(read.variance + added, read.floor)
    spread = read.variance > 1e-12  # full separation has none, and says nothing of groups
    ratio = np.where(spread, (read.variance + added) / np.where(spread, read.variance, 1.0), 1.0)
    # the null variance is of independent rows too, and widens by the same factor
    return variance, read.null * np.maximum(ratio, _LEAST_RATIO)


# -- choosing and reading ----------------------------------------------------------------------------------------------


def cut_of(codes: Codes, design: Design, bins: int, tables: tuple[Table, Table] | None = None) -> Cut:
    """The cut along one direction: chosen by its lower limit on the discovery half, read on the confirmation half.

    codes (n,) uint16 binned scores. Classes without an image on a half have no say there.
    """
    discovery, confirmation = tables if tables is not None else half_tables(codes, design, bins)
    order, place, low = _best(discovery, codes, design, design.halves)
    upper = masks_of(order, design.cut_sizes)[place]
    read = contrasts(confirmation, upper[None])
    added = grouped_variances(codes, design, confirmation, upper[None], design.scoring)
    variance, null = with_groups(read, added)
    a = float(read.a[0])
    # the other way round as replication only: averaging both covers 0 to 62 % (trap 27)
    other, at, _ = _best(confirmation, codes, design, design.scoring)
    again = masks_of(other, design.cut_sizes)[at]
    back = contrasts(discovery, again[None])
    return Cut(
        upper=upper,
        order=order,
        d=2 * a - 1,
        error=2 * float(np.sqrt(variance[0])),
        z=(a - 0.5) / float(np.sqrt(null[0])) if null[0] > 0 else 0.0,
        low=low,
        replication=2 * float(back.a[0]) - 1,
        replicated=bool((again == upper).all()),
    )


def honest(codes: Codes, design: Design, bins: int, tables: tuple[Table, Table] | None = None) -> Honest:
    """One direction, chosen and read on different halves; codes (n,) uint16 binned scores, 0..bins-1."""
    tables = tables if tables is not None else half_tables(codes, design, bins)
    d, error, _ = against_others(codes, design, tables[1], design.scoring)
    chosen, wide, _ = against_others(codes, design, tables[0], design.halves)
    return Honest(
        d=d,
        error=error,
        low=np.maximum(np.abs(chosen) - design.quantile(0.95, float(design.halves.mean())) * wide, 0.0),
        cut=cut_of(codes, design, bins, tables),
        quantile=design.quantile(0.95, float(design.scoring.mean())),
    )


def against_others(codes: Codes, design: Design, table: Table, rows: Bools) -> tuple[Float64s, Float64s, Float64s]:
    """(K,) D of each class against all others on some rows (n,), its standard error, and its z."""
    masks = np.eye(design.classes, dtype=np.bool_)
    read = contrasts(table, masks)
    added = grouped_variances(codes, design, table, masks, rows)
    variance, null = with_groups(read, added)
    z = np.where(null > 0, (read.a - 0.5) / np.sqrt(np.where(null > 0, null, 1.0)), 0.0)
    return 2 * read.a - 1, 2 * np.sqrt(variance), z


def _best(table: Table, codes: Codes, design: Design, rows: Bools) -> tuple[Ints, int, float]:
    """Order of the classes, place of the cut with the largest lower limit of D, and that limit."""
    order = order_of(table)
    masks = masks_of(order, design.cut_sizes)
    read = contrasts(table, masks)
    error = np.sqrt(np.maximum(read.variance, read.floor))
    limit = 2 * read.a - 1 - design.quantile(0.95, 0.5) * 2 * error
    place = int(np.argmax(limit))
    # a pass over the rows for each cut: done for the chosen one, whose limit is reported
    added = float(grouped_variances(codes, design, table, masks[place][None], rows)[0])
    if added > 0:
        wider = np.sqrt(max(float(read.variance[place]) + added, float(read.floor[place])))
        limit[place] = 2 * read.a[place] - 1 - design.quantile(0.95, 0.5) * 2 * wider
    return order, place, max(float(limit[place]), 0.0)


def strength_interval(d: float, error: float, quantile: float) -> tuple[float, float]:
    """Interval of D on the logit scale of A = (D + 1) / 2, where it covers near -1 and 1, too (S1c)."""
    a, half = min(max((d + 1) / 2, 1e-9), 1 - 1e-9), error / 2  # the error of A is half that of D
    # Near full separation the scale would have no width: A is kept away from its end. The limit towards the middle is
    # 1 - c exp(quantile half / c) from an A of 1 - c, largest for c = quantile half; a smaller c would make it fall far
    # below what a weaker cue's is. The other limit gets the nearer end, so that it reaches beyond A.
    far = min(quantile * half, 0.5)
    low = _on_logit_scale(min(max(a, half / 2), 1 - max(far, half / 2)), half, -quantile)
    high = _on_logit_scale(min(max(a, max(far, half / 2)), 1 - half / 2), half, quantile)
    return float(min(2 * low - 1, d)), float(max(2 * high - 1, d))


def _on_logit_scale(a: float, error: float, steps: float) -> float:
    """A limit of A, so many standard errors away: d logit(a) / da = 1 / (a (1 - a)) (delta method)."""
    limit: float = special.expit(special.logit(a) + steps * error / (a * (1 - a)))
    return limit


def false_coverage_level(passed: int, tested: int, alpha: float = 0.05) -> float:
    """Level of the intervals of what passed a gate, so that of those shown at most alpha miss on average (Benjamini and
    Yekutieli, JASA 2005): 1 - alpha * passed / tested."""
    return 1 - alpha * min(max(passed, 1), max(tested, 1)) / max(tested, 1)


# -- the largest of all tests ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Units:
    """Rows of the confirmation half with near duplicates merged: what labels are dealt over."""

    ranks: npt.NDArray[np.float32]
    """(u, M) mean rank of each unit along every direction."""
    truth: Ints
    """(u,)"""
    group: Ints | None
    """(u,) images that stay together; None when every unit stands for itself."""
    rows: Ints
    """(u,) one row of each unit."""


def units_of(ranks: Floats, design: Design) -> Units:
    """One unit for each cluster and class of the confirmation half; ranks (n, M)."""
    rows = np.flatnonzero(~design.halves)
    values, truth = np.asarray(ranks[rows], np.float32), design.truth[rows]
    group = None if design.groups is None else design.groups[rows]
    if design.cluster is not None:
        cells = design.cluster[rows] * design.classes + truth
        _, first, codes, sizes = np.unique(cells, return_index=True, return_inverse=True, return_counts=True)
        if len(first) < len(rows):
            members = sparse.csr_array(
                ((1 / sizes)[codes].astype(np.float32), (codes, np.arange(len(codes)))), shape=(len(first), len(rows))
            )
            values, truth, rows = members @ values, truth[first], rows[first]
            group = None if group is None else group[first]
    if group is not None:
        group = np.unique(group, return_inverse=True)[1].astype(np.int64)
        # as many groups as units: nothing is tied together
        group = None if int(group.max(initial=-1)) + 1 == len(group) else group
    return Units(ranks=np.ascontiguousarray(values, np.float32), truth=truth, group=group, rows=rows)


def cut_contrasts(mean: Floats, orders: Ints, sizes: Ints) -> Float64s:
    """(M, C) mean rank above minus mean rank below for each cut, from class means (K, M) and orders (M, K)."""
    ordered = np.take_along_axis(np.asarray(mean, np.float64).T, orders, axis=1)
    # the sum of the first classes against the rest: all cuts from one cumulative sum
    sums = np.cumsum(ordered, axis=1)
    total, K = sums[:, -1:], ordered.shape[1]
    result: Float64s = sums[:, sizes - 1] / sizes - (total - sums[:, sizes - 1]) / (K - sizes)
    return result


def class_means(units: Units, truth: Ints, classes: int) -> Floats:
    """(K, M) mean ranks with labels (u,) dealt in some way."""
    n = np.maximum(np.bincount(truth, minlength=classes), 1)
    members = sparse.csr_array(
        ((1 / n)[truth].astype(np.float32), (truth, np.arange(len(truth)))), shape=(classes, len(truth))
    )
    result: Floats = members @ units.ranks
    return result
