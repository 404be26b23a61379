"""Which image properties are one cue: they part the classes alike, and go together inside classes (S6b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.findings.measured_reliance import ValueCue, having_of
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.picture_columns import cause_rank, degrees
from clipaudit.cues.reliance.clustered import Cells, Spread
from clipaudit.cues.reliance.images import CueColumn, ScoredImages, cue_cells
from clipaudit.cues.reliance.rank_difference import rank_difference
from clipaudit.cues.result.column_words import is_measured
from clipaudit.cues.statistics.sources import MIN_SOURCES

_ABOUT_AS_STRONG: Final = 2 / 3
"""Of the strongest's lower limit."""
_SURE: Final = 0.05
"""One-sided p-value."""
_LEAST: Final = 5
"""Independent images of a class with a cue, and without it, from which the class says how another goes with it."""


def with_one_property(context: Context, ranked: Sequence[tuple[float, ValueCue]]) -> list[ValueCue]:
    """The cues, strongest first, with one image property for each way that those part the classes: a blurred class has
    small files, too. ranked: cues with the lower limits of their D, strongest first.

    Two are one only if they also go together inside classes: with two classes everything parts them alike. Those that
    follow so from a stronger value of a declared column are named beside that. Of those about as strong as the
    strongest the one names the finding that the others follow from.
    """
    result: list[ValueCue] = []
    done: set[int] = set()
    for limit, cue in ranked:
        if id(cue) in done or not is_measured(cue.screen.attribute.column):
            result += [] if id(cue) in done else [cue]
            continue
        alike = [(low, other) for low, other in ranked if id(other) not in done and _is_one(context, cue, other)]
        done |= {id(other) for _, other in alike}
        same_side = [(low, other) for low, other in alike if bool((other.upper == cue.upper).all())]
        strong = [other for low, other in same_side if low >= _ABOUT_AS_STRONG * limit]
        first = min(strong, key=lambda other: cause_rank(other.screen.attribute.column))
        others = tuple(dict.fromkeys(other.word for _, other in same_side if other.screen is not first.screen))
        declared = (n for n, other in enumerate(result) if _unasked(context, cue) and not _unasked(context, other))
        stronger = next((n for n in declared if same_cue(context, result[n], cue)), None)
        if stronger is None:
            result.append(replace(first, also=others))
        elif bool((result[stronger].upper == cue.upper).all()):
            result[stronger] = replace(result[stronger], also=(*result[stronger].also, first.word, *others))
    return result


def _unasked(context: Context, cue: ValueCue) -> bool:
    """Whether it is an image property that nobody declared."""
    return cue.screen.attribute.column in context.measured


def _is_one(context: Context, cue: ValueCue, other: ValueCue) -> bool:
    """Whether another value is the same cue as an image property's: of one that was declared, its other end alone."""
    if other is cue:
        return True
    own = other.screen is cue.screen
    return (own or (_unasked(context, cue) and _unasked(context, other))) and same_cue(context, cue, other)


def same_cue(context: Context, first: ValueCue, second: ValueCue) -> bool:
    """Whether an image property, `second`, parts the classes as another cue does and goes with it inside classes.

    It does where, inside the classes that have the first or inside those that lack it, images with the first have more
    of the second: D above delta, and surely above 0. Where no class has images with the first and without it, nothing
    tells them apart.
    """
    same = bool((first.upper == second.upper).all())
    if not same and not bool((first.upper == ~second.upper).all()):
        return False
    # of the sample, like all that is measured between two cues
    rows, sampled = context.scan.sample, context.sampled
    having = having_of(first.screen.attribute.codes[rows], first.value)
    degree = degrees(second.screen.attribute, second.value)[rows]
    inside = (having >= 0) & np.isfinite(degree)
    told = False
    for side in (first.upper, ~first.upper):
        part = np.flatnonzero(inside & side[context.truth])
        together = go_together(
            degree[part] if same else -degree[part],
            having[part] == 1,
            context.truth[part],
            context.options.delta_warn,
            sampled.cluster[part],
            None if sampled.sources is None else sampled.sources[part],
        )
        if together:
            return True
        told = told or together is not None
    return not told


def go_together(
    values: Float64s, having: Bools, truth: Ints, delta: float, cluster: Ints, source: Ints | None = None
) -> bool | None:
    """Whether images with a cue (n,) surely have more of something, values (n,), inside classes (n,), by more than
    `delta`, p < .05; None where no class has five independent images with the cue and five without it.

    cluster (n,) near duplicates, which share a weight; source (n,) what images come from: errors are those of sources
    then (S2b), and with fewer than eight nothing is sure.
    """
    found = inside_difference(values, having, truth, cluster, source)
    if found is None:
        return None
    few = source is not None and len(np.unique(source)) < MIN_SOURCES
    return found.value > delta and found.p < _SURE and not few


def inside_difference(
    values: Floats, having: Bools, truth: Ints, cluster: Ints, source: Ints | None = None, least: int = _LEAST
) -> Spread | None:
    """Rank D of values (n,) between images with a cue (n,) and without it inside classes (n,); cluster and source as
    for `go_together`. None where no class has `least` independent images of both."""
    classes = int(truth.max(initial=0)) + 1
    cell = 2 * truth + having
    independent = Cells(count=2 * classes, cell=cell, weight=np.ones(len(cell)), cluster=cluster).independent
    usable = independent.reshape(-1, 2).min(axis=1) >= least
    if not usable.any():
        return None
    images = ScoredImages(
        truth=truth,
        classes=classes,
        cluster=cluster if source is None else source,
        discovery=np.zeros(len(truth), np.bool_),
        sources=source is not None,
    )
    cue = CueColumn(
        name="", having=having.astype(np.int64), pointed=np.ones(classes, np.bool_), tested=np.ones(classes, np.bool_)
    )
    total = images.cells(cell, 2 * classes).total.reshape(-1, 2)
    # classes count by Mantel and Haenszel's n1 n0 / (n1 + n0)
    weights = np.where(usable, total[:, 0] * total[:, 1] / np.maximum(total.sum(axis=1), 1e-300), 0.0)
    return rank_difference(cue_cells(images, cue), values, weights / weights.sum())
