"""The user's own model, by its predictions: accuracy, what it takes for what, calibration."""

from __future__ import annotations

from dataclasses import dataclass

from clipaudit.cues.result.finding_parts import Documented, Estimate


@dataclass(frozen=True, kw_only=True)
class Confusion(Documented):
    """Images of one class that are answered as another."""

    class_name: str
    answer: str
    n: int
    share: float
    """Of the class's images, 0..1."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin(Documented):
    """Images of similar confidence."""

    n: int
    confidence: float
    """Mean of the highest probability, 0..1."""
    accuracy: Estimate


@dataclass(frozen=True, kw_only=True)
class Calibration(Documented):
    """Whether confidence is accuracy."""

    ece: Estimate
    """Expected calibration error: mean |confidence - accuracy| over the bins, weighted by images; 0 is perfect. Also a
    perfect model is above 0 by chance; the interval is a bootstrap over near-duplicate clusters."""
    mean_confidence: float
    bins: tuple[ReliabilityBin, ...]
    """Of about equally many images, least confident first."""


@dataclass(frozen=True, kw_only=True)
class GivenModel(Documented):
    """One file of predictions."""

    name: str
    source: str
    """The file."""
    scored_images: int
    accuracy: Estimate
    at_chance: bool
    """No better than guessing: nothing can be said of what it relies on."""
    confusions: tuple[Confusion, ...]
    """Most frequent first; at most 20."""
    calibration: Calibration | None
    """None where only answers are known."""
