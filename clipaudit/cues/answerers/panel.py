"""Everything that answers in one audit: zero-shot CLIP, a probe trained on the run's images, the user's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.cues.answerers.answerer import Answerer
from clipaudit.cues.answerers.from_table import TableAnswerer, clip_answerer
from clipaudit.cues.answerers.given import GivenAnswerer, given_answerer
from clipaudit.cues.answerers.predictions import Predictions
from clipaudit.cues.answerers.rehearsed import RehearsedAnswerer, rehearsed_answerer
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.errors import UsageError

LEAST_TRAINING: Final = 100
"""Training images below which a report rehearses nothing."""
LEAST_OF_CLASS: Final = 20
"""Training images of each class that this needs."""
MOST_CLASSES: Final = 100
"""Classes above which a report rehearses nothing: a hundred trainings of a probe of 1,000 classes take many minutes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel:
    """Answerers of the same scored images."""

    clip: TableAnswerer
    rehearsed: RehearsedAnswerer | None
    not_rehearsed: str | None
    """Why nothing was trained, in words; None where something was."""
    given: tuple[GivenAnswerer, ...] = ()

    @property
    def answerers(self) -> tuple[Answerer, ...]:
        """All that are there, CLIP first."""
        return (self.clip, *([] if self.rehearsed is None else [self.rehearsed]), *self.given)


def clip_of(answers: Answers) -> TableAnswerer:
    """Zero-shot CLIP with what each stored head adds."""
    coordinates = [answers.values[head] for head in answers.heads]
    frames = [answers.bases[head] for head in answers.heads]
    return clip_answerer(answers.embedding, answers.classes, answers.heads, coordinates, frames)


def panel_of(context: Context, answers: Answers, *, out_of_fold: bool, given: Sequence[Predictions] = ()) -> Panel:
    """CLIP, the rehearsed probe where the options ask for it and images suffice, and given models.

    out_of_fold: the scored images are those of the association, so that each is scored by a probe of the others.
    """
    rehearsed, reason = None, _too_little(context)
    if reason is None:
        try:
            rehearsed = rehearsed_answerer(
                context.facts, answers.facts, len(context.names), out_of_fold=out_of_fold, seed=context.options.seed
            )
        except UsageError as error:
            reason = str(error)
    return Panel(
        clip=clip_of(answers),
        rehearsed=rehearsed,
        not_rehearsed=reason,
        given=tuple(given_answerer(part, answers.facts, len(context.names)) for part in given),
    )


def _too_little(context: Context) -> str | None:
    """Why nothing is rehearsed, before anything is read; None where it can be."""
    if not context.options.rehearse:
        return "it was left out (--no-rehearse)"
    if len(context.names) > MOST_CLASSES:
        return f"{len(context.names):,} classes take too long in a report: see `clipaudit rehearse`"
    smallest = int(np.min(context.design.counts))
    if len(context.facts) < LEAST_TRAINING or smallest < LEAST_OF_CLASS:
        return (
            f"{len(context.facts):,} training images, {smallest} of the rarest class, are too few: {LEAST_TRAINING} and"
            f" {LEAST_OF_CLASS} are needed"
        )
    return None
