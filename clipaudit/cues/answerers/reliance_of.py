"""How far each answerer hangs on each cue: gaps, effects, controls and placebos of a whole report (S9, S10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.answerers.answerer import Answerer
from clipaudit.cues.reliance.adjusted_gap import adjusted_gap
from clipaudit.cues.reliance.column_test import (
    DrawnStatistics,
    all_together,
    drawn_statistics,
    single_step,
    step_down,
)
from clipaudit.cues.reliance.drawn_columns import draw_places
from clipaudit.cues.reliance.gap import measure_gap
from clipaudit.cues.reliance.head_parts import HeadParts, removal
from clipaudit.cues.reliance.images import (
    CueCells,
    CueColumn,
    OtherColumn,
    RelianceOptions,
    ScoredImages,
    cue_cells,
)
from clipaudit.cues.reliance.label_noise import label_noise
from clipaudit.cues.reliance.rank_difference import margins, rank_difference
from clipaudit.cues.reliance.rules import MeasuredReliance, PlaceboDraws, RelianceReport
from clipaudit.cues.reliance.specific_effect import FOLDS, Fits, SpecificEffect, measure_effect
from clipaudit.cues.reliance.training_effect import RetrainedAnswers, TrainingEffect, training_effect
from clipaudit.cues.reliance.visibility import SEEING, as_auc, head_scores, head_visibility, whiteners
from clipaudit.cues.statistics.cluster_sample import cluster_sample
from clipaudit.cues.statistics.right import answered, right_answers


def reliance_of(
    answerers: Sequence[Answerer],
    cues: Sequence[CueColumn],
    images: ScoredImages,
    *,
    columns: Sequence[OtherColumn] = (),
    retrained: Mapping[str, Sequence[RetrainedAnswers]] | None = None,
    options: RelianceOptions | None = None,
) -> RelianceReport:
    """Reliance of every answerer on every cue; permutations and their adjustment are of all of them together.

    answerers: of the same n images; what one does not answer is left out of all its numbers, and permuted apart.
    columns: declared columns that may explain a gap (S9b). retrained: by an answerer's name, for every cue what
    training again with weights does to it (S10r). The permutations use at most `options.placebo_rows` images, a random
    sample of whole clusters above that; estimates use all images.
    """
    options = RelianceOptions() if options is None else options
    if not cues or not answerers:
        return RelianceReport(findings=(), placebo=None)
    # heads are chosen anew in each permutation: too slow on all images of a large run
    part = cluster_sample(images.cluster, options.placebo_rows, [options.seed, 22])
    work = [_prepared(answerer, images, part) for answerer in answerers]
    draws = options.draws_for(len(cues))
    # version 0 is the true column
    patterns = _answer_patterns(work)[part]
    moved = draw_places(images.take(part), draws, options.seed, inside=patterns)
    places = np.concatenate([np.arange(len(part))[None], moved])
    own = [[cue.among(prepared.answered) for prepared in work] for cue in cues]
    drawn = [
        [_drawn(prepared, cue, images, part, places) for prepared, cue in zip(work, row, strict=True)] for row in own
    ]
    comparisons = [[cue_cells(images, cue) for cue in row] for row in own]
    trained = [[_of_cue(retrained, prepared.answerer.name, f) for prepared in work] for f in range(len(cues))]
    effects = [
        [_training_effect(comparison, answers) for comparison, answers in zip(*rows, strict=True)]
        for rows in zip(comparisons, trained, strict=True)
    ]
    p = _adjusted_p(drawn, effects)
    sight = _Sight(work, images, part)
    findings = tuple(
        tuple(
            _reliance(
                prepared,
                comparisons[f][a],
                sight,
                (drawn[f][a].chosen[:, 0], drawn[f][a].chosen_freely[:, 0]),
                effects[f][a],
                (float(p[0][f, a]), float(p[1][f, a]), float(p[2][f, a])),
                columns,
                options,
            )
            for a, prepared in enumerate(work)
        )
        for f in range(len(cues))
    )
    sample = _Sample(part=part, images=images.take(part), places=places)
    return RelianceReport(findings=findings, placebo=_placebo(work, own, sample, drawn, trained, columns, options))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Prepared:
    """An answerer, its right answers, and its answers without heads."""

    answerer: Answerer
    right: Bools
    answered: Bools
    """(n,) images that it answers."""
    fits: Fits | None
    sampled: Fits | None
    """Of the images that permutations are made on."""

    def take(self, rows: Ints) -> _Prepared:
        """The same of some images, by places (m,)."""
        answerer, fits = self.answerer, None if self.fits is None else self.fits.take(rows)
        parts = None if answerer.parts is None else answerer.parts.take(rows)
        return _Prepared(
            answerer=_PartAnswerer(name=answerer.name, logits=answerer.logits[rows], parts=parts),
            right=self.right[rows],
            answered=self.answered[rows],
            fits=fits,
            sampled=fits,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _PartAnswerer:
    """An answerer of some of the images."""

    name: str
    logits: Float32s
    parts: HeadParts | None


def _answer_patterns(work: Sequence[_Prepared]) -> Ints:
    """(n,) which answerers answer each image, numbered: a column is permuted among images of one pattern."""
    return np.unique(np.stack([prepared.answered for prepared in work]), axis=1, return_inverse=True)[1].ravel()


def _prepared(answerer: Answerer, images: ScoredImages, part: Ints) -> _Prepared:
    fits = sampled = None
    parts = answerer.parts
    if parts is not None:
        everything = np.ones(len(images.truth), np.bool_)
        taken_out = removal(answerer.logits, parts, images.truth, everything, images.weight)
        halves = (images.discovery, ~images.discovery)
        fits = Fits(fold=images.folds(FOLDS), count=FOLDS, halves=halves, removal=taken_out)
        sampled = fits if len(part) == len(images.truth) else fits.take(part)
    right = right_answers(answerer.logits, images.truth)
    return _Prepared(answerer=answerer, right=right, answered=answered(answerer.logits), fits=fits, sampled=sampled)


def _drawn(prepared: _Prepared, cue: CueColumn, images: ScoredImages, part: Ints, places: Ints) -> DrawnStatistics:
    """Statistics of the drawn columns on a sample; the true column's heads are chosen on all images."""
    fits = prepared.fits
    if len(part) == len(images.truth) or fits is None:
        return drawn_statistics(images.take(part), cue.take(part), places, prepared.right[part], fits)
    sampled = prepared.sampled
    statistics = drawn_statistics(images.take(part), cue.take(part), places, prepared.right[part], sampled)
    # p-values come from the sample, the heads that are taken out from all images
    whole = drawn_statistics(images, cue, np.arange(len(images.truth))[None], prepared.right, fits)
    for chosen, of_all in ((statistics.chosen, whole.chosen), (statistics.chosen_freely, whole.chosen_freely)):
        chosen[:, 0] = of_all[:, 0]
    return statistics


