"""How far a probe of one label of several hangs on cues: AUC gaps, and training again with weights (S9, S10r)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipaudit.arrays import Float32s, Float64s
from clipaudit.cues.answerers.answerer import Answerer
from clipaudit.cues.reliance.adjusted_gap import adjusted_gap
from clipaudit.cues.reliance.column_test import step_down
from clipaudit.cues.reliance.drawn_columns import draw_places
from clipaudit.cues.reliance.images import CueColumn, OtherColumn, RelianceOptions, ScoredImages, cue_cells
from clipaudit.cues.reliance.label_noise import ranking_noise
from clipaudit.cues.reliance.ranking import (
    CHANCE,
    Rankings,
    balanced_answers,
    drawn_gaps,
    measure_ranking,
    presence_scores,
)
from clipaudit.cues.reliance.rules import MeasuredReliance
from clipaudit.cues.reliance.training_effect import RetrainedAnswers, TrainingEffect, training_effect
from clipaudit.cues.statistics.cluster_sample import cluster_sample
from clipaudit.cues.statistics.right import answered


def label_reliance(
    answerer: Answerer,
    cues: Sequence[CueColumn],
    images: ScoredImages,
    retrained: Sequence[RetrainedAnswers],
    *,
    columns: Sequence[OtherColumn] = (),
    options: RelianceOptions | None = None,
    labels: int = 1,
) -> tuple[MeasuredReliance, ...]:
    """One label's reliance on each cue, in their order.

    answerer: logits (n, 2) of the n images, those with the label being class 0. retrained: for every cue the scores
    before and after training again with weights. columns: that may explain a gap (S9b), which is asked of the answers
    at the cut where images with the label and without it are answered alike well. labels: how many are measured; p is
    step-down max-T over the cues of one, times their number (Bonferroni).
    """
    options = RelianceOptions() if options is None else options
    own = [cue.among(answered(answerer.logits)) for cue in cues]
    comparisons = [cue_cells(images, cue) for cue in own]
    scores = presence_scores(answerer.logits)
    gap_p = _adjusted(_gaps(own, images, scores, labels, options), labels)
    effects = [
        training_effect(comparison, answers, Rankings(comparison=comparison))
        if comparison.both_sides_comparable
        else None
        for comparison, answers in zip(comparisons, retrained, strict=True)
    ]
    effect_p = _effects(effects, labels)
    right = balanced_answers(scores, images.truth == 0, images.weight)
    found = []
    for f, comparison in enumerate(comparisons):
        gap = measure_ranking(comparison, answerer.logits, options)
        aligned = CHANCE if gap.ranking is None or gap.ranking.aligned.value is None else gap.ranking.aligned.value
        found.append(
            MeasuredReliance(
                cue=comparison.cue.name,
                answerer=answerer.name,
                options=options,
                gap=gap,
                gap_p=float(gap_p[f]),
                label_noise=ranking_noise(comparison, aligned, gap.gap.value or 0.0, gap.gap.low or 0.0, options),
                adjusted=tuple(
                    adjusted_gap(comparison, right, column, options.seed, options.margin)
                    for column in columns
                    if comparison.cue.name not in column.of
                ),
                effect=None,
                effect_p=float(effect_p[f]),
                training=effects[f],
                needed_effect=None,
                needed_p=1.0,
            )
        )
    return tuple(found)


def _gaps(
    cues: Sequence[CueColumn], images: ScoredImages, scores: Float32s, labels: int, options: RelianceOptions
) -> Float64s:
    """(1 + R, F) AUC gaps over their errors, of the true columns and of permuted ones, on a sample of the images."""
    part = cluster_sample(images.cluster, options.placebo_rows, [options.seed, 22])
    sample = images.take(part)
    # the smallest p has to reach the level after it is multiplied
    draws = options.draws_for(labels * len(cues))
    places = np.concatenate([np.arange(len(part))[None], draw_places(sample, draws, options.seed)])
    return np.stack([drawn_gaps(sample, cue.take(part), scores[part], places) for cue in cues], axis=1)


def _effects(effects: Sequence[TrainingEffect | None], labels: int) -> Float64s:
    """(F,) adjusted p of the falls of the gap; 1 where none was measured."""
    p = np.ones(len(effects))
    known = [effect.t for effect in effects if effect is not None]
    if known:
        p[[f for f, effect in enumerate(effects) if effect is not None]] = _adjusted(np.stack(known, axis=1), labels)
    return p


def _adjusted(statistics: Float64s, labels: int) -> Float64s:
    """(F,) step-down max-T p of statistics (1 + R, F), times the number of labels."""
    p: Float64s = np.minimum(labels * step_down(statistics), 1.0)
    return p
