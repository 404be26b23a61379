"""Columns before their values: types, bins, the test of a column as a whole, columns that name the class (S6b).

A column of many values can be tied to the classes although no single value is (36 ordered levels, V = .59). So every
column is first tested as a whole, by a permutation of the untruncated chi-squared; its values come second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.statistics import mean_ranks, quantile_edges, range_names

ColumnKind: TypeAlias = Literal["number", "ordered", "boolean", "text"]

MAX_BINS: Final = 5
"""Bins of a number, or of a column that another cue is adjusted for."""
_ENOUGH: Final = 10
"""Permutations at least as large as the observed one, after which a sequential test ends."""
RARE: Final = 10
"""A value that fewer images have is pooled with the other rare ones."""
MAX_VALUES: Final = 50
"""The most frequent values of a text column that are tested one by one."""
TIED_V: Final = 0.1
"""Least bias-corrected Cramer's V of a tied column."""
OTHER: Final = "(rare values)"
_FEW_NUMBERS: Final = 5
"""A column with at most so many different numbers is cut at each of them."""
_SCALES: Final = (
    ("very low", "low", "medium low", "mid", "middle", "medium", "moderate", "normal", "high", "very high"),
    ("tiny", "small", "medium", "large", "huge"),
    ("none", "few", "some", "many", "all"),
    ("never", "rarely", "sometimes", "often", "always"),
    ("bad", "poor", "fair", "good", "excellent"),
    ("young", "middle-aged", "old"),
    ("night", "dawn", "morning", "noon", "afternoon", "evening", "dusk"),
    ("winter", "spring", "summer", "autumn"),
)
"""Words that come in an order; a column whose values all stand in one of these lists is sorted by it."""
_BOOLEAN: Final = frozenset({"true", "false"})
_BLANK: Final = frozenset({"", "-", "na", "n/a", "#n/a", "null"})
"""What tables write among numbers where there is none."""


def column_kind(values: Sequence[str]) -> ColumnKind:
    """What the values of a column are, from their texts: `number` when each is a finite number."""
    if values and {value.strip().casefold() for value in values} <= _BOOLEAN:
        return "boolean"
    numbers = numbers_of(values)
    if len(values) > 0 and np.isfinite(numbers).all():
        return "number"
    return "ordered" if _scale(values) is not None else "text"


def numbers_of(values: Sequence[str]) -> Float64s:
    """(V,) the values as numbers, nan where one is none."""
    return np.array([_number(value) for value in values], np.float64)


def blank_values(values: Sequence[str]) -> Bools:
    """(V,) which values stand for none: `nan`, `inf`, `NA` or nothing among numbers; in other columns no value does."""
    numbers = np.isfinite(numbers_of(values))
    # whatever Python reads as a number and is none that can be compared: nan and the infinities
    blank = ~numbers & np.array([_is_number(value) or value.strip().casefold() in _BLANK for value in values], np.bool_)
    # one text that is no such mark, and all of them are texts
    return blank if numbers.any() and (numbers | blank).all() else np.zeros(len(values), np.bool_)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")


def _scale(values: Sequence[str]) -> tuple[str, ...] | None:
    words = {value.strip().casefold() for value in values}
    return next((scale for scale in _SCALES if len(words) >= 3 and words <= set(scale)), None)


# -- bins --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Edges:
    """How numbers are cut."""

    lower: Float64s
    """(B-1,) lower ends of all bins but the first."""
    own_zero: bool
    """Zero is the first bin, the others follow."""

    def codes(self, numbers: Float64s, places: Ints) -> Ints:
        """(n,) bins of images whose values are at places (n,), -1 for none, of numbers (V,)."""
        known = places >= 0
        x = numbers[places[known]]
        bins = np.searchsorted(self.lower, x, side="right").astype(np.int64)
        if self.own_zero:
            bins = np.where(x == 0, 0, bins + 1)
        codes = np.full(len(places), -1, np.int64)
        codes[known] = np.where(np.isfinite(x), bins, -1)
        return codes


@dataclass(frozen=True, eq=False, kw_only=True)
class Binned:
    """A column cut into bins."""

    kind: ColumnKind
    names: tuple[str, ...]
    """(V,) what each bin holds, in words."""
    codes: Ints
    """(n,) bin of each image, -1 without a value."""
    pooled: bool
    """The last bin holds several rare values."""
    edges: Edges | None = None
    """Of numbers that were cut; None for other columns."""


