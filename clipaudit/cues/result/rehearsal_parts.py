"""What a model would learn from these images, and what mends it, as a result (S14)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter

from clipaudit.cues.result.finding_parts import Documented, Estimate
from clipaudit.cues.result.reliance_parts import CellAccuracy

ArmName: TypeAlias = Literal[
    "as it is", "group weights", "balanced subset", "cue taken out", "last layer on a balanced part"
]
"""How the probe is trained."""


@dataclass(frozen=True, kw_only=True)
class SeedRange(Documented):
    """The same arm with other random draws."""

    draws: int
    low: float
    """Lowest group mean, 0..1."""
    high: float


@dataclass(frozen=True, kw_only=True)
class RehearsalArm(Documented):
    """A linear probe trained in one way, and how it answers the scored images."""

    name: ArmName
    training_images: int
    """With a weight above 0, in a fold."""
    average: Estimate
    """Accuracy over all scored images. Of one label of several, here and below: AUC of images with it against images
    without."""
    group_mean: Estimate
    """Mean accuracy of class x (cue points right, cue points wrong); of a label, mean of the AUCs of either kind."""
    worst_group: Estimate
    """The lowest of them; its limits hold for all at once (of a label, for one AUC)."""
    worst: str
    """Which it is, in words."""
    gap: Estimate
    """Accuracy where the cue points the right way minus where it points the wrong way, inside classes."""
    gain: Estimate | None
    """Change of the group mean against `as it is`, paired over images; None for `as it is` itself."""
    cells: tuple[CellAccuracy, ...]
    """None of a label: what is compared are two AUCs."""
    seeds: SeedRange | None
    """Of arms with random draws."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Documented):
    """The probe as it is, trained with another mix of images that go with the cue and against it."""

    conflicting: int
    """Conflicting training images; above those at hand the mix is the one that so many would give, reached by leaving
    out images that go with the cue."""
    group_mean: float
    worst_group: float
    shortfall: Estimate
    """Group mean minus worst group; the interval is a bootstrap over scored images and draws."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve(Documented):
    """How many conflicting images would bring the worst group within 5 points of the group mean."""

    points: tuple[CurvePoint, ...]
    """From a quarter of those at hand to twice as many."""
    at_hand: int
    """Conflicting training images, in a fold."""
    collect: int | None
    """More images, kinds and classes as those at hand; 0 where it is there already; None where it cannot be told."""
    low: int | None
    high: int | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class LeanedHead(Documented):
    """A head that pushes the probe's answer along the cue."""

    head: str
    text: str
    """What the head's direction that goes most with the cue is, in words."""
    share: float
    """Part of the cue's push on the probe's margin that goes through the head; all stored heads and the rest add up to
    1, single ones may be below 0 or above 1."""


@dataclass(frozen=True, kw_only=True)
class ColumnRehearsal(Documented):
    """One column: the disease and the cures."""

    attribute: str
    value: str
    classes: str
    """Those that have the value, in words."""
    able: bool
    """Whether the probe as it is tells the classes at all; if not, its arms say nothing."""
    sentence: str
    """The answer in plain words."""
    arms: tuple[RehearsalArm, ...]
    """`as it is` first."""
    curve: LearningCurve | None
    """None where no conflicting image was trained on, and of a label."""
    heads: tuple[LeanedHead, ...]
    """Most first; they describe and decide nothing. None of a label."""
    label: str | None = None
    """The label whose presence was learned, where images have several; all figures are AUCs then."""


@dataclass(frozen=True, kw_only=True)
class RehearsalPanel(Documented):
    """A linear probe trained on this run's images: what a model would learn here."""

    not_rehearsed: str | None
    """Why nothing was trained, in words; None where something was."""
    trained_on: str
    """Which rows, in words."""
    training_images: int
    """In a fold."""
    training_rows_at_hand: int
    """Of which those were taken."""
    scored_images: int
    out_of_fold: bool
    """Every fifth part was scored by a probe of the others; else a part of its own was scored."""
    strength: float
    """C of the penalty, chosen inside the training images; the middle one over folds."""
    accuracy: Estimate | None
    """As it is, over all scored images; None where images have several labels, each with a probe of its own."""
    columns: tuple[ColumnRehearsal, ...]


@cache
def _adapter() -> TypeAdapter[RehearsalPanel]:
    return TypeAdapter(RehearsalPanel)


def rehearsal_json(panel: RehearsalPanel) -> dict[str, Any]:
    """Plain JSON values, as in a report's `audit.rehearsal`."""
    document: dict[str, Any] = json.loads(_adapter().dump_json(panel))
    return document
