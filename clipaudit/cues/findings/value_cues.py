"""Which values of columns are looked at: those tied to classes, and those that a model hangs on without a tie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from clipaudit.cues.findings.measured_reliance import (
    ValueCue,
    having_of,
    scored_images,
    scored_values,
)
from clipaudit.cues.findings.same_cue import with_one_property
from clipaudit.cues.measure.context import Context
from clipaudit.cues.reliance import rules
from clipaudit.cues.reliance.suspects import suspected_cue

_MOST_SEARCHED: Final = 10


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
    """Values inside +-delta whose conflicting images CLIP answers worse than others on the discovery half; its answers
    say which classes they point to."""
    answers = context.answers
    if answers is None:
        return []
    suspects = []
    delta = context.options.delta_warn
    images = scored_images(context, answers.facts)
    tested = np.zeros(len(context.names), np.bool_)
    tested[context.tested] = True
    # nobody suspects an image property that goes with no class
    for screen in (each for each in context.attributes if each.attribute.column not in context.measured):
        codes = scored_values(answers.facts, screen.attribute)
        # of two values each is the other's absence
        for place in range(1 if screen.two_ends else len(screen.values)):
            low, high = context.family.limits[context.row_of(screen, place)]
            if not -delta < low <= high < delta:
                continue
            value = int(screen.values[place])
            found = suspected_cue(screen.attribute.column, images, answers.base, having_of(codes, value), tested)
            if found is not None:
                difference, suspect = found
                upper = suspect.pointed[context.tested]
                suspects.append((difference, ValueCue(screen=screen, place=place, upper=upper, associated=False)))
    return [cue for _, cue in sorted(suspects, key=lambda item: -item[0])[:_MOST_SEARCHED]]


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
