"""What may be said of an answerer and a cue, from numbers alone (docs/method.md 8, without the association)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipaudit.cues.reliance.adjusted_gap import AdjustedGap
from clipaudit.cues.reliance.gap import Gap, inside
from clipaudit.cues.reliance.images import RelianceOptions
from clipaudit.cues.reliance.label_noise import NoiseRate
from clipaudit.cues.reliance.specific_effect import SpecificEffect
from clipaudit.cues.reliance.training_effect import TrainingEffect
from clipaudit.cues.reliance.visibility import VISIBLE
from clipaudit.cues.result.finding_parts import Estimate


@dataclass(frozen=True, kw_only=True)
class MeasuredReliance:
    """One cue and one answerer: everything that a verdict rests on."""

    cue: str
    answerer: str
    options: RelianceOptions
    gap: Gap
    gap_p: float
    """One-sided, adjusted over findings and answerers by step-down max-T under permuted columns."""
    label_noise: NoiseRate
    adjusted: tuple[AdjustedGap, ...]
    effect: SpecificEffect | None
    """Heads taken out; None for an answerer whose heads cannot be."""
    effect_p: float
    """Of the DiD, or of the fall of the gap when trained again, as `gap_p`; 1 without an effect."""
    training: TrainingEffect | None = None
    """What training again with group weights does; None for an answerer that was not trained on this run."""
    needed_effect: SpecificEffect | None
    """Heads chosen whatever the group mean loses; None where that is not asked."""
    needed_p: float
    """Of its DiD inside the classes that have the cue."""
    corrected_gap: Estimate | None = None
    """The gap corrected for the column's known error (S6c), its value None where it cannot be; None where the column is
    taken as it is."""

    @property
    def explained_by(self) -> tuple[str, ...]:
        """Columns that explain the gap (S9b)."""
        return tuple(part.column for part in self.adjusted if part.explains)

    @property
    def inseparable_from(self) -> tuple[str, ...]:
        """Columns that cannot be told from the cue (S9b): what is said of it is said of "this, or that"."""
        return tuple(part.column for part in self.adjusted if part.inseparable)

    @property
    def hangs_on_it(self) -> bool:
        """S9 and S9b: a gap above the margin, or a margin that hangs on the cue without errors; on both sides; and not
        explained by another column.

        Also of a model at chance: one that answers by the cue alone is right in half of its images, and only a gap near
        0 says nothing there.
        """
        if self.gap.state == "too few" or not self.gap.both_sides or self.explained_by:
            return False
        # at the ceiling no errors make a gap, and the margin decides in its place (trap 23)
        return self.gap.above_margin(self.options) or self.gap.hangs_at_the_ceiling(self.options)

    @property
    def visible(self) -> bool:
        """S10b: the chosen heads, or the embedding of a trained probe, show the cue; else no verdict of reliance."""
        seen = self.effect or self.training
        return seen is not None and _low(seen.visibility.low) > VISIBLE

    @property
    def because_of_it(self) -> bool:
        """S10 or S10r, S10b and S10c: taking the cue out mends the conflicting images beyond controls, or weighting the
        training images makes the gap fall by more than weights of permuted columns do."""
        effect = self.effect or self.training
        return effect is not None and effect.specific and self.visible and self.effect_p < self.options.alpha

    @property
    def relies_on_it(self) -> bool:
        """What `confirmed shortcut` asks of this answerer."""
        return self.hangs_on_it and self.because_of_it

    @property
    def fails_where(self) -> bool:
        """What `fails where the cue is missing` asks: a gap above the margin on both sides, that neither another column
        nor wrong labels nor chance explain."""
        return (
            self.hangs_on_it
            # at the ceiling `hangs_on_it` holds by the margin alone, and nothing fails
            and self.gap.above_margin(self.options)
            and self.label_noise.counts
            and self.gap_p < self.options.alpha
        )

    @property
    def needed(self) -> bool:
        """What `needed` asks: without the heads images with the cue lose more than those without, beyond controls.

        On both sides, not explained by another column, and not by wrong labels: those lose nothing where heads that
        tell the classes are taken out, whatever the cue is.
        """
        effect = self.needed_effect
        return (
            effect is not None
            and self.gap.state != "too few"
            and self.gap.both_sides
            and not self.explained_by
            and self.label_noise.counts
            and effect.hurts_with_the_cue
            and _low(effect.visibility.low) > VISIBLE
            and self.needed_p < self.options.alpha
        )

    @property
    def believed(self) -> bool:
        """Whether any verdict of reliance holds, whatever the column's tie to the classes is (S10d)."""
        return self.relies_on_it or self.fails_where or self.needed

    @property
    def does_not_hang_on_it(self) -> bool:
        """S9's acquittal of this answerer; wrong values hide a gap and a margin D, so that the corrected ones must be
        small, too."""
        corrected = ((self.corrected_gap, self.options.margin), (self.gap.corrected_margin_d, self.options.delta))
        small = all(estimate is None or inside(estimate, limit) for estimate, limit in corrected)
        return small and self.gap.does_not_hang_on_it(self.options)


@dataclass(frozen=True, kw_only=True)
class PlaceboDraws:
    """How often permuted columns are believed (S10d)."""

    draws: int
    cues: int
    answerers: int
    rows: int
    """Images of the permutations."""
    believed_by: Mapping[str, int]
    """Answerer -> draws x cues with a verdict of reliance."""
    draws_with_any: int

    @property
    def believed(self) -> int:
        """Draws x cues x answerers with a verdict of reliance."""
        return sum(self.believed_by.values())

    @property
    def rate(self) -> float:
        """Share of permuted columns that are believed by an answerer, 0..1."""
        return self.believed / max(self.draws * self.cues * self.answerers, 1)

    @property
    def rate_of_any(self) -> float:
        """Share of permuted reports with any verdict of reliance."""
        return self.draws_with_any / max(self.draws, 1)


@dataclass(frozen=True, kw_only=True)
class RelianceReport:
    """All cues and answerers."""

    findings: tuple[tuple[MeasuredReliance, ...], ...]
    """By cue, then by answerer, in the order given."""
    placebo: PlaceboDraws | None
    """None without draws."""


def _low(limit: float | None) -> float:
    return -1.0 if limit is None else limit
