"""The options of a spurious-cue audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from clipaudit.cues.result.finding_parts import ClassesFrom
from clipaudit.errors import UsageError
from clipaudit.schema import as_paths, as_tuples

_MIN_PERMUTATIONS: Final = 199
"""With fewer, no adjusted p-value could be 0.005."""


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Every choice that changes a result.

    Raises UsageError for a value out of its range, naming the option.

    >>> AuditOptions(attributes=("place",), where=("split = train",)).alpha
    0.05
    """

    classes: str | None = None
    """File of class names; None for `classnames.txt` beside the shards, or the run's labels."""
    classes_from: ClassesFrom | None = None
    """What says which class an image is: its `label`, the name in its `caption`, or `clip`'s own answer; None for
    labels where the run has them, else captions. Without labels a finding is `observed` and never more."""
    templates: str = "imagenet"
    """Prompt templates: `imagenet`, `simple`, `single` or a file."""
    texts: str | None = None
    """Text file with properties and kinds; None for the model's own words if its vocabulary is small, else the pool
    that comes with clipaudit."""
    user_texts: tuple[str, ...] = ()
    """Cues that a user suspects; tested in every head, whatever their kind."""
    attributes: tuple[str, ...] = ()
    """Columns that say which images have a cue: `place` or `attributes.place`; with `place:error=0.1` a known share of
    its values is wrong, with `place:error=0.1/250` one that was measured on 250 images (S6c)."""
    core: tuple[str, ...] = ()
    """Values or columns that are part of the class, by the user's word: never `needed`, and no explanation of a gap."""
    margin: float = 0.05
    """Minimum gap in accuracy that counts, and the largest that acquits, as a share 0..0.5 (S9)."""
    clean_labels: bool = False
    """The user vouches for the labels: a gap alone is evidence, whatever label noise would explain it (S9c)."""
    rehearse: bool = True
    """Train a linear probe on the association's images, and measure what it relies on and what mends it (S14)."""
    predictions: tuple[str, ...] = ()
    """The user's models as `NAME=FILE`: tables with `key` or `shard` and `key`, and `label`, or `score:CLASS` of each
    class."""
    scores: Literal["probability", "percent", "logit"] | None = None
    """What the scores of `predictions` are; None for probabilities, which must sum to 1."""
    cluster: str | None = None
    """Column whose equal values are one source; None takes the run's table of near duplicates or, without one, those
    that the audit finds (S2b), and a source that it finds."""
    environment: str | None = None
    """Column of environments for the stability of findings; None for shards."""
    split: str | None = None
    """Column with the value `train`: those rows train and are the association's, all others are scored."""
    where: tuple[str, ...] = ()
    """Filters of the rows of the association, such as `split=train`; see `clipaudit.run.filters`."""
    test_where: tuple[str, ...] = ()
    """Filters of the rows that are scored with and without a cue; by default those of the association."""
    alpha: float = 0.05
    """False discovery rate, 0..1 (S3)."""
    delta_warn: float = 0.2
    """Minimum |D| of a finding (S4)."""
    delta_fail: float = 0.4
    """Minimum |D| along a candidate's own text, and of what may fail a gate."""
    directions: int = 20
    """Texts tested in each head."""
    n_min: int = 30
    """Images that a group needs to be the worst (S8)."""
    permutations: int = 199
    """Permutations of the labels for the largest statistic (S3): at least 199, or 0 for none."""
    random_sets: int = 200
    """Random head sets as controls of each counterfactual (S10): at least 200."""
    negative_audits: int = 20
    """Audits on permuted labels (S13)."""
    positive_trials: int = 20
    """Planted shifts at each strength (S13)."""
    max_findings: int = 50
    seed: int = 0
    """Of all random choices: the same seed and rows give the same result."""

    def __post_init__(self) -> None:
        as_tuples(self, "user_texts", "attributes", "core", "where", "test_where", "predictions")
        words = ("true", "false")  # as booleans are stored
        core = tuple(word.lower() if word.lower() in words else word for word in self.core)
        object.__setattr__(self, "core", core)
        as_paths(self, "classes", "templates", "texts")
        for name, low in (
            ("directions", 1),
            ("n_min", 1),
            ("random_sets", 200),
            ("negative_audits", 0),
            ("positive_trials", 0),
            ("max_findings", 1),
        ):
            if getattr(self, name) < low:
                raise UsageError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if self.classes_from not in (None, *get_args(ClassesFrom)):
            raise UsageError(f"--classes-from {self.classes_from!r} is not understood: use label, caption or clip")
        if self.scores not in (None, "probability", "percent", "logit"):
            raise UsageError(f"--scores {self.scores!r} is not understood: use probability, percent or logit")
        if self.permutations != 0 and self.permutations < _MIN_PERMUTATIONS:
            raise UsageError(f"permutations must be 0 or at least {_MIN_PERMUTATIONS}, not {self.permutations}")
        if not 0 < self.margin < 0.5:
            raise UsageError(f"--margin must be above 0 and below 0.5, not {self.margin:g}")
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha must be above 0 and below 1, not {self.alpha:g}")
        if not 0 < self.delta_warn <= self.delta_fail < 1:
            raise UsageError(
                f"the minimum effects must be 0 < warn <= fail < 1, not {self.delta_warn} and {self.delta_fail}"
            )
