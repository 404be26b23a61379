"""What a result holds beside its findings: the map, tables, shift, controls, hygiene, trust, data and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from clipaudit.cues.result.finding_parts import CellTable, ClassesFrom, Documented, Estimate, SampleRef, Verdict
from clipaudit.cues.result.reliance_parts import Placebo

ColumnKind: TypeAlias = Literal["number", "ordered", "boolean", "text"]


@dataclass(frozen=True, kw_only=True)
class StateRead(Documented):
    """Which state of a run was audited."""

    generation: int
    """The last one that was read, 0 for a run that never grew; each `audit --append` adds one."""
    committed_at: str
    """Time of the last commit that was read, ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class MapPoint(Documented):
    """A point of the 2 x 2 map: association in the data against reliance of the model."""

    finding: str | None
    """Finding id; None for cues that were tested and are no finding."""
    class_name: str
    cue: str
    verdict: Verdict | None
    association: Estimate
    """D, towards the cue's words."""
    reliance: Estimate | None
    """Net difference in differences of CLIP's heads, or its gap where heads say nothing; None when not measured."""


@dataclass(frozen=True, kw_only=True)
class Dropped(Documented):
    """A direction or a column that was not tested, and why."""

    what: str
    head: str | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class AttributeTable(Documented):
    """Class x attribute over the association's rows (S6)."""

    attribute: str
    cells: CellTable
    cramers_v: float | None
    """Bias-corrected, 0..1."""
    p: float | None
    """Of independence: permutation of the untruncated chi-squared, near duplicates together (S6b)."""
    kind: ColumnKind
    """What its values are."""
    tied: bool
    """p <= 0.05 / columns and Cramer's V > 0.1."""
    multi_class_auc: float | None
    """Of a number: mean AUC over all pairs of classes, 0.5 says nothing; None for other columns."""
    d: Estimate | None
    """D of the classes along the column as a whole, its values ordered on the discovery half; None for two values."""
    decided: bool
    """Tied, or every class has 100 independent images with a value: the column is tested well enough for a pass."""
    known_error: float | None
    """Share of wrong values that the user gave, 0..1."""


@dataclass(frozen=True, kw_only=True)
class ClassDifference(Documented):
    """A direction along which classes differ and that is no candidate: real classes differ in everything (S1b)."""

    having: tuple[str, ...]
    """Classes above the cut."""
    lacking: tuple[str, ...]
    text: str
    """Of the head's direction, towards the classes above."""
    head: str
    d: Estimate


@dataclass(frozen=True, kw_only=True)
class SourceFacts(Documented):
    """A column tried as a source of images that are alike (S2b)."""

    name: str
    levels: int
    icc: float
    """Mean intraclass correlation of class-centred embeddings."""
    p: float
    used: bool
    """Errors were widened to those of its levels."""
    rows: int
    """Images that it was tried on, one of each near-duplicate cluster."""


@dataclass(frozen=True, kw_only=True)
class ShiftRow(Documented):
    """One association in two sets of rows (S11): D along a head's direction, or P(value | class) of an attribute."""

    class_name: str
    cue: str
    head: str | None
    """None for an attribute's value, whose share in the class is compared."""
    train: Estimate
    test: Estimate
    difference: Estimate
    """train - test."""
    p: float
    q: float
    shifted: bool
    """q <= 0.05."""


@dataclass(frozen=True, kw_only=True)
class HeadShift(Documented):
    """How a head's mean moves from one set of rows to the other."""

    head: str
    distance: float
    """Length of the difference of means, in units of the head's standard deviation."""
    toward: str
    """The text that the difference points to, from train to test."""
    away: str


@dataclass(frozen=True, kw_only=True)
class Shift(Documented):
    """Two sets of rows compared: two runs, or two splits of one."""

    train: str
    test: str
    rows: tuple[ShiftRow, ...]
    heads: tuple[HeadShift, ...]
    """Largest distance first."""


@dataclass(frozen=True, kw_only=True)
class NegativeControl(Documented):
    """The same audit on permuted labels."""

    audits: int
    mean_findings: float
    share_with_any: float
    """Audits with at least one finding; above `limit` the run is invalid."""
    limit: float
    rows: int
    """Images in each."""
    valid: bool


@dataclass(frozen=True, kw_only=True)
class PositiveControl(Documented):
    """A shift planted into an unused head direction of one class."""

    d: float
    """Planted strength."""
    trials: int
    detected: int
    named: int
    """Detected with the right class as its strongest."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class Controls(Documented):
    """What every report prints beside its findings (S13)."""

    negative: NegativeControl
    positive: tuple[PositiveControl, ...]


@dataclass(frozen=True, kw_only=True)
class ClassFacts(Documented):
    """One class."""

    class_name: str
    label: int | str
    n: int
    """Images in the association's rows."""
    independent: int
    """Near-duplicate clusters among them."""
    tested: bool
    """False when there are too few to test."""
    accuracy: Estimate | None
    """Zero-shot; with classes from captions, how often CLIP's answer is what the caption names."""


