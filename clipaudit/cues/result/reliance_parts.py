"""How far an answerer hangs on a cue, as a result: gap, margin D, label noise, other columns, effect (S9, S10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from clipaudit.cues.result.finding_parts import Documented, Estimate, SampleRef, Verdict

AnswererState: TypeAlias = Literal["able", "at chance", "at the ceiling", "too few"]


@dataclass(frozen=True, kw_only=True)
class CellAccuracy(Documented):
    """One class's images where the cue points to their class, or away from it."""

    class_name: str
    conflicting: bool
    accuracy: Estimate
    """Score interval, simultaneous over the cells; n is independent images."""


@dataclass(frozen=True, kw_only=True)
class CellExamples(Documented):
    """Some of one class's scored images where the cue points to their class, or away from it."""

    class_name: str
    conflicting: bool
    images: tuple[SampleRef, ...]
    """`predicted` is the answerer's answer. Drawn at random, of the first m for every m as many right as of all."""


@dataclass(frozen=True, kw_only=True)
class CueSide(Documented):
    """The cue among the classes that have it, or among those that lack it."""

    d: Estimate
    """Rank D of the margin towards the classes that have the cue, with the cue against without it, inside classes."""
    p: float
    """One-sided."""


@dataclass(frozen=True, kw_only=True)
class LabelNoise(Documented):
    """How many wrong labels would explain the gap (S9c)."""

    rate: float | None
    """Share of wrong labels, 0..1, at which the gap would vanish; None when no share up to 30 % does it."""
    rate_low: float | None
    """The same for the gap's lower limit."""
    needed: float
    """`rate_low` must exceed this for a gap alone to count."""
    counts: bool
    """Whether a gap alone is evidence."""


@dataclass(frozen=True, kw_only=True)
class OtherColumnGap(Documented):
    """The gap with another declared column held fixed (S9b)."""

    column: str
    phi: float
    """Correlation of cue and column inside classes, 0..1."""
    gap: Estimate
    """Of the cue inside class x bin of the column."""
    other: Estimate
    """Of the column inside class x cue."""
    p: float | None
    explains: bool
    """Nothing is left of the cue, and something of the column."""
    inseparable: bool
    """The two cannot be told apart in these images."""


@dataclass(frozen=True, kw_only=True)
class DosePoint(Documented):
    """A part of the heads' deviation removed."""

    alpha: float
    """0 nothing, 1 the whole."""
    gap: Estimate
    aligned: Estimate
    conflicting: Estimate


@dataclass(frozen=True, kw_only=True)
class Arm(Documented):
    """One way to take the cue out of the embedding."""

    name: Literal["whole heads", "direction only", "text in all heads"]
    """`whole heads` decides; the others are shown beside it."""
    did: Estimate
    """Fall of the gap: change on conflicting minus change on aligned images, inside classes."""
    net_did: Estimate | None
    """The same minus what the arm's controls do; None without such a control."""
    delta_conflict: Estimate | None
    """Rise of the accuracy on conflicting images; None where only the gap was measured."""


@dataclass(frozen=True, kw_only=True)
class Counterfactual(Documented):
    """What taking heads out does to conflicting images beyond aligned ones of the same class, net of controls (S10).

    Direct effects of heads on the class token.
    """

    heads: tuple[str, ...]
    """Of all fits; named only where their effect could be compared with that of other heads."""
    heads_named: bool
    gap_before: Estimate
    gap_after: Estimate
    did: Estimate
    """Fall of the gap when the heads are taken out."""
    net_did: Estimate
    """The same minus what the controls do: the headline."""
    conflict_rise: Estimate
    net_conflict_rise: Estimate
    aligned_change: Estimate
    group_mean_change: Estimate
    p: float
    """Of the DiD, over findings and answerers, step-down max-T under permuted columns."""
    control: Literal["matched head sets", "random directions", "none"]
    control_sets: int
    control_band: tuple[float, float] | None
    """2.5 % and 97.5 % of the controls' DiD: how much of the gap closes by chance."""
    matched: str
    visibility: Estimate
    """AUC of the cue from the chosen heads inside classes, on images that did not choose them (S10b)."""
    doses: tuple[DosePoint, ...]
    arms: tuple[Arm, ...]
    """`whole heads` first."""


