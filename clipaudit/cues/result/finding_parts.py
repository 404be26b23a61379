"""What a finding is made of: estimates, cues, associations, counterfactuals, groups, tables, samples.

Every class here becomes JSON through pydantic; the docstrings below the fields are the published schema's descriptions.
Shares and strengths are plain numbers (0..1, -1..1), never percent. None where there is nothing to say, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal, TypeAlias

Half: TypeAlias = Literal["discovery", "confirmation", "all"]
Strength: TypeAlias = Literal["negligible", "small", "moderate", "strong"]
ClassesFrom: TypeAlias = Literal["label", "caption", "clip"]
"""What says which class an image is: its label, its caption, or CLIP's own answer."""

NEGLIGIBLE: Final = 0.1
SMALL: Final = 0.3
MODERATE: Final = 0.5


class Documented:
    """pydantic reads the docstrings below the fields."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True, "arbitrary_types_allowed": True}


class Verdict(StrEnum):
    """What may be said of a cue, in the order in which it should be looked at (docs/method.md 8)."""

    CONFIRMED = "confirmed shortcut"
    FAILS_WHERE = "fails where the cue is missing"
    NEEDED = "needed"
    MODEL_ONLY = "model shortcut, not in this data"
    DATA_ONLY = "data shortcut, not learned"
    TIED = "tied column"
    CANDIDATE = "candidate"
    INCONCLUSIVE = "inconclusive"
    OBSERVED = "observed"


@dataclass(frozen=True, kw_only=True)
class Estimate(Documented):
    """A number with its interval."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Independent images behind it: near duplicates count as one."""
    level: float = 0.95
    """Confidence of low..high; above 0.95 where several intervals hold at once."""


@dataclass(frozen=True, kw_only=True)
class SampleRef(Documented):
    """One image, with what a gallery needs to show it without reading its whole shard."""

    shard_id: int
    index: int
    key: str
    url: str
    """Of the shard."""
    offset: int | None
    """First byte of the image in the shard."""
    nbytes: int | None
    label: int | str | None
    class_name: str | None
    predicted: str | None
    """The class that zero-shot CLIP answers."""
    predicted_without: str | None
    """The same with the cue's heads at their means."""
    value: str | None
    """The attribute's value, or `with cue`, `without cue` of a pseudo-attribute."""
    score: float | None
    """The cue's score, towards the cue's words."""


@dataclass(frozen=True, kw_only=True)
class CueWord(Documented):
    """A text that names a cue, and where it was found."""

    text: str
    property: str
    """Of the text pool, such as `location`; `user` for a text that the user gave, `attribute` for a value."""
    kind: str
    """`core-like`, `context-like` or `unspecified`."""
    head: str | None
    """The head whose direction it names; None for an attribute's value."""
    d: float | None
    """Strength with the class along this direction, towards this text, -1..1."""


@dataclass(frozen=True, kw_only=True)
class Cue(Documented):
    """A text direction carried by one or more heads, or an attribute's value with the heads that carry it."""

    name: str
    """The text that names it best; what a reader sees."""
    words: tuple[CueWord, ...]
    """Strongest first; one per direction that carries the cue, and an attribute's value first where there is one."""
    opposite: str | None
    """The text at the other end of the strongest direction."""
    heads: tuple[str, ...]
    """Heads whose directions carry it, strongest first; those that the counterfactual replaces are in its arms."""
    attribute: str | None
    """Column that the cue is grounded in (`attributes.place`); None when it rests on texts alone."""
    value: str | None
    """The attribute's value."""
    class_part: float | None
    """|(I - P_W) u|: share of the direction's length that no class prompt has, 0..1; below 0.3 a cue is dropped."""


@dataclass(frozen=True, kw_only=True)
class Rival(Documented):
    """Strength against one other class."""

    class_name: str
    d: float
    n: int
    """Images of that class."""


@dataclass(frozen=True, kw_only=True)
class Association(Documented):
    """How strongly the class goes with the cue in the data (S1-S4, S6)."""

    rows: str
    """Which rows, in words."""
    d: Estimate
    """D = 2 A - 1, A the mean AUC of the classes that have the cue against those that lack it, along the class-free
    direction; -1..1, positive when the halves agree. For a value: its mean share in the classes that have it minus that
    in the others. Read on the confirmation half alone; n is independent images; the level allows for choosing."""
    replication: float | None
    """D of the cut that the confirmation half would choose, read on the discovery half; never averaged with d."""
    replicated: bool
    """Whether the confirmation half chooses the same classes."""
    corrected: Estimate | None
    """d corrected for the column's known error; None where none was given."""
    d_plain: float | None
    """The same along the direction with its class part; None for an attribute."""
    strength: Strength
    rivals: tuple[Rival, ...]
    """D of each class against all others, largest |D| first; at most 20."""
    p: float
    """Mann-Whitney, one-sided towards the sign that the discovery half chose, on the confirmation half; images of one
    group together."""
    q: float
    """Benjamini-Hochberg over all tests of the audit."""
    p_family: float | None
    """Adjusted for the largest of all directions and cuts, by permuted labels (max-T); None where that was not run."""
    delta: float
    """The minimum effect that was asked for."""
    above_delta: bool
    """Significant, and the whole interval beyond delta."""
    within_delta: bool
    """The interval lies inside +-delta (two one-sided tests at 0.025)."""
    cramers_v: float | None = None
    """Bias-corrected, class x attribute; None without an attribute."""
    odds_ratio: Estimate | None = None
    """Of the value in this class against all others, 1/2 added to each cell."""
    alignment: float | None = None
    """The largest share that one value of the attribute has in the class, 0..1."""


