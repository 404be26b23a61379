"""Where answerers err: error slices in words (S15), and labels that out-of-fold answers contradict (S16)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipaudit.cues.result.finding_parts import Documented, Estimate, SampleRef


@dataclass(frozen=True, kw_only=True)
class ErrorSlice(Documented):
    """Images of one class that an answerer gets wrong more often than the others."""

    id: str
    """Stable: a hash of answerer, class and trait; the column `slice` of `slices.csv`."""
    answerer: str
    class_name: str
    label: int | str
    kind: Literal["text", "value", "above", "below"]
    """What the images have in common: they look like a text, have a value of a column, or lie above or below a cut of a
    number."""
    name: str
    """The text, or the column."""
    value: str | None
    """The value of a column, or the number that images lie above or below; None for a text."""
    description: str
    """Of the images, in words: `“dog” that looks like “a sketch”`."""
    sentence: str
    same: tuple[str, ...]
    """Other texts, values and numbers that are the same images, strongest first."""
    fit: float | None
    """How much of what sets the wrong images apart the text says, -1..1; None for a trait without a text."""
    no_good_word: bool
    """The fit is below 0.4: the pictures say more than the text."""
    images: int
    """In the slice, on both halves."""
    wrong: Estimate
    """Share of wrong answers in the slice, 0..1, on the confirmation half, as all figures here."""
    others: Estimate
    """The same among the class's other images."""
    difference: Estimate
    lift: Estimate
    """wrong / others, with its interval; no value where no other image is wrong."""
    share_of_errors: float
    """Part of the class's wrong answers that lie in the slice, 0..1."""
    taken_for: tuple[tuple[str, int], ...]
    """The classes that its images are taken for most often, and how many of them; at most three."""
    q: float
    """Benjamini-Hochberg over all tests of all answerers."""
    wrong_examples: tuple[SampleRef, ...]
    """Images of the slice that are answered wrong, those with most of the trait first."""
    right_examples: tuple[SampleRef, ...]
    """Images of the class outside the slice that are answered right, drawn."""


@dataclass(frozen=True, kw_only=True)
class AnswererErrors(Documented):
    """What goes with the errors of one answerer."""

    answerer: str
    images: int
    wrong: int
    """Images with a wrong answer."""
    searched: tuple[str, ...]
    """Classes with at least ten right and ten wrong answers on each half, whose errors were searched."""
    too_few: tuple[str, ...]
    """The other classes."""
    tests: int
    """Traits that were chosen on the discovery half and tested on the other one."""
    slices: tuple[ErrorSlice, ...]
    """Largest difference first."""
    sentence: str
    """What was learned, in words; that the errors look random is a result, too."""


@dataclass(frozen=True, kw_only=True)
class DoubtfulLabel(Documented):
    """An image whose label is contradicted."""

    image: SampleRef
    """Its `predicted` is the class that it looks like."""
    margin: float
    """Probability of the label minus the largest other one, -1..1."""
    rate: float
    """Expected part of right labels among the listed images up to it, 0..1."""
    duplicate_conflict: bool
    """A near duplicate of it has another label."""


@dataclass(frozen=True, kw_only=True)
class LabelPair(Documented):
    """Listed images of one label that look like one other class."""

    label: str
    looks_like: str
    images: int


@dataclass(frozen=True, kw_only=True)
class DoubtfulLabels(Documented):
    """Labels to look at (S16)."""

    images: int
    """Whose labels were compared with answers of a probe that was not trained on them."""
    contradicted: int
    """Off the diagonal of the confident joint."""
    listed: int
    """Of these, those that are in `review.csv`."""
    fdr: float | None
    """Expected part of the listed whose label is right, 0..1, by estimate (S16); None without any."""
    expected_wrong: float
    """Expected wrong labels among the listed."""
    wrong_share: float
    """Estimated part of all labels that are wrong, 0..1."""
    pairs: tuple[LabelPair, ...]
    """Most frequent first; at most ten."""
    examples: tuple[DoubtfulLabel, ...]
    """The first of the list."""
    sentence: str