@dataclass(frozen=True, kw_only=True)
class Hygiene(Documented):
    """Faults of the data that have nothing to do with cues."""

    unreadable: dict[str, int]
    """Samples that are not ok, by status."""
    unreadable_examples: dict[str, str]
    """One of each status: `SHARD: KEY: what is wrong and what mends it`."""
    failed_shards: int
    """Shards of the run that are not committed."""
    truncated_shards: int
    duplicate_clusters: int
    """Clusters of two or more near-duplicate images: those that `clipaudit duplicates` has found, or else those that
    the audit finds by hash and embedding; never the sources of `--cluster`."""
    duplicate_images: int
    """Images in them."""
    mixed_label_clusters: int
    """Clusters whose images have more than one label."""
    leaked_clusters: int | None
    """Near-duplicate clusters with images in both train and test; None when there is one set of rows only."""
    leaked_examples: tuple[tuple[SampleRef, SampleRef], ...]
    """Of some of them an image of either part, that of the association first."""
    examples: tuple[tuple[SampleRef, ...], ...]
    """Some clusters, largest first."""
    balance: float
    """Smallest class / largest class, 0..1."""


@dataclass(frozen=True, kw_only=True)
class Trust(Documented):
    """How far the findings may be trusted."""

    valid: bool
    """False when a control failed: exit code 4."""
    problems: tuple[str, ...]
    """Why the run is not valid, one sentence each."""
    tests: int
    """(head, direction, class) and (attribute value, class) tests of the family."""
    directions: int
    heads: int
    accuracy: Estimate | None
    """Zero-shot over the counterfactual's rows; with classes from captions, over the association's, how often CLIP's
    answer is what the caption names; None with classes from CLIP, which is always of its own opinion."""
    near_chance: bool
    """Zero-shot accuracy cannot be told from guessing: nothing about reliance can be learnt."""
    mean_source: str | None
    """Images whose means take the place of heads that are taken out (S10)."""
    placebo: Placebo | None
    """How often permuted columns were believed; None where reliance was not measured."""
    level: float
    """Of the intervals of findings: 1 - 0.05 x passed / tested, so that few of those shown miss."""
    sources: tuple[SourceFacts, ...]
    """Columns tried as sources of images that are alike."""
    embedding_share: float
    """Variance of the audited heads' sum relative to the embedding's, 0..1 or somewhat above."""
    limits: tuple[str, ...]
    """What this audit cannot see, one sentence each."""


@dataclass(frozen=True, kw_only=True)
class LeftOut(Documented):
    """Images that were not used because their class is not known."""

    unnamed: int
    """The caption names none of the classes, or is missing."""
    ambiguous: int
    """The caption names more than one class, or CLIP's answer is a name of several."""


@dataclass(frozen=True, kw_only=True)
class Data(Documented):
    """Which rows stand behind what."""

    association: str
    """In words."""
    counterfactual: str | None
    rows: int
    """Images of the association."""
    counterfactual_rows: int
    discovery_rows: int
    confirmation_rows: int
    """Hash halves of the counterfactual's rows."""
    clusters: int
    """Independent groups of near duplicates among the association's images."""
    attributes: tuple[str, ...]
    """The declared columns that were tested."""
    image_properties: tuple[str, ...] = ()
    """The image properties that were tested beside them; empty for a run of before they were measured."""
    evidence: Verdict
    """The strongest verdict that this input allows: confirmed (attributes), candidate (labels), observed (neither)."""
    left_out: LeftOut
    """Beside the images of the association."""
    test_left_out: LeftOut | None
    """Beside the images that these are compared with; None when there is one set of rows only."""


@dataclass(frozen=True, kw_only=True)
class Settings(Documented):
    """What was asked; the same settings and rows give the same findings."""

    alpha: float
    """False discovery rate."""
    delta_warn: float
    delta_fail: float
    directions_per_head: int
    n_min: int
    permutations: int
    random_sets: int
    negative_audits: int
    positive_trials: int
    margin: float
    """Least gap that counts, and most of one that acquits, 0..1."""
    core: tuple[str, ...]
    """Values and columns that the user calls part of the class."""
    clean_labels: bool
    """The user vouches for the labels."""
    seed: int
    pool: str
    """Where texts come from."""
    pool_fingerprint: str
    classes: str
    """Where class names come from."""
    classes_from: ClassesFrom
    """What says which class an image is: `label`, the name in its `caption`, or `clip`'s own answer."""
    several_labels: bool = False
    """Images may have several labels: each is compared with the images without it, and CLIP is not measured."""
    templates: str
    user_texts: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    """Columns that were declared, with their known errors, as they were given."""
    rehearse: bool = True
    """A linear probe was to be trained on the association's images."""
    predictions: tuple[str, ...] = ()
    """The user's models, `NAME=FILE`."""
    scores: str | None = None
    """What the scores of these are; None for probabilities."""
    split: str | None = None
    """Column whose rows with `train` train and are the association's."""
    cluster: str | None = None
    """Column whose equal values are one source."""
    environment: str | None = None
    """Column of environments for the stability of findings; None for shards."""