def _of_cue(
    retrained: Mapping[str, Sequence[RetrainedAnswers]] | None, answerer: str, f: int
) -> RetrainedAnswers | None:
    """What training again does to cue number f; None for an answerer that is not trained here."""
    of_answerer = (retrained or {}).get(answerer)
    return None if of_answerer is None else of_answerer[f]


def _training_effect(comparison: CueCells, answers: RetrainedAnswers | None) -> TrainingEffect | None:
    """S10r; None for an answerer that is not trained here, or where no class can be compared."""
    return None if answers is None or not comparison.comparable.any() else training_effect(comparison, answers)


def _adjusted_p(
    drawn: Sequence[Sequence[DrawnStatistics]], effects: Sequence[Sequence[TrainingEffect | None]]
) -> tuple[Float64s, Float64s, Float64s]:
    """(F, A) step-down p of gaps, of effects (DiD, or the fall of the gap), and of DiDs inside the classes with the
    cue."""
    shape = (len(drawn), len(drawn[0]))
    # findings x answerers are one family for each of the three statistics (S10c)
    gaps = step_down(all_together([[cell.gap_t for cell in row] for row in drawn])).reshape(shape)
    pointed = step_down(all_together([[cell.pointed_t for cell in row] for row in drawn])).reshape(shape)
    statistics = [
        [
            cell.did_t if effect is None else _repeated(effect.t, len(cell.did_t))
            for cell, effect in zip(*rows, strict=True)
        ]
        for rows in zip(drawn, effects, strict=True)
    ]
    p = step_down(all_together(statistics)).reshape(shape)
    for a in range(shape[1]):
        own = {f: effect for f, row in enumerate(effects) if (effect := row[a]) is not None}
        if own:
            # repeated draws are no new ones: p-values are never below those of the answerer's own draws
            alone = step_down(np.stack([effect.t for effect in own.values()], axis=1))
            for f, value in zip(own, alone.tolist(), strict=True):
                p[f, a] = max(p[f, a], value)
    return gaps, p, pointed


