"""Which values of columns are looked at: those tied to classes, and those that a model hangs on without a tie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.picture_columns import cause_rank, is_measured
from clipaudit.cues.reliance import rules

_MOST_SEARCHED: Final = 10
_GAP: Final = 2.5
"""Standard errors between accuracies, on the discovery half, from which a value that goes with no class is tried."""
_ABOUT_AS_STRONG: Final = 2 / 3
"""Of the strongest's lower limit."""
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
    return _with_one_property(sorted(associated, key=lambda item: -item[0])) + relied_cues(context)


def _with_one_property(ranked: Sequence[tuple[float, ValueCue]]) -> list[ValueCue]:
    """The cues, strongest first, with one image property for each way that those part the classes: a blurred
    class has small files, too. ranked: cues with the lower limits of their D, strongest first.

    Those that part them as a stronger value of a declared column does follow from it, and are named beside that.
    Of those about as strong as the strongest the one names the finding that the others follow from; those that the same
    classes have are named beside it.
    """
    result: list[ValueCue] = []
    done: set[int] = set()
    for limit, cue in ranked:
        if id(cue) in done or not is_measured(cue.screen.attribute.column):
            result += [] if id(cue) in done else [cue]
            continue
        alike = [(low, other) for low, other in ranked if _alike(cue, other)]
        done |= {id(other) for _, other in alike}
        same_side = [(low, other) for low, other in alike if bool((other.upper == cue.upper).all())]
        strong = [other for low, other in same_side if low >= _ABOUT_AS_STRONG * limit]
        first = min(strong, key=lambda other: cause_rank(other.screen.attribute.column))
        others = tuple(dict.fromkeys(other.word for _, other in same_side if other.screen is not first.screen))
        declared = (n for n, other in enumerate(result) if not is_measured(other.screen.attribute.column))
        stronger = next((n for n in declared if same_parting(result[n].upper, cue.upper)), None)
        if stronger is None:
            result.append(replace(first, also=others))
        elif bool((result[stronger].upper == cue.upper).all()):
            result[stronger] = replace(result[stronger], also=(first.word, *others))
    return result


def _alike(first: ValueCue, second: ValueCue) -> bool:
    """Whether both are image properties that part the classes alike."""
    return is_measured(second.screen.attribute.column) and same_parting(first.upper, second.upper)


def same_parting(first: Bools, second: Bools) -> bool:
    """Whether two masks (K,) of classes part them alike, whichever side is named."""
    return bool((first == second).all() or (first == ~second).all())


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
        codes = scored_values(answers, screen)
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
    cells = scored_images(context, answers).cells(np.where(rows, against.astype(np.int64), -1), 2)
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
