"""Image properties as columns of an audit: plain names for both ends, and which of them are tied to the classes (S6b).

They are tested in every audit, without being asked for. Each is first tested as a whole, in a family of its own; only
what passes is cut, named and judged as a declared column is, so that the others cost one permutation test that ends
early, and change no other number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from clipaudit.arrays import Float64s, Ints
from clipaudit.cues.measure.context import ColumnTest
from clipaudit.cues.result.column_words import PREFIX, column_in_words, is_measured
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import AttributeScreen, Omnibus, attribute_screen, cramers_v, unusable
from clipaudit.cues.statistics.columns import (
    OTHER,
    RARE,
    TIED_V,
    Edges,
    binned_like,
    column_kind,
    multi_class_auc,
    numbers_of,
    sequential_p,
)
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.multiplicity import Permuter, strata_of
from clipaudit.run.reader import Run

NO_JPEG: Final = "files that are no JPEG"
"""The value of `image.jpeg_quality` for other files."""
PROPERTY_BINS: Final = 3
"""Of a property: its two ends, a third of the images each, and what lies between. A fifth would hold too few of a class
that is a quarter of the images and dark."""
BORDERED: Final = 0.95
"""Least uniformity of the frame that is called a border. A third of any images would have "a uniform border" else: on
the demo's bamboo a fifth of the frame is of one colour, of drawn frames after JPEG at least .969 (300 scenes)."""
_SHARE: Final = 5
"""Image properties have a fifth of the audit's alpha, divided by their number."""
_PERMUTATIONS: Final = 1999
"""At most, so that the least p, 1 / 2000, can pass .01 / 9."""
_ENDS: Final[Mapping[str, tuple[str, str]]] = {
    "border": ("no uniform border", "a uniform border"),
    "aspect": ("tall pictures", "wide pictures"),
    "megapixels": ("small pictures", "large pictures"),
    "jpeg_quality": ("low JPEG quality", "high JPEG quality"),
    "brightness": ("dark pictures", "bright pictures"),
    "sharpness": ("blurred pictures", "sharp pictures"),
    "saturation": ("pale pictures", "colourful pictures"),
    "contrast": ("pictures of low contrast", "pictures of high contrast"),
    "kilobytes": ("small files", "large files"),
}
"""What the lowest and the highest bin of each are called. Earlier ones bring later ones about: a frame adds
contrast, and each of them changes the size of the file."""


def cause_rank(column: str) -> int:
    """Place of an image property in the order in which they bring each other about."""
    return list(_ENDS).index(column.removeprefix(PREFIX))


def measured_columns(runs: Sequence[Run], declared: Sequence[str]) -> tuple[str, ...]:
    """The image properties that all runs have and that are not declared anyway, by their full names."""
    names = [f"{PREFIX}{name}" for name in runs[0].spec.image_properties if name in _ENDS]
    known = [{f"{PREFIX}{name}" for name in run.spec.image_properties} for run in runs]
    return tuple(name for name in names if name not in declared and all(name in others for others in known))


@dataclass(frozen=True, kw_only=True)
class NamedEnds:
    """An image property whose lowest and highest bins have plain names."""

    parts: list[Attribute]
    """Of each set of images."""
    ranges: dict[str, str]
    """Name of an end -> what it holds, `picture brightness up to 0.31`."""


def in_named_bins(column: Attribute, parts: Sequence[Attribute]) -> NamedEnds:
    """An image property of several sets of images in the bins that `column` makes, the ends with their plain names.

    Thirds of the images, but for the border: it is there or it is not, whatever the other images have.
    """
    if column.column != f"{PREFIX}border":
        return named_ends(binned_like(column, parts, PROPERTY_BINS), parts)
    edges = Edges(lower=np.array([BORDERED]), own_zero=False)
    names = _ENDS["border"]
    words = column_in_words(column.column)
    return NamedEnds(
        parts=[replace(part, values=names, codes=edges.codes(numbers_of(part.values), part.codes)) for part in parts],
        ranges={names[0]: f"{words} below {BORDERED}", names[1]: f"{words} from {BORDERED}"},
    )