def _repeated(t: Float64s, count: int) -> Float64s:
    """(count,) the true statistic and permuted ones (1 + R,), repeated in their order or cut. They are drawn apart from
    those of other answerers, so that any pairing is as good as another."""
    if len(t) < 2:
        return np.concatenate([t[:1], np.zeros(count - 1)])
    return np.concatenate([t[:1], t[1 + np.arange(count - 1) % (len(t) - 1)]])


class _Sight:
    """What the stored heads see of cues, whoever answers; computed where it is asked for."""

    def __init__(self, work: Sequence[_Prepared], images: ScoredImages, part: Ints) -> None:
        self._work = work
        self._images = images
        self._part = part
        """Places of the sample on which heads that see a cue are told from others."""
        self._inverses: list[list[Float64s]] | None = None

    def of(self, prepared: _Prepared, comparison: CueCells) -> tuple[Float32s, Bools]:
        """(P, n) each head's score of a cue, and (P,) heads that see it."""
        parts, fits = prepared.answerer.parts, prepared.fits
        assert parts is not None
        assert fits is not None
        if not len(parts.coordinates):
            P = len(parts.names)
            return np.zeros((P, len(self._images.truth)), np.float32), np.zeros(P, np.bool_)
        if self._inverses is None:  # all answerers have the heads of the stored table
            self._inverses = whiteners(self._images, parts.coordinates, fits.halves)
        scores = head_scores(comparison, parts.coordinates, self._inverses, fits.halves)
        part = self._part
        sampled = cue_cells(self._images.take(part), comparison.cue.take(part))
        spreads = head_visibility(sampled, scores[:, part], [half[part] for half in fits.halves])
        return scores, np.array([(as_auc(spread).low or 0.0) > SEEING for spread in spreads], np.bool_)


def _reliance(
    prepared: _Prepared,
    comparison: CueCells,
    sight: _Sight,
    chosen: tuple[Bools, Bools],
    training: TrainingEffect | None,
    p: tuple[float, float, float],
    columns: Sequence[OtherColumn],
    options: RelianceOptions,
) -> MeasuredReliance:
    """Everything of one cue and answerer; chosen: heads (2, P) within the group mean's limit, and without it; p:
    adjusted, of the gap, the effect and the DiD of classes with the cue."""
    answerer = prepared.answerer
    gap = measure_gap(comparison, answerer.logits, options)
    noise = label_noise(comparison, answerer.logits.argmax(axis=1), gap.gap.value or 0.0, gap.gap.low or 0.0, options)
    others = [column for column in columns if comparison.cue.name not in column.of]
    effect = _effect(prepared, comparison, sight, chosen[0], options)
    reliance = MeasuredReliance(
        cue=comparison.cue.name,
        answerer=answerer.name,
        options=options,
        gap=gap,
        gap_p=p[0],
        label_noise=noise,
        adjusted=tuple(
            adjusted_gap(comparison, prepared.right, column, options.seed, options.margin) for column in others
        ),
        effect=effect,
        effect_p=1.0 if effect is None and training is None else p[1],
        training=training,
        needed_effect=None,
        needed_p=p[2],
    )
    # `needed` comes after `confirmed` (docs/method.md 8): not asked where that holds
    if reliance.relies_on_it or not chosen[1].any():
        return reliance
    return replace(reliance, needed_effect=_effect(prepared, comparison, sight, chosen[1], options))


def _effect(
    prepared: _Prepared, comparison: CueCells, sight: _Sight, chosen: Bools, options: RelianceOptions
) -> SpecificEffect | None:
    parts = prepared.answerer.parts
    if parts is None or prepared.fits is None or not chosen.any():
        return None
    scores, seeing = sight.of(prepared, comparison)
    return measure_effect(comparison, prepared.fits, parts, chosen, scores, seeing, options)