def binned_column(attribute: Attribute, most: int | None = None, bins: int = MAX_BINS) -> Binned:
    """A column's bins.

    Numbers with more than five different values: at most five bins of about equal size, equal numbers together, zero a
    bin of its own where at least a tenth of the images have it. Texts: each value a bin, those of fewer than ten images
    pooled. most: at most so many bins of texts, too, the most frequent values and the rest. bins: at most so many of
    numbers.
    """
    kind = column_kind(attribute.values)
    if kind == "number" and len(np.unique(attribute.codes[attribute.codes >= 0])) > _FEW_NUMBERS:
        return _number_bins(attribute, bins)
    return _text_bins(attribute, kind, most)


def binned_like(attribute: Attribute, parts: Sequence[Attribute], bins: int = MAX_BINS) -> list[Attribute]:
    """Several sets of images' values of one column in the bins that `attribute` makes, as columns of those bins.

    A number outside the range goes into the nearest bin; a text that `attribute` does not have, or that is rare there,
    into the pooled bin if there is one, and else counts as missing.
    """
    cut = binned_column(attribute, bins=bins)
    if cut.kind == "number" and cut.edges is not None:
        return [
            Attribute(column=part.column, values=cut.names, codes=cut.edges.codes(numbers_of(part.values), part.codes))
            for part in parts
        ]
    last = len(cut.names) - 1 if cut.pooled else -1
    result = []
    for part in parts:
        of_value = [cut.names.index(value) if value in cut.names else last for value in part.values]
        codes = np.array([*of_value, -1], np.int64)[part.codes]
        result.append(Attribute(column=part.column, values=cut.names, codes=codes))
    return result


def _number_bins(attribute: Attribute, bins: int) -> Binned:
    known = attribute.codes >= 0
    numbers = numbers_of(attribute.values)
    x = numbers[attribute.codes[known]]
    zero = float((x == 0).mean()) if len(x) else 0.0
    # a frequent zero means none, and is no low value (S6b)
    own_zero = 0.1 <= zero < 1 and x.min() >= 0
    rest = x[x != 0] if own_zero else x
    edges = Edges(lower=quantile_edges(rest, bins - 1 if own_zero else bins), own_zero=own_zero)
    names = ("0",) if own_zero else ()
    return Binned(
        kind="number",
        names=(*names, *range_names(rest, edges.lower)),
        codes=edges.codes(numbers, attribute.codes),
        pooled=False,
        edges=edges,
    )


def _text_bins(attribute: Attribute, kind: ColumnKind, most: int | None) -> Binned:
    V = len(attribute.values)
    known = attribute.codes >= 0
    counts = np.bincount(attribute.codes[known], minlength=V)
    usual = np.flatnonzero(counts >= RARE)
    if most is not None and len(usual) + bool((counts[counts < RARE] > 0).any()) > most:
        usual = np.sort(usual[np.argsort(-counts[usual], kind="stable")][: most - 1])
    ranks = [_rank(attribute.values[v], kind, attribute.values) for v in usual.tolist()]
    usual = usual[np.argsort(ranks, kind="stable")]
    place = np.full(V + 1, -1, np.int64)
    place[usual] = np.arange(len(usual))
    rare = np.setdiff1d(np.flatnonzero(counts > 0), usual)
    pooled = len(rare) > 0 and int(counts[rare].sum()) >= RARE
    if pooled:
        place[rare] = len(usual)
    names = tuple(attribute.values[v] for v in usual.tolist()) + ((OTHER,) if pooled else ())
    return Binned(kind=kind, names=names, codes=place[attribute.codes], pooled=pooled)


def _rank(value: str, kind: ColumnKind, values: Sequence[str]) -> float:
    if kind == "number":
        return _number(value)
    scale = _scale(values) if kind == "ordered" else None
    return float(scale.index(value.strip().casefold())) if scale is not None else 0.0


# -- the column as a whole ---------------------------------------------------------------------------------------------


