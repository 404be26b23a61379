"""Which values of columns are looked at: those tied to classes, and those that a model hangs on without a tie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.findings.measured_reliance import (
    ValueCue,
    having_of,
    pointed_by_model,
    scored_images,
    scored_values,
)
from clipaudit.cues.findings.same_cue import with_one_property
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.cues.reliance import rules

_MOST_SEARCHED: Final = 10
_GAP: Final = 2.5
"""Standard errors between accuracies, on the discovery half, from which a value that goes with no class is tried."""
_SIDE: Final = 50
"""Independent images on either side that this needs."""


def value_cues(context: Context) -> list[ValueCue]:
    """Values whose cut passes, strongest first, of a column of two values one; then those that the model seems to hang
    on though they go with no class."""
    associated = []
    for screen in context.attributes:
        rows = [context.row_of(screen, place) for place in range(len(screen.values))]
        passing = [place for place, m in enumerate(rows) if context.passed[m] and context.family.cuts[m].d > 0]
        if screen.two_ends and passing and context.presence is not None:  # what images with the label have
            passing = [place for place in passing if context.family.cuts[rows[place]].upper[0]][:1]
        elif screen.two_ends and passing:  # two ends of one cue: the rarer value names it
            passing = [int(np.argmin(screen.counts.sum(axis=0)[screen.values]))]
        for place in passing:
            m = rows[place]
            cue = ValueCue(screen=screen, place=place, upper=context.family.cuts[m].upper, associated=True)
            associated.append((float(context.family.limits[m, 0]), cue))
    return with_one_property(context, sorted(associated, key=lambda item: -item[0])) + relied_cues(context)


def relied_cues(context: Context) -> list[ValueCue]:
    """Values inside +-delta whose conflicting images are answered worse than others on the discovery half; the model
    says which classes they point to."""
    answers = context.answers
    if answers is None:
        return []
    suspects = []
    delta = context.options.delta_warn
    # nobody suspects an image property that goes with no class
    for screen in (each for each in context.attributes if each.attribute.column not in context.measured):
        codes = scored_values(answers.facts, screen.attribute)
        # of two values each is the other's absence
        places = range(1 if screen.two_ends else len(screen.values))
        for place in places:
            m = context.row_of(screen, place)
            low, high = context.family.limits[m]
            having = having_of(codes, int(screen.values[place]))
            upper = pointed_by_model(context, answers, having) if -delta < low and high < delta else None
            if upper is None:
                continue
            difference = _difference(context, answers, having, upper)
            if difference > _GAP:
                cue = ValueCue(screen=screen, place=place, upper=upper, associated=False)
                suspects.append((difference, cue))
    return [cue for _, cue in sorted(suspects, key=lambda item: -item[0])[:_MOST_SEARCHED]]


def _difference(context: Context, answers: Answers, having: Ints, upper: Bools) -> float:
    """Standard errors between the accuracies of aligned and conflicting images (having (n,) 1, 0, -1), on the discovery
    half."""
    pointed = np.zeros(len(context.names), np.bool_)
    pointed[context.tested] = upper
    rows = answers.facts.discovery & (having >= 0) & np.isin(answers.truth, context.tested)
    against = (having == 1) != pointed[answers.truth]
    # copies and images of one source share a weight and an error, as in the gap that is then measured (S2b)
    cells = scored_images(context, answers.facts).cells(np.where(rows, against.astype(np.int64), -1), 2)
    if float(cells.pieces.min()) < _SIDE:
        return 0.0
    return cells.combine(answers.right(answers.base), np.array([1.0, -1.0])).t


def stand_ins(
    cues: Sequence[ValueCue], measured: Sequence[Sequence[rules.MeasuredReliance]], limits: Sequence[float]
) -> list[str | None]:
    """For each cue a column that cannot be told from it and is tied more strongly, which is judged in its stead."""
    result: list[str | None] = []
    for place, cue in enumerate(cues):
        columns = {name for part in measured[place] for name in part.inseparable_from}
        # place breaks ties in strength, so that of two columns exactly one stands in for the other
        stronger = [
            other.screen.attribute.column
            for number, other in enumerate(cues)
            if other.screen is not cue.screen
            and other.screen.attribute.column in columns
            and (limits[number], -number) > (limits[place], -place)
        ]
        result.append(stronger[0] if stronger else None)
    return result
