"""The rehearsal of a run as a result: arms, learning curve and heads of every column that goes with classes (S14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.answerers.rehearsed import RehearsedAnswerer
from clipaudit.cues.findings.sentences import listed
from clipaudit.cues.findings.verdicts import high_limit, low_limit
from clipaudit.cues.rehearsal.arms import ArmAnswers, arm_answers, right_of
from clipaudit.cues.rehearsal.experiment import ColumnExperiment, weights_of
from clipaudit.cues.rehearsal.learning_curve import LEAST, CurveFit, learning_curve, to_collect
from clipaudit.cues.reliance.gap import ABLE, measure_gap
from clipaudit.cues.reliance.images import CueCells, CueColumn, RelianceOptions, ScoredImages, cue_cells
from clipaudit.cues.reliance.score_intervals import cell_accuracies, score_combination
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.result.rehearsal_parts import (
    ColumnRehearsal,
    CurvePoint,
    LeanedHead,
    LearningCurve,
    RehearsalArm,
    RehearsalPanel,
    SeedRange,
)
from clipaudit.cues.result.reliance_parts import CellAccuracy
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.balance import balanced_subset, group_codes

MOST_COLUMNS: Final = 3
"""Columns that are rehearsed: of the declared ones, then of image properties, those tied most strongly."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RehearsedValue:
    """The value of a column that is rehearsed."""

    column: str
    value: int
    """Among the training attribute's values."""
    word: str
    cue: CueColumn
    """Of the scored images."""
    tied: bool = True
    """Whether the value goes with classes at all."""
    heads: tuple[LeanedHead, ...] = ()


def not_rehearsed(reason: str, rows: str, scored: int) -> RehearsalPanel:
    """The panel of an audit that trained nothing; rows: of the association, in words."""
    return RehearsalPanel(
        not_rehearsed=reason,
        trained_on=rows,
        training_images=0,
        training_rows_at_hand=0,
        scored_images=scored,
        out_of_fold=False,
        strength=0.0,
        accuracy=None,
        columns=(),
    )


def rehearsal_panel(
    rehearsed: RehearsedAnswerer,
    images: ScoredImages,
    values: Sequence[RehearsedValue],
    names: Sequence[str],
    *,
    at_hand: int,
    rows: str,
    options: RelianceOptions,
    experiments: Mapping[str, ColumnExperiment] | None = None,
) -> RehearsalPanel:
    """Everything that was trained; values: at most `MOST_COLUMNS` of them count, names: of all C classes.

    at_hand: training images before a sample was drawn. experiments: by column, whose weighted models are used again.
    """
    return RehearsalPanel(
        not_rehearsed=None,
        trained_on=rows,
        training_images=rehearsed.rehearsal.training_rows,
        training_rows_at_hand=at_hand,
        scored_images=len(rehearsed.scored),
        out_of_fold=rehearsed.out_of_fold,
        strength=float(np.median([model.strength for model in rehearsed.rehearsal.models])),
        accuracy=_average(images, right_of(rehearsed.logits, images.truth)),
        columns=tuple(
            _column(rehearsed, images, value, names, options, (experiments or {}).get(value.column))
            for value in values[:MOST_COLUMNS]
        ),
    )


