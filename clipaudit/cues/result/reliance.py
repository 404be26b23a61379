"""What is measured of a model's reliance on a cue: accuracies of groups, paired tests, random controls, arms.

Accuracies are shares, 0..1; changes are differences of shares, -1..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipaudit.cues.result.finding_parts import Documented, Estimate


@dataclass(frozen=True, kw_only=True)
class GroupAccuracy(Documented):
    """Zero-shot accuracy of one class x value group."""

    class_name: str
    value: str | None
    """None for a whole class."""
    n: int
    size: Literal["count only", "greyed", "shown", "may gate"]
    """Under 10, 10-29, 30-99, 100 and more images (S9)."""
    accuracy: Estimate | None
    """Wilson, simultaneous over the groups; None when there are fewer than 10 images."""
    without: Estimate | None
    """The same with the cue's heads at their means; None where nothing was replaced."""
    change: Estimate | None
    """without - accuracy, paired; positive when replacing the heads helps."""


@dataclass(frozen=True, kw_only=True)
class Groups(Documented):
    """All groups of one attribute (S7-S9)."""

    attribute: str
    """Column, or `pseudo-attribute: TEXT`."""
    rows: str
    groups: tuple[GroupAccuracy, ...]
    """By class and value."""
    plain_average: Estimate
    train_weighted: float | None
    """Group accuracies weighted by the groups' shares in the rows of the association."""
    group_mean: Estimate
    """Over groups of at least 10 images, each counting equally."""
    worst: GroupAccuracy | None
    """Lowest among groups of at least `n_min`; its interval is simultaneous."""
    gap: float | None
    """plain average - worst group."""
    gap_if_equal: float | None
    """The gap that chance alone would show if all groups were equally accurate."""
    n_min: int
    left_out: tuple[str, ...]
    """Groups too small to be the worst, in words."""


@dataclass(frozen=True, kw_only=True)
class PairedTest(Documented):
    """One group's answers before and after, paired."""

    class_name: str
    value: str | None
    conflict: bool
    """The group goes against the cue: this class without it, or another class with it."""
    n: int
    fixed: int
    """Wrong before, right after."""
    broken: int
    """Right before, wrong after."""
    p: float
    """Exact McNemar, two-sided."""
    change: Estimate
    """Accuracy after - before."""


@dataclass(frozen=True, kw_only=True)
class RandomControl(Documented):
    """The observed change among those of random head sets of the same size and layers, alike in margin variance; of any
    layers where the same ones have fewer than 200 sets."""

    observed: float
    p: float
    """(1 + sets at least as good) / (1 + sets)."""
    mean: float
    deviation: float
    sets: int
    different_sets: int
    """How many such sets there are; with few, p cannot be small."""
    edges: tuple[float, ...]
    """Of the histogram of the random sets' changes; bins + 1 numbers."""
    counts: tuple[int, ...]
    matched: str
    """What the sets have in common with the chosen heads, in words."""


@dataclass(frozen=True, kw_only=True)
class DosePoint(Documented):
    """A part of the heads' deviation removed."""

    alpha: float
    """0 nothing, 1 the whole."""
    conflict: Estimate | None
    """Accuracy on conflicting images."""
    group_mean: Estimate | None
    worst: Estimate | None
    """Of the group that was worst on the discovery half."""
    plain_average: Estimate


@dataclass(frozen=True, kw_only=True)
class Arm(Documented):
    """One way to take the cue out of the embedding."""

    name: Literal["whole heads", "direction only"]
    heads: tuple[str, ...]
    delta_conflict: Estimate | None
    """Change of the mean accuracy over the conflict groups; positive when taking the cue out helps."""
    delta_group_mean: Estimate | None
    delta_worst: Estimate | None
    worst_group: str | None
    """Which group, in words; fixed on the discovery half."""
    delta_plain: Estimate
    """Change of the plain average; moves the wrong way on skewed data, shown for completeness."""
    tests: tuple[PairedTest, ...]
    """By group; empty for a corrected pseudo-attribute, whose single groups are not what they are called."""
    control: RandomControl | None
    dose: tuple[DosePoint, ...]


@dataclass(frozen=True, kw_only=True)
class Counterfactual(Documented):
    """What CLIP would answer without the cue: direct effects of heads on the class token (S10)."""

    rows: str
    """Which rows are scored, in words."""
    discovery: str
    """On which rows heads and the worst group were chosen."""
    mean_source: str
    """Where the heads' means come from."""
    groups: str
    """What groups are made of: `attributes.place`, or the pseudo-attribute with its correction."""
    corrected: bool
    """Changes are corrected for the error rates of a pseudo-attribute; `before` is as the pseudo-attribute says."""
    arms: tuple[Arm, ...]
    """`whole heads` first."""
    before: Groups
    """Group accuracies before and (in `without`) after the first arm."""
