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
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.options import AuditOptions
from clipaudit.cues.statistics.design import Design
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


def panel_of(
    training: ImageFacts,
    design: Design,
    answers: Answers,
    classes: int,
    options: AuditOptions,
    *,
    out_of_fold: bool,
    given: Sequence[Predictions] = (),
) -> Panel:
    """CLIP, the rehearsed probe where the options ask for it and images suffice, and given models, of C classes.

    training: images of the association, with their design. out_of_fold: the scored images are some of them, so that
    each is scored by a probe of the others.
    """
    rehearsed, reason = None, _too_little(design, classes, options)
    if reason is None:
        try:
            rehearsed = rehearsed_answerer(training, answers.facts, classes, out_of_fold=out_of_fold, seed=options.seed)
        except UsageError as error:
            reason = str(error)
    return Panel(
        clip=clip_of(answers),
        rehearsed=rehearsed,
        not_rehearsed=reason,
        given=tuple(given_answerer(part, answers.facts, classes) for part in given),
    )


def _too_little(design: Design, classes: int, options: AuditOptions) -> str | None:
    """Why nothing is rehearsed, before anything is read; None where it can be."""
    if not options.rehearse:
        return "it was left out (--no-rehearse)"
    if classes > MOST_CLASSES:
        return f"{classes:,} classes take too long in a report: see `clipaudit rehearse`"
    images, smallest = len(design.truth), int(np.min(design.counts))
    if images < LEAST_TRAINING or smallest < LEAST_OF_CLASS:
        return (
            f"{images:,} training images, {smallest} of the rarest class, are too few: {LEAST_TRAINING} and"
            f" {LEAST_OF_CLASS} are needed"
        )
    return None