def names_the_class(codes: Ints, truth: Ints) -> bool:
    """Whether every value that two or more images have occurs in one class only: the column is the class, or a perfect
    confound. codes (n,) -1 without a value, truth (n,)."""
    known = codes >= 0
    values, classes = codes[known], truth[known]
    if len(np.unique(classes)) < 2:
        return False
    counts = np.bincount(values)
    # a value of one image lies in one class whatever the column is
    shared = counts[values] >= 2
    if shared.sum() < len(values) / 2:
        return False
    pairs = np.unique(np.stack([values[shared], classes[shared]]), axis=1)
    return bool(np.bincount(pairs[0]).max() == 1)


def omnibus_p(codes: Ints, truth: Ints, classes: int, dealt: Sequence[Ints]) -> float:
    """Permutation p-value of the untruncated chi-squared of class x bin.

    codes, truth (n,) of images that have a value; dealt: the classes (n,) of each permutation, near duplicates
    together. (1 + permutations at least as large) / (1 + permutations).
    """
    V = int(codes.max(initial=-1)) + 1
    if V < 2 or not dealt:
        return 1.0
    observed = _chi(codes, truth, classes, V)
    # equal tables that differ by rounding count as at least as large
    above = sum(_chi(codes, labels, classes, V) >= observed * (1 - 1e-9) for labels in dealt)
    return (1 + above) / (1 + len(dealt))


def sequential_p(codes: Ints, truth: Ints, classes: int, dealt: Iterable[Ints]) -> float:
    """`omnibus_p` that ends as soon as ten permutations are at least as large: p = 10 / permutations so far.

    Valid whatever the number of permutations (Besag and Clifford, Biometrika 1991). codes, truth (n,) of images that
    have a value; dealt: the classes (n,) of each permutation.
    """
    V = int(codes.max(initial=-1)) + 1
    if V < 2:
        return 1.0
    least = _chi(codes, truth, classes, V) * (1 - 1e-9)
    above = done = 0
    for labels in dealt:
        done += 1
        above += _chi(codes, labels, classes, V) >= least
        if above == _ENOUGH:
            return above / done
    return (1 + above) / (1 + done)


def _chi(codes: Ints, truth: Ints, classes: int, V: int) -> float:
    table = np.bincount(truth * V + codes, minlength=classes * V).reshape(classes, V).astype(np.float64)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / max(table.sum(), 1.0)
    inside = expected > 0
    return float(((table - expected)[inside] ** 2 / expected[inside]).sum())


def class_scores(codes: Ints, truth: Ints, classes: int, weight: Float64s) -> Float64s:
    """(V, K) how much of each value's weight lies in each class, classes counting equally, halfway to even where a
    value is rare: the order of the values that goes with a class, to be learnt on one half and tested on the other.

    codes, truth, weight (n,) of images that have a value.
    """
    V = int(codes.max(initial=-1)) + 1
    table = np.bincount(codes * classes + truth, weight, minlength=V * classes).reshape(V, classes)
    share = table / np.maximum(table.sum(axis=0), 1e-12)  # (V, K) P(value | class)
    # a value that one class has once would otherwise name that class for sure
    even = 1.0 / max(V, 1) / 10
    result: Float64s = (share + even) / (share + even).sum(axis=1, keepdims=True)
    return result


def multi_class_auc(numbers: Floats, truth: Ints, classes: int, discovery: Bools) -> float | None:
    """Mean AUC of a number over all pairs of classes, each pair turned the way that it has on the discovery half
    (Hand and Till, Machine Learning 2001); .5 says nothing, 1 tells all apart. None where a class is on one half only.

    numbers, truth, discovery (n,); nan without a value.
    """
    values = []
    known = np.isfinite(numbers)
    parts = [[numbers[known & (truth == k) & half] for k in range(classes)] for half in (discovery, ~discovery)]
    for k in range(classes):
        for j in range(k):
            if min(len(parts[half][c]) for half in (0, 1) for c in (k, j)) == 0:
                continue
            first, second = (_auc(parts[half][k], parts[half][j]) for half in (0, 1))
            # turned by one half, read on the other: its own turn would put every AUC above .5
            values.append(second if first >= 0.5 else 1 - second)
    return float(np.mean(values)) if values else None


def _auc(a: Float64s, b: Float64s) -> float:
    ranks = mean_ranks(np.concatenate([a, b]))
    # Mann-Whitney's U over the number of pairs
    return float((ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b)))
