"""Error slices as cards, and labels to look at as pictures, for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from clipaudit.cues.report.pictures import SLICES, CaptionedPicture, Pictures, PictureStrip, row
from clipaudit.cues.report.plots import interval_row
from clipaudit.cues.report.words import Number, decimal, limits, share
from clipaudit.cues.result.mistake_parts import AnswererErrors, ErrorSlice
from clipaudit.cues.result.result import AuditResult

LABELS: Final = 16
"""Pictures of labels to look at."""


@dataclass(frozen=True, kw_only=True)
class SliceCard:
    """One slice."""

    part: ErrorSlice
    numbers: tuple[Number, ...]
    plot: Markup
    strips: tuple[PictureStrip, ...]


@dataclass(frozen=True, kw_only=True)
class ErrorCards:
    """What goes with one answerer's errors."""

    errors: AnswererErrors
    cards: tuple[SliceCard, ...]


def error_cards(audit: AuditResult, pictures: Pictures) -> tuple[ErrorCards, ...]:
    """By answerer, with the first slices' pictures."""
    return tuple(
        ErrorCards(errors=errors, cards=tuple(_card(part, pictures) for part in errors.slices[:SLICES]))
        for errors in audit.errors
    )


def _card(part: ErrorSlice, pictures: Pictures) -> SliceCard:
    lift = Number(value="–", limits="", about="times the others’ errors: of the others none is wrong")
    if part.lift.value is not None:
        times = f"{decimal(part.lift.value, 1)} ×"
        lift = Number(value=times, limits=limits(part.lift), about="the others’ errors (lift)")
    numbers = (
        Number(value=share(part.wrong.value, 0), limits=limits(part.wrong, "share"), about="of these images are wrong"),
        Number(value=share(part.others.value, 0), limits=limits(part.others, "share"), about="of the class’s others"),
        lift,
        Number(value=share(part.share_of_errors, 0), limits="", about="of the class’s errors lie here"),
    )
    strips = (
        PictureStrip(title="Answered wrong, most of it first", pictures=row(part.wrong_examples, pictures, None)),
        PictureStrip(title="Others of the class, answered right", pictures=row(part.right_examples, pictures, None)),
    )
    return SliceCard(
        part=part,
        numbers=numbers,
        plot=interval_row([("second", part.wrong), ("before", part.others)], 0, 1),
        strips=tuple(strip for strip in strips if strip.pictures),
    )


def label_pictures(audit: AuditResult, pictures: Pictures) -> tuple[CaptionedPicture, ...]:
    """The first labels to look at."""
    examples = () if audit.labels is None else audit.labels.examples
    return row([entry.image for entry in examples], pictures, None, LABELS)
