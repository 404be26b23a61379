"""Attributes against classes: shares as pairwise strengths, Cramer's V, odds ratios, expected counts (S6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from clipaudit.arrays import Float64s, Ints
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT, Screen, screen
from clipaudit.cues.statistics.strength import Z95, Design, p_values, strengths

MAX_VALUES: Final = 50
"""A column with more values is an identifier or a measurement, not an attribute."""


def unusable(attribute: Attribute) -> str | None:
    """Why a column cannot be tested, in words; None when it can."""
    labelled = attribute.codes >= 0
    counts = np.bincount(attribute.codes[labelled], minlength=max(len(attribute.values), 1))
    present = int((counts > 0).sum())
    if present == 0:
        return "no image has a value"
    if present == 1:
        return f"every image has the value {attribute.values[int(counts.argmax())]!r}"
    if present == int(labelled.sum()):
        return "every image has a value of its own"
    if present > MAX_VALUES:
        return f"it has {present} values, and an attribute may have at most {MAX_VALUES}"
    if int((counts >= MIN_INDEPENDENT).sum()) < 2:
        return f"fewer than two of its values have {MIN_INDEPENDENT} images"
    return None


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributeScreen:
    """M tested values of one attribute against K tested classes."""

    attribute: Attribute
    values: Ints
    """(M,) int64, the values that are tested: places in `attribute.values`."""
    tests: Screen
    """(M, K); D is the share of the value in the class minus its mean share in the other classes, -1..1."""
    counts: Ints
    """(K, V) int64 images of each class with each value."""
    independent: Float64s
    """(K, V) float64, the same with every near-duplicate cluster counting as one image."""
    missing: int
    """Images without a value."""


def attribute_screen(attribute: Attribute, design: Design) -> AttributeScreen | None:
    """Test every value of an attribute with at least 10 images against every class (S6, by S1 and S2).

    attribute: codes (n,) of the rows of `design`. Returns None when some class has fewer than 10 images with a value.

    A value's indicator is a score with two values, so that D, its error and its p-value are those of any direction. For
    rare values normal tails are too light: the p-value is the larger of that and Fisher's, class against the rest.
    """
    K, V = design.classes, len(attribute.values)
    labelled = np.flatnonzero(attribute.codes >= 0)
    truth, codes = design.truth[labelled], attribute.codes[labelled]
    counts = np.bincount(truth * V + codes, minlength=K * V).reshape(K, V)
    if int(counts.sum(axis=1).min()) < MIN_INDEPENDENT:
        return None
    part = Design(truth, K, None if design.cluster is None else _renumbered(design.cluster[labelled]))
    tested = np.flatnonzero(counts.sum(axis=0) >= MIN_INDEPENDENT)
    # an indicator needs two bins: P(1 above 0) + P(equal) / 2 is the pairwise AUC of shares
    by_value = [strengths((codes == value).astype(np.uint16), part, 2) for value in tested.tolist()]
    z = np.stack([strength.z for strength in by_value])
    p = np.maximum(p_values(z), _fisher(counts[:, tested].T, counts.sum(axis=1)))
    return AttributeScreen(
        attribute=attribute,
        values=tested,
        tests=screen(by_value, p),
        counts=counts,
        independent=_independent(truth * V + codes, part, K * V).reshape(K, V),
        missing=len(attribute.codes) - len(labelled),
    )


def _renumbered(groups: Ints) -> Ints:
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _independent(cells: Ints, design: Design, count: int) -> Float64s:
    """(count,) images by cell; the images of one cluster share the weight of one image."""
    if design.cluster is None:
        return np.bincount(cells, minlength=count).astype(np.float64)
    weights = 1 / np.bincount(design.cluster)[design.cluster]
    totals: Float64s = np.bincount(cells, weights, minlength=count).astype(np.float64)
    return totals


def _fisher(having: Ints, rows: Ints) -> Float64s:
    """(M, K) two-sided exact p of each value's count in a class, given margins.

    having: (M, K) images of each class with each value; rows: (K,) images of each class.
    """
    total, of_value = int(rows.sum()), having.sum(axis=1, keepdims=True)
    above = stats.hypergeom.sf(having - 1, total, of_value, rows[None, :])
    below = stats.hypergeom.cdf(having, total, of_value, rows[None, :])
    # twice the smaller tail, which needs no sum over all tables
    p: Float64s = np.minimum(2 * np.minimum(above, below), 1.0)
    return p


# -- tables ------------------------------------------------------------------------------------------------------------


def expected_counts(counts: npt.ArrayLike) -> Float64s:
    """(K, V) float64 counts if rows and columns of (K, V) counts were independent; zeros for an empty table."""
    table = np.asarray(counts, np.float64)
    if not table.sum():  # scipy divides by the total
        return np.zeros_like(table)
    expected: Float64s = stats.contingency.expected_freq(table)
    return expected


def chi_squared(counts: npt.ArrayLike) -> tuple[float, float]:
    """Chi-squared of independence of (K, V) counts and its p-value; empty rows and columns are left out.

    Counts need not be whole: clusters give fractions. (0, 1) when fewer than two rows or columns remain.
    """
    table = _without_empty(counts)
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    if freedom < 1:
        return 0.0, 1.0
    expected = expected_counts(table)
    value = float(((table - expected) ** 2 / expected).sum())
    return value, float(stats.chi2.sf(value, freedom))


def cramers_v(counts: npt.ArrayLike) -> float | None:
    """Bias-corrected Cramer's V of (K, V) counts, 0..1 (Bergsma, J. Korean Stat. Soc. 2013, equations 4 to 6; S6).

    None when fewer than two rows or columns have images.
    """
    table = _without_empty(counts)
    rows, columns, n = *table.shape, float(table.sum())
    if rows < 2 or columns < 2 or n < 2:
        return None
    # phi^2 minus its expectation under independence; the levels shrink alike
    square = max(0.0, chi_squared(table)[0] / n - (rows - 1) * (columns - 1) / (n - 1))
    levels = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return float(min(1.0, np.sqrt(square / levels))) if levels > 0 else None


def odds_ratio(table: npt.ArrayLike) -> Estimate:
    """Odds ratio of a 2 x 2 table of counts [[a, b], [c, d]], 1/2 added to each cell, with Woolf's 95 % interval (S6).

    n is the number of images in the table.
    """
    counts = np.asarray(table, np.float64)
    a, b, c, d = (counts + 0.5).ravel()
    logarithm, error = np.log(a * d / (b * c)), np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    low, high = np.exp(logarithm - Z95 * error), np.exp(logarithm + Z95 * error)
    return Estimate(value=float(np.exp(logarithm)), low=float(low), high=float(high), n=int(counts.sum()))


def alignment(counts: npt.ArrayLike) -> float | None:
    """Largest share, 0..1, that one value has among a class's images, from its (V,) counts; None without images."""
    row = np.asarray(counts, np.float64)
    return float(row.max() / row.sum()) if row.sum() else None


def _without_empty(counts: npt.ArrayLike) -> Float64s:
    table = np.asarray(counts, np.float64)
    table = table[table.sum(axis=1) > 0]
    dense: Float64s = table[:, table.sum(axis=0) > 0]
    return dense
