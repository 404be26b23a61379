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
"""A column with more values is an identifier or a measurement and no attribute."""


def unusable(attribute: Attribute) -> str | None:
    """Why a column cannot be tested, in words; None when it can."""
    known = attribute.codes >= 0
    counts = np.bincount(attribute.codes[known], minlength=max(len(attribute.values), 1))
    present = int((counts > 0).sum())
    if present == 0:
        return "no image has a value"
    if present == 1:
        return f"every image has the value {attribute.values[int(counts.argmax())]!r}"
    if present == int(known.sum()):
        return "every image has a value of its own"
    if present > MAX_VALUES:
        return f"it has {present} values, and an attribute may have at most {MAX_VALUES}"
    if int((counts >= MIN_INDEPENDENT).sum()) < 2:
        return f"fewer than two of its values have {MIN_INDEPENDENT} images"
    return None


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributeScreen:
    """One attribute's values against the tested classes."""

    attribute: Attribute
    values: Ints
    """(M,) the values that are tested, places in `attribute.values`."""
    screen: Screen
    """(M, K); D is the share of the value in the class minus its mean share in the others."""
    counts: Ints
    """(K, V) images of each class with each value."""
    independent: Float64s
    """(K, V) the same with every near-duplicate cluster counting as one image."""
    missing: int


def attribute_screen(attribute: Attribute, design: Design) -> AttributeScreen | None:
    """Tests of every value with enough images; None when some class has too few images with a value.

    A value's indicator is a score with two values, so that D, its error and its p-value are those of any direction. For
    rare values normal tails are too light: the p-value is the larger of that and Fisher's, class against the rest.
    """
    K, V = design.classes, len(attribute.values)
    known = np.flatnonzero(attribute.codes >= 0)
    truth, codes = design.truth[known], attribute.codes[known]
    counts = np.bincount(truth * V + codes, minlength=K * V).reshape(K, V)
    if int(counts.sum(axis=1).min()) < MIN_INDEPENDENT:
        return None
    part = Design(truth, K, None if design.cluster is None else _renumbered(design.cluster[known]))
    tested = np.flatnonzero(counts.sum(axis=0) >= MIN_INDEPENDENT)
    found = [strengths((codes == value).astype(np.uint16), part, 2) for value in tested.tolist()]
    z = np.stack([one.z for one in found])
    p = np.maximum(p_values(z), _fisher(counts[:, tested].T, counts.sum(axis=1)))
    return AttributeScreen(
        attribute=attribute,
        values=tested,
        screen=screen(found, p),
        counts=counts,
        independent=_independent(truth * V + codes, part, K * V).reshape(K, V),
        missing=len(attribute.codes) - len(known),
    )


def _renumbered(groups: Ints) -> Ints:
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _independent(cells: Ints, design: Design, count: int) -> Float64s:
    """(count,) images by cell; those of one cluster share the weight of one."""
    if design.cluster is None:
        return np.bincount(cells, minlength=count).astype(np.float64)
    weights = 1 / np.bincount(design.cluster)[design.cluster]
    found: Float64s = np.bincount(cells, weights, minlength=count).astype(np.float64)
    return found


def _fisher(having: Ints, rows: Ints) -> Float64s:
    """(M, K) two-sided exact p of each value's count in a class, (M, K), given margins; rows (K,) images a class."""
    total, of_value = int(rows.sum()), having.sum(axis=1, keepdims=True)
    above = stats.hypergeom.sf(having - 1, total, of_value, rows[None, :])
    below = stats.hypergeom.cdf(having, total, of_value, rows[None, :])
    found: Float64s = np.minimum(2 * np.minimum(above, below), 1.0)
    return found


# -- tables ------------------------------------------------------------------------------------------------------------


def expected_counts(counts: npt.ArrayLike) -> Float64s:
    """(K, V) counts if rows and columns had nothing to do with each other."""
    table = np.asarray(counts, np.float64)
    total = table.sum()
    found: Float64s = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(total, 1.0)
    return found


def chi_squared(counts: npt.ArrayLike) -> tuple[float, float]:
    """Chi-squared of independence and its p-value; empty rows and columns are left out."""
    table = _dense(counts)
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    if freedom < 1:
        return 0.0, 1.0
    expected = expected_counts(table)
    value = float(((table - expected) ** 2 / expected).sum())
    return value, float(stats.chi2.sf(value, freedom))


def cramers_v(counts: npt.ArrayLike) -> float | None:
    """Bias-corrected Cramer's V, 0..1 (Bergsma, J. Korean Stat. Soc. 2013); None when a margin has one level."""
    table = _dense(counts)
    rows, columns, n = *table.shape, float(table.sum())
    if rows < 2 or columns < 2 or n < 2:
        return None
    square = max(0.0, chi_squared(table)[0] / n - (rows - 1) * (columns - 1) / (n - 1))
    levels = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return float(min(1.0, np.sqrt(square / levels))) if levels > 0 else None


def odds_ratio(table: npt.ArrayLike) -> Estimate:
    """Of a 2 x 2 table [[a, b], [c, d]], 1/2 added to each cell, with Woolf's 95 % interval."""
    counts = np.asarray(table, np.float64)
    a, b, c, d = (counts + 0.5).ravel()
    logarithm, error = np.log(a * d / (b * c)), np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    low, high = np.exp(logarithm - Z95 * error), np.exp(logarithm + Z95 * error)
    return Estimate(value=float(np.exp(logarithm)), low=float(low), high=float(high), n=int(counts.sum()))


def alignment(counts: npt.ArrayLike) -> float | None:
    """Largest share that one value has among a class's images, from its (V,) counts."""
    row = np.asarray(counts, np.float64)
    return float(row.max() / row.sum()) if row.sum() else None


def _dense(counts: npt.ArrayLike) -> Float64s:
    table = np.asarray(counts, np.float64)
    table = table[table.sum(axis=1) > 0]
    found: Float64s = table[:, table.sum(axis=0) > 0]
    return found