_GAP_T: Final = 1.645
"""Gap over its standard error that a lower limit above 0 needs."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Sample:
    """The m images of the permutations."""

    part: Ints
    """(m,) places among all."""
    images: ScoredImages
    places: Ints
    """(1 + R, m) the image whose columns each image gets, the true ones first."""


def _placebo(
    work: Sequence[_Prepared],
    cues: Sequence[Sequence[CueColumn]],
    sample: _Sample,
    drawn: Sequence[Sequence[DrawnStatistics]],
    trained: Sequence[Sequence[RetrainedAnswers | None]],
    columns: Sequence[OtherColumn],
    options: RelianceOptions,
) -> PlaceboDraws:
    """How often a permuted column gets a verdict of reliance, by the very rules of the true one (S10d).

    cues, drawn, trained: by finding and answerer. Each draw is held against all others as the true columns are, by
    step-down max-T, and the other columns of an image move with it. What every verdict needs comes first: few draws
    have it. A trained answerer is not trained again for each: its answers after the true column's weights are held
    against those after permuted ones, inside the cells of the permuted column.
    """
    parts = [prepared.take(sample.part) for prepared in work]
    sight = _Sight(parts, sample.images, np.arange(len(sample.part)))
    shape = (len(sample.places), len(cues), len(work))
    families = [
        all_together([[cell.gap_t for cell in row] for row in drawn]),
        all_together([[cell.did_t for cell in row] for row in drawn]),
        all_together([[cell.pointed_t for cell in row] for row in drawn]),
    ]
    # no p of step-down max-T is below that of the largest statistic, which is the single-step one
    likely = np.min([single_step(family) for family in families], axis=0) < options.alpha
    # an effect of training again has draws of its own, and needs a gap above the margin, which is above 0
    retrained = np.array([answers is not None for row in trained for answers in row])
    likely |= retrained & (families[0] > _GAP_T)
    likely[0] = False  # the true columns
    believed = np.zeros(shape, np.bool_)
    for draw in np.flatnonzero(likely.any(axis=1)).tolist():
        order = np.concatenate([[draw], np.delete(np.arange(shape[0]), draw)])
        p = np.stack([step_down(family[order]).reshape(shape[1:]) for family in families])
        moved = sample.part[sample.places[draw]]
        for f, a in np.argwhere((p.min(axis=0) < options.alpha) | likely[draw].reshape(shape[1:])).tolist():
            comparison = cue_cells(sample.images, cues[f][a].moved(sample.part, moved))
            if not _on_both_sides(comparison, parts[a].answerer.logits, options):
                continue
            answers = trained[f][a]
            training = _training_effect(comparison, None if answers is None else answers.take(sample.part))
            effect_p = float(p[1, f, a]) if training is None else training.p
            believed[draw, f, a] = _reliance(
                parts[a],
                comparison,
                sight,
                (drawn[f][a].chosen[:, draw], drawn[f][a].chosen_freely[:, draw]),
                training,
                (float(p[0, f, a]), effect_p, float(p[2, f, a])),
                [column.take(moved) for column in columns],
                options,
            ).believed
    return _counted(believed, [part.answerer.name for part in parts], len(sample.part))


def _counted(believed: Bools, names: Sequence[str], rows: int) -> PlaceboDraws:
    """believed: (1 + R, F, A) verdicts of reliance by draw, the true columns first, finding and answerer."""
    return PlaceboDraws(
        draws=believed.shape[0] - 1,
        cues=believed.shape[1],
        answerers=believed.shape[2],
        rows=rows,
        believed_by=dict(zip(names, believed.sum(axis=(0, 1)).tolist(), strict=True)),
        draws_with_any=int(believed.any(axis=(1, 2)).sum()),
    )


def _on_both_sides(comparison: CueCells, logits: Float32s, options: RelianceOptions) -> bool:
    scores = margins(logits, comparison.images.truth, comparison.cue.pointed)
    sides = [rank_difference(comparison, scores, comparison.side(pointed)) for pointed in (True, False)]
    return comparison.both_sides_comparable and all(side.p < options.alpha for side in sides)
