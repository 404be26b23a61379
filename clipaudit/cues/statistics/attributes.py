"""Attributes against classes: the column as a whole, then its values, tables and ratios (S6, S6b)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.columns import (
    MAX_VALUES,
    TIED_V,
    ColumnKind,
    binned_column,
    class_scores,
    column_kind,
    names_the_class,
    numbers_of,
    omnibus_p,
)
from clipaudit.cues.statistics.cuts import honest
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT, Screen, screen_of
from clipaudit.cues.statistics.strength import Z95, one_sided
from clipaudit.statistics import chi_squared_above, fisher_above


def unusable(attribute: Attribute) -> str | None:
    """Why a column cannot be tested, in words; None when it can."""
    labelled = attribute.codes >= 0
    counts = np.bincount(attribute.codes[labelled], minlength=max(len(attribute.values), 1))
    present = int((counts > 0).sum())
    if present == 0:
        return "no image has a value"
    if present == 1:
        return f"every image has the value {attribute.values[int(counts.argmax())]!r}"
    if present == int(labelled.sum()) and _is_key(attribute):
        return "every image has a value of its own"
    codes = binned_column(attribute).codes
    if len(np.unique(codes[codes >= 0])) < 2:
        return f"fewer than two of its values have {MIN_INDEPENDENT} images"
    return None


def _is_key(attribute: Attribute) -> bool:
    """Whether values that are all different are names and not measurements: texts, or whole numbers without a gap."""
    if column_kind(attribute.values) != "number":
        return True
    numbers = np.sort(numbers_of(attribute.values))
    return bool((np.diff(numbers) == 1).all())


def names_class(attribute: Attribute, truth: Ints) -> bool:
    """Whether a column determines the class, as its name or a perfect confound; truth (n,) classes."""
    return names_the_class(binned_column(attribute).codes, truth)


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributeScreen:
    """One attribute against K tested classes: M tests, of its values and of the column as a whole."""

    attribute: Attribute
    """In bins: numbers cut into at most five, rare texts pooled."""
    kind: ColumnKind
    values: Ints
    """(V',) int64, the values that are tested: places in `attribute.values`, the first rows of `screen`."""
    screen: Screen
    """(M, K); D is the share of the value in the class minus its mean share in the other classes, -1..1. Of more than
    two values a last row is the column as a whole: its values in the order that goes with a class, learnt on the
    discovery half."""
    scores: Float64s
    """(V, M) what each value counts in each test."""
    counts: Ints
    """(K, V) int64 images of each class with each value."""
    independent: Float64s
    """(K, V) float64, the same with every near-duplicate cluster counting as one image."""
    missing: int
    """Images without a value."""

    @property
    def has_whole(self) -> bool:
        """Whether the last row is the column as a whole."""
        return bool(self.scores.shape[1] > len(self.values))

    @property
    def two_ends(self) -> bool:
        """Whether there are two values, each of which is the other's absence."""
        return len(self.values) == 2 and not self.has_whole


@dataclass(frozen=True, kw_only=True)
class Omnibus:
    """A column as a whole (S6b)."""

    p: float
    """By permutation of the untruncated chi-squared, near duplicates together."""
    cramers_v: float
    """Bias-corrected, 0..1."""
    tied: bool
    """p <= alpha / columns and V > .1."""


def omnibus(screen: AttributeScreen, rows: Ints, design: Design, dealt: Sequence[Ints], alpha: float) -> Omnibus:
    """The test of a column as a whole.

    rows (s,): places of a sample; design: of that sample; dealt: its classes (s,) of each permutation; alpha: of this
    column, 0.05 / columns. Of each near-duplicate cluster one image counts.
    """
    codes = screen.attribute.codes[rows]
    used = np.flatnonzero(codes >= 0)
    if design.cluster is not None:
        used = used[np.sort(np.unique(design.cluster[used], return_index=True)[1])]
    p = omnibus_p(codes[used], design.truth[used], design.classes, [labels[used] for labels in dealt])
    v = cramers_v(screen.independent) or 0.0
    return Omnibus(p=p, cramers_v=v, tied=p <= alpha and v > TIED_V)


def attribute_screen(
    attribute: Attribute, design: Design, chosen: Callable[[Attribute], Ints | None] = lambda attribute: None
) -> AttributeScreen | None:
    """Test an attribute's values with at least 10 images, and the column as a whole, against every cut of the classes.

    attribute: codes (n,) of the rows of `design`; at most the 50 most frequent values are tested one by one. chosen:
    gives the places of the only values that are. Returns None when some class has fewer than 10 images with a value.

    A value's indicator is a score with two values, so that D, its error and its p-value are those of any direction. For
    rare values normal tails are too light: the p-value is the larger of that and Fisher's, above the cut against below.
    """
    cut = binned_column(attribute)
    attribute = Attribute(column=attribute.column, values=cut.names, codes=cut.codes)
    K, V = design.classes, len(attribute.values)
    labelled = np.flatnonzero(attribute.codes >= 0)
    truth, codes = design.truth[labelled], attribute.codes[labelled]
    counts = np.bincount(truth * V + codes, minlength=K * V).reshape(K, V)
    part = _part(design, labelled)
    tested = np.flatnonzero(counts.sum(axis=0) >= MIN_INDEPENDENT)
    if int(part.independent.min()) < MIN_INDEPENDENT or len(tested) < 2 or not _on_both_halves(part):
        return None
    only = chosen(attribute)
    whole = len(tested) > 2
    tested = tested if only is None else np.intersect1d(tested, only)
    tested = np.sort(tested[np.argsort(-counts.sum(axis=0)[tested], kind="stable")][:MAX_VALUES])
    scores = (np.arange(V)[:, None] == tested[None, :]).astype(np.float64)  # an indicator of each value
    if whole:
        scores = np.column_stack([scores, _whole(codes, part, V)])
    # a column has few different scores: each is a bin
    places = [np.unique(column, return_inverse=True)[1].astype(np.uint16) for column in scores.T]
    tests = [honest(place[codes], part, int(place.max()) + 1) for place in places]
    z = np.array([test.cut.z for test in tests])
    p = one_sided(z)
    for place, value in enumerate(tested.tolist()):
        p[place] = max(p[place], _fisher(codes == value, part, tests[place].cut.upper))
    return AttributeScreen(
        attribute=attribute,
        kind=cut.kind,
        values=tested,
        screen=screen_of(tests, p),
        scores=scores,
        counts=counts,
        independent=_independent(truth * V + codes, part, K * V).reshape(K, V),
        missing=len(attribute.codes) - len(labelled),
    )


def _part(design: Design, rows: Ints) -> Design:
    """The design of some rows, in the same halves."""
    return Design(
        design.truth[rows],
        design.classes,
        None if design.cluster is None else _renumbered(design.cluster[rows]),
        None if design.source is None else _renumbered(design.source[rows]),
        design.halves[rows],
    )


def _on_both_halves(design: Design) -> bool:
    # each class needs an image to choose by and one to read
    sides = np.bincount(design.truth * 2 + design.halves, minlength=2 * design.classes)
    return bool(sides.min() >= 1)


def _whole(codes: Ints, part: Design, V: int) -> Float64s:
    """(V,) values in the order that goes with the class that the column tells best, learnt on the discovery half."""
    half = part.halves
    weight = np.ones(len(codes)) if part.weight is None else part.weight
    share = np.zeros((V, part.classes))
    learnt = class_scores(codes[half], part.truth[half], part.classes, weight[half])
    share[: len(learnt)] = learnt
    # a class is told best where its own images' mean score is furthest above the others'
    own = np.array(
        [
            share[codes[half & (part.truth == k)], k].mean() - share[codes[half & (part.truth != k)], k].mean()
            for k in range(part.classes)
        ]
    )
    column: Float64s = share[:, int(np.argmax(own))]
    return column


def _renumbered(groups: Ints) -> Ints:
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _independent(cells: Ints, design: Design, count: int) -> Float64s:
    """(count,) images by cell; the images of one cluster share the weight of one image."""
    if design.cluster is None:
        return np.bincount(cells, minlength=count).astype(np.float64)
    weights = 1 / np.bincount(design.cluster)[design.cluster]
    totals: Float64s = np.bincount(cells, weights, minlength=count).astype(np.float64)
    return totals


def _fisher(having: Bools, part: Design, upper: Bools) -> float:
    """One-sided exact p of a value's count above the cut, given margins, on the confirmation half.

    having (n,) whether an image has the value; images of one cluster count as one.
    """
    rows = ~part.halves
    weight = np.ones(len(having)) if part.weight is None else part.weight
    above = upper[part.truth]
    return fisher_above(
        [
            [round(float(weight[rows & (above == side) & (having == has)].sum())) for has in (True, False)]
            for side in (True, False)
        ]
    )


# -- tables ------------------------------------------------------------------------------------------------------------


def expected_counts(counts: npt.ArrayLike) -> Float64s:
    """(K, V) float64 counts if rows and columns of (K, V) counts were independent; zeros for an empty table."""
    table = np.asarray(counts, np.float64)
    if not table.sum():
        return np.zeros_like(table)
    expected: Float64s = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
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
    return value, chi_squared_above(value, freedom)


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
    # no cell is 0; var log OR = 1/a + 1/b + 1/c + 1/d (Woolf)
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
