"""The gap: accuracy where the cue points the right way against where it points the wrong way (S9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from clipaudit.arrays import Bools, Float32s, Floats
from clipaudit.cues.reliance.corrected_margin import corrected_rank_difference
from clipaudit.cues.reliance.images import CueCells, RelianceOptions
from clipaudit.cues.reliance.rank_difference import margins, rank_difference
from clipaudit.cues.reliance.score_intervals import cell_accuracies, effective, score_combination
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.intervals import GATE
from clipaudit.cues.statistics.right import right_answers

State: TypeAlias = Literal["able", "at chance", "at the ceiling", "too few"]
ABLE: Final = 0.10
"""The group mean's lower limit must be this far above chance for a gap to say anything."""
_ERRORS: Final = 0.10
"""Share of errors that some cell must have for a gap near 0 to acquit."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """The cue among the classes that have it, or among those that lack it."""

    d: Estimate
    """Margin D towards the classes that have the cue."""
    p: float
    """One-sided, of a D above 0."""


@dataclass(frozen=True, kw_only=True)
class CellScore:
    """One class's images where the cue points right, or wrong."""

    k: int
    """Class, 0..C-1."""
    conflicting: bool
    accuracy: Estimate
    n_effective: float
    """Independent images."""


@dataclass(frozen=True, kw_only=True)
class ClassSize:
    """Independent images of one class of the finding, whether it can be compared or not."""

    k: int
    """Class, 0..C-1."""
    aligned: float
    conflicting: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """AUCs of one label of several, 0..1: how well images that have it are told from those that lack it."""

    aligned: Estimate
    """Among images where the cue points right: with the label and the cue against with neither, of a cue that goes with
    the label."""
    conflicting: Estimate
    """Among images where it points wrong: with the label alone against with the cue alone."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """S9 of one answerer and cue."""

    state: State
    """`at chance`: a gap near 0 says nothing; `at the ceiling`: there are no errors to tell it by."""
    cells: tuple[CellScore, ...]
    """Of the comparable classes."""
    sizes: tuple[ClassSize, ...]
    """Of all classes of the finding."""
    group_mean: Estimate
    """Mean over cells, each counting alike."""
    worst_group: Estimate | None
    """The cell with the lowest accuracy; its limits hold for all cells at once."""
    chance: float
    """1 / classes."""
    gap: Estimate
    """Aligned minus conflicting, 95 %."""
    gap_90: Estimate
    margin_d: Estimate
    margin_d_90: Estimate
    have: Side
    lack: Side
    both_sides: bool
    """Whether the cue moves the margin towards the classes that have it on both sides, each p < .05."""
    corrected_margin_d: Estimate | None = None
    """`margin_d` corrected for the column's known error (S6c), its value None where it cannot be; None where the column
    is taken as it is."""
    ranking: Ranking | None = None
    """Of one label of several: `gap` is the difference of these AUCs, `group_mean` their mean and `worst_group` the
    lower one. None where answers are right or wrong, and the gap is one of accuracies."""

    @property
    def enough_for_a_pass(self) -> bool:
        """Whether every cell has 100 independent images."""
        return bool(self.cells) and all(cell.n_effective >= GATE for cell in self.cells)

    def does_not_hang_on_it(self, options: RelianceOptions) -> bool:
        """S9's acquittal: an able model that makes errors, without a gap, and whose margin ignores the cue."""
        return (
            self.state == "able"
            and inside(self.gap_90, options.margin)
            and inside(self.margin_d_90, options.delta)
            and self.enough_for_a_pass
        )

    def above_margin(self, options: RelianceOptions) -> bool:
        """Whether the gap's lower limit exceeds the margin."""
        return self.gap.low is not None and self.gap.low > options.margin

    def hangs_at_the_ceiling(self, options: RelianceOptions) -> bool:
        """Whether a model without errors has a margin that hangs on the cue by more than delta."""
        known = self.corrected_margin_d
        # wrong values only make a margin D smaller: where it cannot be corrected, its own limit still holds
        low = self.margin_d.low if known is None or known.value is None else known.low
        return self.state == "at the ceiling" and low is not None and low > options.delta