@dataclass(frozen=True, kw_only=True)
class TrainingExperiment(Documented):
    """What training a probe again with group weights does to the gap, against weights of permuted columns (S10r)."""

    gap_before: Estimate
    """Trained on the images as they are."""
    gap_after: Estimate
    """Trained with the weights of class x column that the report exports."""
    fall: Estimate
    """Before minus after, paired over the scored images."""
    net_fall: Estimate
    """The same minus the mean fall under permuted columns: the headline."""
    conflict_rise: Estimate
    group_mean_change: Estimate
    p: float
    """Of the fall, over findings and answerers, step-down max-T under permuted columns."""
    draws: int
    """Columns permuted inside classes, near duplicates together, and trained again with their weights."""
    band: tuple[float, float]
    """2.5 % and 97.5 % of the permuted columns' falls."""
    highest: float
    """Largest fall under a permuted column."""
    training_rows: int
    """Training images of the draws: all, or a sample of at most 5,000."""
    visibility: Estimate
    """AUC of the cue in the embedding inside classes, on images that did not teach it (S10b)."""


@dataclass(frozen=True, kw_only=True)
class LabelRanking(Documented):
    """How well a probe of one label of several tells images with it from images without, 0..1 (AUC)."""

    aligned: Estimate
    """Among images where the cue points right: with the label and the cue against with neither, of a cue that goes with
    the label."""
    conflicting: Estimate
    """Among images where it points wrong: with the label alone against with the cue alone."""


@dataclass(frozen=True, kw_only=True)
class Reliance(Documented):
    """One answerer and one cue: its numbers and its verdict."""

    answerer: str
    """`clip`, `rehearsed`, or `given:NAME` for predictions of the user's model NAME."""
    verdict: Verdict
    sentence: str
    """The verdict in plain words, with the answerer's name."""
    state: AnswererState
    """What its answers can show at all."""
    cells: tuple[CellAccuracy, ...]
    group_mean: Estimate
    chance: float
    gap: Estimate
    """Accuracy where the cue points the right way minus where it points the wrong way, inside classes; where `ranking`
    is given the difference of its AUCs, `group_mean` being their mean and `chance` 0.5."""
    gap_90: Estimate
    """The same at 90 %, for "does not hang on it"."""
    gap_p: float
    margin_d: Estimate
    margin_d_90: Estimate
    have: CueSide
    lack: CueSide
    both_sides: bool
    label_noise: LabelNoise
    adjusted: tuple[OtherColumnGap, ...]
    explained_by: tuple[str, ...]
    inseparable_from: tuple[str, ...]
    does_not_hang_on_it: bool
    corrected_gap: Estimate | None
    """Corrected for the column's known error; None where none was given."""
    effect: Counterfactual | None
    """None for an answerer whose heads cannot be taken out."""
    training: TrainingExperiment | None = None
    """None for an answerer that was not trained on this run's images."""
    ranking: LabelRanking | None = None
    """Of one label of several; `cells` are then those of the answers at the cut where images with the label and without
    it are answered alike well. None where answers are right or wrong by themselves."""
    examples: tuple[CellExamples, ...] = ()
    """Images of the cells that show the cue's effect best; empty but for the answerer that the verdict is of."""


@dataclass(frozen=True, kw_only=True)
class AnswererPlacebo(Documented):
    """How often one answerer's permuted columns get a verdict of reliance (S10d)."""

    answerer: str
    believed: int
    tried: int
    """Draws x cues."""
    rate: float
    """believed / tried, 0..1."""


@dataclass(frozen=True, kw_only=True)
class Placebo(Documented):
    """How often permuted columns get a verdict of reliance in this report (S10d)."""

    draws: int
    cues: int
    answerers: int
    rows: int
    """Images that the permutations were made on."""
    believed: int
    rate: float
    """Share of permuted columns with a verdict of reliance of some answerer, 0..1: the whole rule (S9, S10, S10r), each
    held against all other draws, whatever its tie to the classes."""
    rate_of_any: float
    """Share of permuted reports with any such verdict."""
    by_answerer: tuple[AnswererPlacebo, ...]
    """The same for each answerer by itself: each has rules of its own."""
