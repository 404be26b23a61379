"""The columns of an audit with their tests: those that were declared, and image properties that are tied (S6b)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipaudit.arrays import Ints
from clipaudit.cues.measure.context import ColumnTest
from clipaudit.cues.measure.declared_columns import column_tests, own_design
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.picture_columns import tested_ends, tied_properties
from clipaudit.cues.result.column_words import is_measured
from clipaudit.cues.result.panels import Dropped
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import AttributeScreen, attribute_screen, names_class, unusable
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT


@dataclass(frozen=True, eq=False, kw_only=True)
class TestedColumns:
    """Columns that could be tested, and declared ones that could not."""

    screens: tuple[AttributeScreen, ...]
    tests: tuple[ColumnTest, ...]
    """Each column as a whole, in the order of `screens`."""
    dropped: tuple[Dropped, ...]


def tested_columns(
    facts: ImageFacts,
    raw: Mapping[str, Attribute],
    places: Ints,
    design: Design,
    sample: Ints,
    *,
    declared: Sequence[str],
    measured: Sequence[str],
    chosen_by: Collection[str],
    source_name: str | None,
    alpha: float,
    seed: int,
) -> TestedColumns:
    """Test columns of the design's images, whose facts hold them in bins.

    raw: the columns before they were cut; places: (s,) rows of the sample in them; sample: (s,) its rows among the
    design's. declared, measured: names of columns and of image properties; chosen_by: columns that chose the rows;
    source_name: the column that is the design's source, if any.
    """
    screens: list[AttributeScreen] = []
    dropped: list[Dropped] = []
    for column in declared:
        attribute = facts.attributes[column]
        # of an image property in bins, where files that are no JPEG are a value
        reason = unusable(attribute if is_measured(column) else raw[column])
        if reason is None and column in chosen_by:
            reason = "it chooses the rows"
        # an image property names no class: one that tells the classes apart is a confound
        if reason is None and not is_measured(column) and names_class(attribute, design.truth):
            reason = "it names the class, or is a perfect confound: every value occurs in one class only"
        own = own_design(design, attribute, source_name)
        screen = None if reason is not None else attribute_screen(attribute, own, tested_ends)
        if screen is None:
            too_few = f"a class has fewer than {MIN_INDEPENDENT} images with a value"
            dropped.append(Dropped(what=column, head=None, reason=reason or too_few))
        else:
            screens.append(screen)
    shard = facts.shard_id[sample].astype(np.int64)
    tests = column_tests(screens, raw, places, design, sample, shard, source_name=source_name, alpha=alpha, seed=seed)
    tied = tied_properties(
        {name: facts.attributes[name] for name in measured}, raw, places, design, sample, shard, alpha=alpha, seed=seed
    )
    return TestedColumns(
        screens=(*screens, *(screen for screen, _ in tied)),
        tests=(*tests, *(test for _, test in tied)),
        dropped=tuple(dropped),
    )