def measure_gap(comparison: CueCells, logits: Float32s, options: RelianceOptions) -> Gap:
    """Gap, margin D and what either may say, of logits (n, C); the classes' weights are those of `comparison`."""
    images = comparison.images
    right = right_answers(logits, images.truth)
    difference = comparison.difference(comparison.shares)
    chance = 1 / images.classes
    group_mean = score_combination(comparison.cells, right, comparison.mean, least=0.0)
    cells = cell_scores(comparison, right)
    scores = margins(logits, images.truth, comparison.cue.pointed)
    whole = rank_difference(comparison, scores, comparison.shares)
    have, lack = both_sides(comparison, scores)
    worst = min(cells, key=lambda cell: cell.accuracy.value or 0.0, default=None)
    error = comparison.cue.error
    return Gap(
        state=state_of(comparison, group_mean, [1 - (cell.accuracy.value or 0.0) for cell in cells], chance),
        cells=tuple(cells),
        sizes=cell_sizes(comparison, right),
        group_mean=group_mean,
        worst_group=None if worst is None else worst.accuracy,
        chance=chance,
        gap=score_combination(comparison.cells, right, difference),
        # a 90 % interval inside the margin is two one-sided tests at 5 % (equivalence)
        gap_90=score_combination(comparison.cells, right, difference, 0.90),
        margin_d=whole.estimate(),
        margin_d_90=whole.estimate(0.90),
        have=have,
        lack=lack,
        # on one side alone the cue may only make images harder (trap 25)
        both_sides=max(have.p, lack.p) < options.alpha,
        corrected_margin_d=None
        if error is None
        else corrected_rank_difference(comparison, scores, error, whole, options.seed),
    )


def both_sides(comparison: CueCells, scores: Floats) -> tuple[Side, Side]:
    """Margin D of scores (n,), of `margins`, among the classes that have the cue, and among those that lack it."""
    have, lack = (rank_difference(comparison, scores, comparison.side(pointed)) for pointed in (True, False))
    return Side(d=have.estimate(), p=have.p), Side(d=lack.estimate(), p=lack.p)


def cell_scores(comparison: CueCells, right: Bools) -> list[CellScore]:
    """Accuracies of the comparable classes' cells, right (n,); all limits hold at once."""
    usable = np.repeat(comparison.comparable, 2)
    accuracies = cell_accuracies(comparison.cells, right, together=int(usable.sum()))
    sizes = effective(comparison.cells, right)
    return [
        CellScore(k=g // 2, conflicting=bool(g % 2), accuracy=accuracies[g], n_effective=float(sizes[g]))
        for g in np.flatnonzero(usable).tolist()
    ]


def cell_sizes(comparison: CueCells, right: Bools) -> tuple[ClassSize, ...]:
    """Independent images of every class of the finding, right (n,)."""
    sizes = effective(comparison.cells, right).reshape(-1, 2)
    return tuple(
        ClassSize(k=k, aligned=float(sizes[k, 0]), conflicting=float(sizes[k, 1]))
        for k in np.flatnonzero(comparison.cue.tested).tolist()
    )


def state_of(comparison: CueCells, group_mean: Estimate, errors: Sequence[float], chance: float) -> State:
    """What the answers can show at all (traps 22 and 23); errors: share of each part that is answered wrong, 0..1."""
    if comparison.images.too_few_sources or not comparison.both_sides_comparable or group_mean.low is None:
        return "too few"
    # who guesses has no gap, whatever the answers hang on
    if group_mean.low <= chance + ABLE:
        return "at chance"
    # without errors no gap can show: the margin must tell
    return "able" if max(errors) >= _ERRORS else "at the ceiling"


def inside(estimate: Estimate, limit: float) -> bool:
    """Whether the whole interval lies inside +-limit."""
    return estimate.low is not None and estimate.high is not None and -limit < estimate.low and estimate.high < limit
