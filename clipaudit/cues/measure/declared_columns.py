"""Declared columns before their values are tested: sources among them, bins, each column as a whole (S2b, S6b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from clipaudit.arrays import Float32s, Ints
from clipaudit.cues.measure.context import ColumnTest
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.picture_columns import in_named_bins
from clipaudit.cues.measure.vectors import read_vectors
from clipaudit.cues.result.column_words import is_measured
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import AttributeScreen, omnibus
from clipaudit.cues.statistics.columns import binned_like, column_kind, multi_class_auc, numbers_of
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.multiplicity import Permuter, strata_of
from clipaudit.cues.statistics.sources import MIN_LEVELS, SourceCandidate, SourceTest, find_source, nested

SPLIT: Final = "attributes.split"
"""The column that says how the data set's makers divided it."""
_OMNIBUS: Final = 499
"""Permutations for columns as a whole."""


def sources_of(facts: ImageFacts, seed: int) -> tuple[SourceTest | None, tuple[SourceTest, ...]]:
    """The column that is a source of images that are alike, if any is, and all that were tried: shards, inside the
    splits of a column `split`, and text columns with at least 20 values."""
    shard = np.unique(facts.shard_id, return_inverse=True)[1].astype(np.int64)
    # Shards are written split by split. Splits are a fixed part of the design (`--split`) and no sample of sources, and
    # shards that differ as the splits do are none either: they must be alike inside class x split (trap 22 would else
    # leave every small data set of two splits undecided).
    split = facts.attributes.get(SPLIT)
    cells = facts.truth if split is None else facts.truth * (len(split.values) + 1) + split.codes + 1
    candidates = [SourceCandidate(name="shard", codes=shard, cells=cells)]
    candidates += [
        SourceCandidate(name=name, codes=attribute.codes, cells=facts.truth)
        for name, attribute in facts.attributes.items()
        if len(np.unique(attribute.codes)) >= MIN_LEVELS and column_kind(attribute.values) != "number"
    ]

    def read(rows: Ints) -> Float32s:
        return read_vectors(facts.run, "embedding", facts.position[rows]).astype(np.float32)

    return find_source(candidates, read, facts.cluster, seed)


def in_bins(
    facts: ImageFacts, test: ImageFacts | None, columns: Sequence[str]
) -> tuple[ImageFacts, ImageFacts | None, dict[str, str]]:
    """The images with columns cut into bins, by what the association's rows hold (S6b), and what the named ends of
    image properties hold, by their names."""
    ranges: dict[str, str] = {}
    sets = [facts, *([] if test is None else [test])]
    attributes = [dict(part.attributes) for part in sets]
    for name in columns:
        own = [part.attributes[name] for part in sets]
        if is_measured(name):
            ends = in_named_bins(facts.attributes[name], own)
            binned, ranges = ends.parts, ranges | ends.ranges
        else:
            binned = binned_like(facts.attributes[name], own)
        for values, attribute in zip(attributes, binned, strict=True):
            values[name] = attribute
    first, *others = (replace(part, attributes=values) for part, values in zip(sets, attributes, strict=True))
    return first, others[0] if others else None, ranges


def of_source(facts: ImageFacts, name: str) -> ImageFacts:
    """The images with the codes of a source; those without a value stand for themselves."""
    codes = facts.shard_id.astype(np.int64) if name == "shard" else facts.attributes[name].codes.copy()
    alone = codes < 0
    codes = np.where(alone, codes.max(initial=-1) + 1 + np.cumsum(alone), codes)
    return replace(facts, source=np.unique(codes, return_inverse=True)[1].astype(np.int64))


def own_design(design: Design, attribute: Attribute, source_name: str | None) -> Design:
    """The design of a column's own test: a source is not the cluster of its own test, nor of a column nested in it.

    attribute: codes (n,) of the rows of `design`; source_name: the column that is the design's source, if any.
    """
    source = design.source
    if source is None or not (source_name == attribute.column or nested(attribute.codes, source)):
        return design
    return replace(design, source=None)


def column_tests(
    screens: Sequence[AttributeScreen],
    raw: Mapping[str, Attribute],
    places: Ints,
    design: Design,
    sample: Ints,
    shard: Ints,
    *,
    source_name: str | None,
    alpha: float,
    seed: int,
) -> tuple[ColumnTest, ...]:
    """Each column as a whole, on a sample: places (s,) in the raw columns, sample (s,) among the design's rows, shard
    (s,) of each; source_name: the column that is the design's source, if any.

    Labels are permuted with sources, or else near duplicates, together, and inside shards where the family's are (S2);
    without sources for columns that are one or are nested in one.
    """
    rng = np.random.default_rng([seed, 20])
    # the least p, 1 / (25 columns + 1), must be able to pass .05 / columns
    count = max(_OMNIBUS, 25 * len(screens))
    by_source: dict[bool, tuple[Design, list[Ints]]] = {}
    tests = []
    for screen in screens:
        own = own_design(design, screen.attribute, source_name)
        with_source = own.source is not None
        if with_source not in by_source:
            part = _sampled(own, sample)
            unit = Design(part.truth, part.classes, part.groups)
            permuter = Permuter(unit, strata_of(unit, shard))
            by_source[with_source] = part, [permuter.draw(rng) for _ in range(count)]
        part, dealt = by_source[with_source]
        attribute = raw[screen.attribute.column]
        auc = None
        if column_kind(attribute.values) == "number":
            # code -1, no value, takes the last: nan
            numbers = np.append(numbers_of(attribute.values), np.nan)[attribute.codes[places]]
            auc = multi_class_auc(numbers, part.truth, part.classes, part.halves)
        tests.append(
            ColumnTest(
                omnibus=omnibus(screen, sample, part, dealt, alpha / len(screens)),
                multi_class_auc=auc,
                kind=column_kind(attribute.values),
            )
        )
    return tuple(tests)


def _sampled(design: Design, rows: Ints) -> Design:
    cluster, source = (None if codes is None else codes[rows] for codes in (design.cluster, design.source))
    return Design(design.truth[rows], design.classes, cluster, source, design.halves[rows])