def _column(
    rehearsed: RehearsedAnswerer,
    images: ScoredImages,
    value: RehearsedValue,
    names: Sequence[str],
    options: RelianceOptions,
    experiment: ColumnExperiment | None,
) -> ColumnRehearsal:
    column, truth = rehearsed.training.attributes[value.column], rehearsed.training.truth
    comparison = cue_cells(images, value.cue)
    having = np.array([name for name, has in zip(names, value.cue.pointed, strict=True) if has])
    base = ColumnRehearsal(
        attribute=value.column,
        value=value.word,
        classes=listed(having.tolist()),
        able=False,
        sentence="",
        arms=(),
        curve=None,
        heads=value.heads,
    )
    conflicts = _conflicts(value, column, truth)
    against = int((conflicts == 1).sum())
    if not comparison.comparable.any():
        return _replaced(base, sentence=_too_few(value, against))
    exported = balanced_subset(group_codes(truth, [column]), options.seed)
    answers = arm_answers(
        rehearsed.rehearsal,
        truth,
        rehearsed.training.cluster,
        column,
        experiment,
        exported,
        weights_of(truth, column),
        options.seed,
    )
    arms = tuple(_arm(comparison, arm, answers[0], value, names, options) for arm in answers)
    able = _able(comparison, right_of(answers[0].logits, images.truth))
    fit = None
    if able and value.tied:
        fit = learning_curve(rehearsed.rehearsal, comparison, conflicts, rehearsed.training.cluster, options.seed)
    curve = None if fit is None else _curve(fit, value)
    return _replaced(base, able=able, arms=arms, curve=curve, sentence=_sentence(arms, able, curve, value, against))


def _replaced(
    base: ColumnRehearsal,
    *,
    sentence: str,
    able: bool = False,
    arms: tuple[RehearsalArm, ...] = (),
    curve: LearningCurve | None = None,
) -> ColumnRehearsal:
    return ColumnRehearsal(
        attribute=base.attribute,
        value=base.value,
        classes=base.classes,
        able=able,
        sentence=sentence,
        arms=arms,
        curve=curve,
        heads=base.heads if able else (),
    )


def _conflicts(value: RehearsedValue, column: Attribute, truth: Ints) -> Ints:
    """(n,) 1 for training images where the cue points to another class, 0 where it points to theirs, -1 for others."""
    having = np.where(column.codes < 0, -1, (column.codes == value.value).astype(np.int64))
    cue = CueColumn(name=value.column, having=having, pointed=value.cue.pointed, tested=value.cue.tested)
    return cue.conflicting(truth)


def _able(comparison: CueCells, right: Bools) -> bool:
    """Whether images where the cue points the right way are answered above chance: who cannot even do that, whether by
    the class or by the cue, has learned nothing."""
    aligned = score_combination(comparison.cells, right, comparison.part(comparison.shares, 0), least=0.0)
    return aligned.low is not None and aligned.low > 1 / comparison.images.classes + ABLE


# -- arms --------------------------------------------------------------------------------------------------------------


def _average(images: ScoredImages, right: Bools) -> Estimate:
    """Accuracy over all images, near duplicates sharing the weight of one."""
    cells = images.cells(np.zeros(len(images.truth), np.int64), 1)
    return cell_accuracies(cells, right)[0]


def _arm(
    comparison: CueCells,
    arm: ArmAnswers,
    plain: ArmAnswers,
    value: RehearsedValue,
    names: Sequence[str],
    options: RelianceOptions,
) -> RehearsalArm:
    images = comparison.images
    gap = measure_gap(comparison, arm.logits, options)
    right, before = right_of(arm.logits, images.truth), right_of(plain.logits, images.truth)
    worst = min(gap.cells, key=lambda cell: cell.accuracy.value or 0.0)
    change = right.astype(np.float64) - before.astype(np.float64)
    gain = None if arm is plain else comparison.cells.combine(change, comparison.mean).estimate()
    means = [gap.group_mean.value, *(measure_gap(comparison, part, options).group_mean.value for part in arm.repeats)]
    known = [mean for mean in means if mean is not None]
    return RehearsalArm(
        name=arm.name,
        training_images=arm.training_images,
        average=_average(images, right),
        group_mean=gap.group_mean,
        worst_group=worst.accuracy,
        worst=_cell_words(names[worst.k], worst.conflicting, bool(value.cue.pointed[worst.k]), value.word),
        gap=gap.gap,
        gain=gain,
        cells=tuple(
            CellAccuracy(class_name=names[cell.k], conflicting=cell.conflicting, accuracy=cell.accuracy)
            for cell in gap.cells
        ),
        seeds=SeedRange(draws=len(known), low=min(known), high=max(known)) if len(known) > 1 else None,
    )


