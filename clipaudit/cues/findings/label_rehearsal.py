"""The rehearsal of one label of several: a probe of its presence, trained in five ways, and their AUCs (S14)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipaudit.arrays import Float32s
from clipaudit.cues.answerers.rehearsed import RehearsedAnswerer, rehearsed_answerer
from clipaudit.cues.findings.rehearsal_panel import RehearsedValue
from clipaudit.cues.findings.verdicts import high_limit, low_limit
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.rehearsal.arms import ArmAnswers, arm_answers
from clipaudit.cues.rehearsal.experiment import ColumnExperiment, weights_of
from clipaudit.cues.rehearsal.rehearsal import presence_auc
from clipaudit.cues.reliance.gap import ABLE
from clipaudit.cues.reliance.images import CueColumn, ScoredImages, cue_cells
from clipaudit.cues.reliance.rank_difference import rank_difference
from clipaudit.cues.reliance.ranking import CHANCE, Rankings, presence_scores
from clipaudit.cues.reliance.visibility import as_auc
from clipaudit.cues.result.column_words import value_word
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.result.rehearsal_parts import ColumnRehearsal, RehearsalArm, RehearsalPanel, SeedRange
from clipaudit.cues.statistics.balance import balanced_subset, group_codes
from clipaudit.cues.statistics.right import answered


def label_answerer(training: ImageFacts, scored: ImageFacts, *, out_of_fold: bool, seed: int) -> RehearsedAnswerer:
    """A probe of one label, class 0 of two in both sets; see `rehearsed_answerer`.

    L2 is chosen by AUC, since 95 % of answers about a label of 5 % of the images are right without a model.
    """
    return rehearsed_answerer(training, scored, 2, out_of_fold=out_of_fold, seed=seed, choice=presence_auc)


@dataclass(frozen=True, kw_only=True)
class TrainedLabel:
    """What is kept of a label's probe: its features are gigabytes in a large run."""

    training_images: int
    """In a fold."""
    scored_images: int
    out_of_fold: bool
    strengths: tuple[float, ...]
    """C, by fold."""


def trained_label(rehearsed: RehearsedAnswerer) -> TrainedLabel:
    """What a panel says of a probe."""
    return TrainedLabel(
        training_images=rehearsed.rehearsal.training_rows,
        scored_images=len(rehearsed.scored),
        out_of_fold=rehearsed.out_of_fold,
        strengths=tuple(model.strength for model in rehearsed.rehearsal.models),
    )


def label_panel(
    trained: Sequence[TrainedLabel], columns: Sequence[ColumnRehearsal], *, at_hand: int, rows: str
) -> RehearsalPanel:
    """Everything that was trained, of probes of one label each, at least one; rows: of the association, in words."""
    first = trained[0]
    return RehearsalPanel(
        not_rehearsed=None,
        trained_on=rows,
        training_images=first.training_images,
        training_rows_at_hand=at_hand,
        scored_images=first.scored_images,
        out_of_fold=first.out_of_fold,
        strength=float(np.median([strength for each in trained for strength in each.strengths])),
        accuracy=None,
        columns=tuple(columns),
    )


def label_column(
    rehearsed: RehearsedAnswerer,
    images: ScoredImages,
    value: RehearsedValue,
    label: str,
    seed: int,
    experiment: ColumnExperiment | None = None,
) -> ColumnRehearsal:
    """One label's probe trained in every way against one value; experiment: whose weighted model is used again."""
    column, truth = rehearsed.training.attributes[value.column], rehearsed.training.truth
    comparison = cue_cells(images, value.cue.among(answered(rehearsed.logits)))
    has, word = "with" if value.cue.pointed[0] else "without", value_word(value.column, value.word)
    base = ColumnRehearsal(
        attribute=value.column,
        value=value.word,
        classes=f"images {has} `{label}`",
        able=False,
        sentence=(
            f"What a model of {label!r} would learn from {word!r} cannot be told: too few scored images go against it."
        ),
        arms=(),
        curve=None,
        heads=(),
        label=label,
    )
    if not comparison.both_sides_comparable:
        return base
    answers = arm_answers(
        rehearsed.rehearsal,
        truth,
        rehearsed.training.cluster,
        column,
        experiment,
        balanced_subset(group_codes(truth, [column]), seed),
        weights_of(truth, column),
        seed,
    )
    rankings = Rankings(comparison=comparison)
    arms = tuple(_arm(rankings, arm, answers[0], word) for arm in answers)
    aligned = rankings.part(presence_scores(answers[0].logits), 0)
    able = low_limit(aligned) > CHANCE + ABLE
    return replace(base, arms=arms, able=able, sentence=_sentence(arms, able, value.tied, word, label, aligned))


def _arm(rankings: Rankings, arm: ArmAnswers, plain: ArmAnswers, word: str) -> RehearsalArm:
    scores, before = (presence_scores(part.logits) for part in (arm, plain))
    parts = [rankings.part(scores, kind) for kind in (0, 1)]
    worst = min((0, 1), key=lambda kind: parts[kind].value or 0.0)
    mean = rankings.mean(scores)
    means = [mean.value, *(rankings.mean(presence_scores(logits)).value for logits in arm.repeats)]
    known = [value for value in means if value is not None]
    gain = None
    if arm is not plain:
        gain = rankings.change(before, scores, rankings.comparison.mean).estimate()
    return RehearsalArm(
        name=arm.name,
        training_images=arm.training_images,
        average=_whole(rankings.comparison.images, scores),
        group_mean=mean,
        worst_group=parts[worst],
        worst=f"where {word} is missing or misleads" if worst else f"where {word} points right",
        gap=rankings.gap(scores),
        gain=gain,
        cells=(),
        seeds=SeedRange(draws=len(known), low=min(known), high=max(known)) if len(known) > 1 else None,
    )


def _whole(images: ScoredImages, scores: Float32s) -> Estimate:
    """AUC over all images, whatever the cue."""
    whole = replace(images, truth=np.zeros_like(images.truth), classes=1)
    has = CueColumn(
        name="label",
        having=(images.truth == 0).astype(np.int64),
        pointed=np.ones(1, np.bool_),
        tested=np.ones(1, np.bool_),
    )
    return as_auc(rank_difference(cue_cells(whole, has), scores, np.ones(1)))


def _sentence(arms: Sequence[RehearsalArm], able: bool, tied: bool, word: str, label: str, aligned: Estimate) -> str:
    if not able:
        return (
            f"The probe cannot tell images with {label!r} from others, even where the cue points right: what a model"
            " would learn here cannot be told."
        )
    if not tied:
        return (
            f"{word!r} hardly goes with {label!r} among these images: what differs was not learned from it, and"
            " weights change little."
        )
    plain, weights = arms[0], next(arm for arm in arms if arm.name == "group weights")
    conflicting = (aligned.value or 0.0) - (plain.gap.value or 0.0)
    low, high = low_limit(weights.worst_group), high_limit(weights.worst_group)
    sentence = (
        f"Trained on these images as they are, a model ranks {label!r} with AUC {conflicting:.2f} where {word!r}"
        f" is missing or misleads, against {aligned.value or 0.0:.2f} where it points right; with the group weights the"
        f" lower AUC is {weights.worst_group.value or 0.0:.2f} (95 % interval {low:.2f} to {high:.2f})."
    )
    if any(arm.gain is not None and low_limit(arm.gain) > 0 for arm in arms[1:]):
        return sentence
    return f"{sentence} No way of training it is better beyond chance."