@dataclass(frozen=True, kw_only=True)
class ClassRow(Documented):
    """One class of a finding: whether it has the cue, how strongly, and what to collect."""

    class_name: str
    label: int | str
    has: bool
    """The class is on the side that has the cue; else it lacks it."""
    named: bool
    """The class is on the side with fewer classes, which the finding names."""
    d: Estimate
    """The class against all others along the cue, on the confirmation half; negative where it lacks the cue."""
    n: int
    """Images."""
    independent: int
    """Near-duplicate clusters, or sources."""
    share: Estimate | None
    """Share of the class's images that have the cue; None where only texts say."""
    with_cue: int | None
    """Images of the class with the cue; None where only texts say."""
    without_cue: int | None
    collect: int
    """Images to collect so that the cue no longer goes with the class; 0 for none."""
    collect_value: str | None
    """What those images have to show, such as `not water`."""


@dataclass(frozen=True, kw_only=True)
class CellTable(Documented):
    """Counts of class x cue."""

    source: str
    """`attributes.place`, or `pseudo-attribute` with the texts it was made from."""
    corrected: bool
    """Counts were corrected for the pseudo-attribute's error rates."""
    classes: tuple[str, ...]
    values: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]
    """[class][value]; whole numbers unless corrected."""
    expected: tuple[tuple[float, ...], ...]
    """[class][value] if class and cue had nothing to do with each other."""
    missing: int
    """Images that have no value, or that a pseudo-attribute leaves undecided."""
    purity: float | None = None
    """Share of the images called conflicting that are conflicting, 0..1; None for an attribute."""
    error_rates: tuple[float, float] | None = None
    """A pseudo-attribute's share of wrong values among images without and with the cue; None where unknown."""


@dataclass(frozen=True, kw_only=True)
class Distribution(Documented):
    """Histogram of the cue's scores, by class (and attribute value)."""

    name: str
    class_name: str
    value: str | None
    n: int
    counts: tuple[int, ...]
    """One per bin."""


@dataclass(frozen=True, kw_only=True)
class Distributions(Documented):
    """Score distributions over common bins."""

    label: str
    """What the axis says: the cue's text and head."""
    edges: tuple[float, ...]
    """Bins + 1 numbers."""
    series: tuple[Distribution, ...]
    """The finding's class first, then all others together."""


@dataclass(frozen=True, kw_only=True)
class GroupAccuracy(Documented):
    """Zero-shot accuracy of one class x value group."""

    class_name: str
    value: str | None
    """None for a whole class."""
    n: int
    """Images."""
    independent: int
    """Near-duplicate clusters, or sources: what intervals and limits count."""
    size: Literal["count only", "greyed", "shown", "may gate"]
    """Under 10, 10-29, 30-99, 100 and more independent images (S9)."""
    accuracy: Estimate | None
    """Wilson, simultaneous over the groups; None when there are fewer than 10 images."""
    without: Estimate | None
    """The same with the cue's heads at their means, each image without heads that were chosen on it (S10); None where
    nothing was replaced."""
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
class Evidence(Documented):
    """One item of a candidate's evidence list; never merged with others into one probability."""

    name: str
    """`semantic distance`, `text axis`, `off the object`, `stability`, `shift`, `pseudo-attribute`,
    `predictability`."""
    supports: bool | None
    """Whether it speaks for a shortcut; None when it says nothing either way."""
    value: float | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Need(Documented):
    """What would make an inconclusive verdict conclusive."""

    what: str
    """In words: which cell, which column."""
    images: int | None
    """How many more images; None when it is not a matter of number."""


@dataclass(frozen=True, kw_only=True)
class Predictability(Documented):
    """How well one head's coordinates alone tell the classes apart (S5)."""

    head: str
    skill: Estimate
    """1 - log loss / log loss of the shares, cross-validated; 0 knows nothing, 1 everything."""
    skill_class_free: Estimate
    """The same without the class prompts' part of the head."""
    cue_share: float | None
    """skill_class_free / skill; None when skill is not above 0."""


@dataclass(frozen=True, kw_only=True)
class Stability(Documented):
    """The association in each environment (S12)."""

    by: str
    """`shard`, or the column of the environments."""
    environments: tuple[str, ...]
    d: tuple[Estimate, ...]
    cochran_q: float | None
    p: float | None
    i_squared: float | None
    """Share of the variation between environments beyond chance, 0..1."""


@dataclass(frozen=True, kw_only=True)
class Gallery(Documented):
    """Images that show a finding."""

    aligned: tuple[SampleRef, ...]
    """Classes that have the cue, with it."""
    conflicting: tuple[SampleRef, ...]
    """Those classes without the cue, then other classes with it: where a shortcut fails."""
    least_spurious: tuple[SampleRef, ...]
    """Those classes' images with the lowest scores: what they look like without the cue."""
    drawn: str
    """How the images were chosen, in a sentence."""


def strength_word(d: float) -> Strength:
    """|D| < .1 negligible, .1-.3 small, .3-.5 moderate, > .5 strong."""
    size = abs(d)
    if size < NEGLIGIBLE:
        return "negligible"
    return "small" if size < SMALL else "moderate" if size <= MODERATE else "strong"