def _cell_words(name: str, conflicting: bool, pointed: bool, word: str) -> str:
    """`waterbird without water`."""
    return f"{name} {'with' if pointed != conflicting else 'without'} {word}"


# -- the curve ---------------------------------------------------------------------------------------------------------


def _curve(fit: CurveFit, value: RehearsedValue) -> LearningCurve:
    at_hand = fit.at_hand
    answer = to_collect(fit)
    points = tuple(
        CurvePoint(
            conflicting=int(size),
            group_mean=float(fit.group_mean[z]),
            worst_group=float(fit.worst[z]),
            shortfall=Estimate(
                value=float(fit.shortfall[z]), low=float(fit.low[z]), high=float(fit.high[z]), n=int(size)
            ),
        )
        for z, size in enumerate(fit.sizes.tolist())
    )
    against = f"images that go against {value.word!r}"
    if answer is None:
        sentence = (
            f"How many more {against} would bring the worst group within 5 points of the group mean is more than can be"
            f" told from the {at_hand:,} at hand."
        )
    elif answer[0] == 0:
        more = f"; it may take up to {answer[2]:,} more" if answer[2] else ""
        sentence = f"With the {at_hand:,} {against} at hand the worst group is within 5 points of the group mean{more}."
    else:
        sentence = (
            f"The worst group would be within 5 points of the group mean at about {answer[0]:,} more {against}"
            f" ({answer[1]:,} to {answer[2]:,}), of the same classes as the {at_hand:,} at hand."
        )
    collect, low, high = answer if answer is not None else (None, None, None)
    return LearningCurve(points=points, at_hand=at_hand, collect=collect, low=low, high=high, sentence=sentence)


# -- sentences ---------------------------------------------------------------------------------------------------------


def _too_few(value: RehearsedValue, against: int) -> str:
    return (
        f"What a model would learn from {value.word!r} cannot be told: too few scored images go against it"
        f" ({against:,} training images do). Collect at least 30 of each class."
    )


def _sentence(
    arms: Sequence[RehearsalArm], able: bool, curve: LearningCurve | None, value: RehearsedValue, against: int
) -> str:
    plain = arms[0]
    if not able:
        return (
            "The probe cannot tell the classes, even where the cue points the right way: what a model would learn here"
            " cannot be told."
        )
    if not value.tied:
        return (
            f"{value.word!r} hardly goes with any class among these images: what differs between groups was not learned"
            " from it, and weights change little."
        )
    parts = [
        f"Trained on these images as they are, a model answers {_percent(plain.worst_group)} of {plain.worst} right"
        f" ({_percent(plain.group_mean)} over all groups)"
    ]
    cures = [arm for arm in arms[1:] if arm.gain is not None and (arm.gain.low or 0.0) > 0]
    # one way to train, named beforehand: the best of several looks better than it is
    weights = next((arm for arm in arms if arm.name == "group weights"), None)
    if weights is not None:
        worst = weights.worst_group
        interval = f"{100 * low_limit(worst):.0f} to {100 * high_limit(worst):.0f}"
        parts.append(f"with the group weights its worst group is at {_percent(worst)} (95 % interval {interval})")
    sentence = f"{'; '.join(parts)}."
    if not cures:
        sentence += " No way of training it is better beyond chance."
    elif weights not in cures:
        sentence += " That may be chance; another way of training is better beyond it."
    if curve is not None:
        return f"{sentence} {curve.sentence}"
    return (
        f"{sentence} Only {against:,} training images go against {value.word!r}: how many more are needed cannot be"
        f" told; collect at least {max(30 - against, LEAST):,}."
    )


def _percent(estimate: Estimate) -> str:
    return f"{100 * (estimate.value or 0):.0f} %"
