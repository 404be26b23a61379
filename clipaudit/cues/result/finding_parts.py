"""What a finding is made of: estimates, cues, associations, tables, evidence, samples.

Every class here becomes JSON through pydantic; the docstrings below the fields are the published schema's descriptions.
Shares and strengths are plain numbers (0..1, -1..1), never percent. None where there is nothing to say, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal, TypeAlias

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
    """What may be said of a cue, strongest evidence first (docs/method.md 8)."""

    CONFIRMED = "confirmed shortcut"
    MODEL_ONLY = "model shortcut, not in this data"
    DATA_ONLY = "data shortcut, CLIP immune"
    CORE = "core"
    CANDIDATE = "candidate"
    OBSERVED = "observed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Estimate(Documented):
    """A number with its interval."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Images behind it."""
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
    """D = 2 A - 1 along the class-free direction, A the mean AUC of the class against each other class; -1..1, made
    positive towards the cue's words. For an attribute: its share in the class minus its mean share in the others."""
    d_plain: float | None
    """The same along the direction with its class part; None for an attribute."""
    strength: Strength
    rivals: tuple[Rival, ...]
    """D against each other class, largest |D| first; at most 20."""
    p: float
    """Mann-Whitney, two-sided, normal tails; by blocks of near duplicates where there are any."""
    q: float
    """Benjamini-Hochberg over all tests of the audit."""
    p_family: float | None
    """Adjusted for the largest |z| of all tests, by permuted labels (max-T); None where that was not run."""
    delta: float
    """The minimum effect that was asked for."""
    above_delta: bool
    """q <= 0.05 and the whole interval beyond delta."""
    within_delta: bool
    """The interval lies inside +-delta (two one-sided tests at 0.025)."""
    cramers_v: float | None = None
    """Bias-corrected, class x attribute; None without an attribute."""
    odds_ratio: Estimate | None = None
    """Of the value in this class against all others, 1/2 added to each cell."""
    alignment: float | None = None
    """The largest share that one value of the attribute has in the class, 0..1."""


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
    """The class with the cue, highest scores first."""
    conflicting: tuple[SampleRef, ...]
    """The class without the cue, and other classes with it: where a shortcut fails."""
    least_spurious: tuple[SampleRef, ...]
    """The class's images with the lowest scores: what it looks like without the cue."""


def strength_word(d: float) -> Strength:
    """The size of a strength in a word: |D| < .1 negligible, .1-.3 small, .3-.5 moderate, > .5 strong (S1)."""
    size = abs(d)
    if size < NEGLIGIBLE:
        return "negligible"
    return "small" if size < SMALL else "moderate" if size <= MODERATE else "strong"