def named_ends(binned: Sequence[Attribute], raw: Sequence[Attribute]) -> NamedEnds:
    """Bins of an image property, the ends with their plain names; files that are no JPEG are a value of their own.

    binned: the column cut into bins, of each set of images; the first is that of the association. raw: the same before
    it was cut: only what has no number there is no JPEG, and not a JPEG whose quality is too rare for a bin.
    """
    column, values = binned[0].column, list(binned[0].values)
    low, high = _ENDS[column.removeprefix(PREFIX)]
    places = [place for place, value in enumerate(values) if value != OTHER]
    ranges: dict[str, str] = {}
    if len(places) >= 2:
        for place, name, end in ((places[0], low, 0), (places[-1], high, -1)):
            number = values[place].split(" to ")[-1 if end == 0 else 0]
            ranges[name] = f"{column_in_words(column)} {'up to' if end == 0 else 'from'} {number}"
            values[place] = name
    others = column == f"{PREFIX}jpeg_quality" and int((raw[0].codes < 0).sum()) >= RARE
    if others:
        values.append(NO_JPEG)
        ranges[NO_JPEG] = NO_JPEG
    missing = len(values) - 1 if others else -1
    parts = [
        replace(part, values=tuple(values), codes=np.where(own.codes < 0, missing, part.codes))
        for part, own in zip(binned, raw, strict=True)
    ]
    return NamedEnds(parts=parts, ranges=ranges)


def tested_ends(attribute: Attribute) -> Ints | None:
    """(v,) places of an image property's ends among its bins; None for another column: all of its values are tested."""
    if not is_measured(attribute.column):
        return None
    names = {*_ENDS[attribute.column.removeprefix(PREFIX)], NO_JPEG}
    return np.array([place for place, value in enumerate(attribute.values) if value in names], np.int64)


def degrees(attribute: Attribute, value: int) -> Float64s:
    """(n,) how far each image lies towards the end `value` of an image property in bins; nan where it has no number.
    Of files that are no JPEG, 1 or 0."""
    if attribute.values[value] == NO_JPEG:
        return np.where(attribute.codes < 0, np.nan, attribute.codes == value)
    numbered = [place for place, name in enumerate(attribute.values) if name not in (NO_JPEG, OTHER)]
    sign = 1.0 if value == numbered[-1] else -1.0
    return np.where(np.isin(attribute.codes, numbered), sign * attribute.codes, np.nan)


def tied_properties(
    named: Mapping[str, Attribute],
    raw: Mapping[str, Attribute],
    places: Ints,
    design: Design,
    sample: Ints,
    shard: Ints,
    *,
    alpha: float,
    seed: int,
) -> list[tuple[AttributeScreen, ColumnTest]]:
    """The image properties that are tied to the classes as a whole, with their tests.

    named: by column, in bins, (n,) codes of the design's rows; raw: the numbers; places: (s,) rows of the sample in
    `raw`; sample: (s,) rows among the design's; shard: (s,) of each, inside which labels are permuted where the
    family's are (S2).

    Bonferroni over the properties at a fifth of alpha; V > .1 as S6b asks. p by permutation, which stops when ten
    permutations reach the observed chi-squared (Besag and Clifford, Biometrika 1991): of a column without a tie after
    a few dozen.
    """
    # in bins, where files that are no JPEG are a value: PNG against JPEG of one quality is a cue, too
    usable = {column: attribute for column, attribute in named.items() if unusable(attribute) is None}
    if not usable:
        return []
    groups = [None if codes is None else codes[sample] for codes in (design.cluster, design.source)]
    part = Design(design.truth[sample], design.classes, groups[0], groups[1], design.halves[sample])
    dealt = _Dealt(part, shard, seed)
    limit = alpha / _SHARE / len(usable)
    tied = []
    for column, attribute in usable.items():
        codes = attribute.codes[sample]
        used = np.flatnonzero(codes >= 0)
        if part.cluster is not None:
            used = used[np.sort(np.unique(part.cluster[used], return_index=True)[1])]
        p = sequential_p(codes[used], part.truth[used], part.classes, (labels[used] for labels in dealt))
        if p > limit:
            continue
        screen = attribute_screen(attribute, design, tested_ends)
        v = 0.0 if screen is None else cramers_v(screen.independent) or 0.0
        if screen is None or v <= TIED_V:
            continue
        values = raw[column].values
        numbers = np.append(numbers_of(values), np.nan)[raw[column].codes[places]]
        auc = multi_class_auc(numbers, part.truth, part.classes, part.halves)
        test = ColumnTest(omnibus=Omnibus(p=p, cramers_v=v, tied=True), multi_class_auc=auc, kind=column_kind(values))
        tied.append((screen, test))
    return tied


class _Dealt:
    """Permuted classes of a sample, near duplicates together, drawn when they are asked for and the same for all."""

    def __init__(self, design: Design, shard: Ints, seed: int) -> None:
        # sources stay together where there are any, else near duplicates
        together = Design(design.truth, design.classes, design.groups)
        self._permuter = Permuter(together, strata_of(together, shard))
        self._rng = np.random.default_rng([seed, 22])
        self._drawn: list[Ints] = []

    def __iter__(self) -> Iterator[Ints]:
        for number in range(_PERMUTATIONS):
            if number == len(self._drawn):
                self._drawn.append(self._permuter.draw(self._rng))
            yield self._drawn[number]
