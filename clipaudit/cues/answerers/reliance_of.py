"""How far each answerer hangs on each cue: gaps, effects, controls and placebos of a whole report (S9, S10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from clipaudit.cues.reliance.head_parts import removal, right_answers
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
from clipaudit.cues.reliance.visibility import SEEING, as_auc, head_scores, head_visibility, whiteners


def reliance_of(
    answerers: Sequence[Answerer],
    cues: Sequence[CueColumn],
    images: ScoredImages,
    *,
    columns: Sequence[OtherColumn] = (),
    options: RelianceOptions | None = None,
) -> RelianceReport:
    """Reliance of every answerer on every cue; permutations and their adjustment are of all of them together.

    answerers: of the same n images. columns: declared columns that may explain a gap (S9b). The permutations
    use at most `options.placebo_rows` images, a random sample of whole clusters above that; estimates use all images.
    """
    options = RelianceOptions() if options is None else options
    if not cues or not answerers:
        return RelianceReport(findings=(), placebo=None)
    # heads are chosen anew in each permutation: too slow on all images of a large run
    part = _sample(images, options)
    work = [_prepared(answerer, images, part) for answerer in answerers]
    draws = options.draws_for(len(cues))
    # version 0 is the true column
    places = np.concatenate([np.arange(len(part))[None], draw_places(images.take(part), draws, options.seed)])
    drawn = [[_drawn(prepared, cue, images, part, places) for prepared in work] for cue in cues]
    p = _adjusted_p(drawn)
    sight = _Sight(work, images, part)
    comparisons = [cue_cells(images, cue) for cue in cues]
    findings = tuple(
        tuple(
            _reliance(
                prepared,
                comparisons[f],
                sight,
                drawn[f][a],
                (float(p[0][f, a]), float(p[1][f, a]), float(p[2][f, a])),
                columns,
                options,
            )
            for a, prepared in enumerate(work)
        )
        for f in range(len(cues))
    )
    return RelianceReport(findings=findings, placebo=_placebo(work, comparisons, part, places, drawn, options))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Prepared:
    """An answerer, its right answers, and its answers without heads."""

    answerer: Answerer
    right: Bools
    fits: Fits | None
    sampled: Fits | None
    """Of the images that permutations are made on."""


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
    return _Prepared(answerer=answerer, right=right, fits=fits, sampled=sampled)


def _sample(images: ScoredImages, options: RelianceOptions) -> Ints:
    """Places of at most about `placebo_rows` images, whole clusters."""
    n = len(images.truth)
    if n <= options.placebo_rows:
        return np.arange(n)
    codes = np.unique(images.cluster, return_inverse=True)[1]
    rank = np.random.default_rng([options.seed, 22]).permutation(int(codes.max()) + 1)
    sizes = np.bincount(rank[codes])
    last = int(np.searchsorted(np.cumsum(sizes), options.placebo_rows, side="right"))
    return np.flatnonzero(rank[codes] < max(last, 1))


def _drawn(prepared: _Prepared, cue: CueColumn, images: ScoredImages, part: Ints, places: Ints) -> DrawnStatistics:
    """Statistics of the drawn columns on a sample; the true column's heads are chosen on all images."""
    fits = prepared.fits
    if len(part) == len(images.truth) or fits is None:
        return drawn_statistics(images.take(part), cue.take(part), places, prepared.right[part], fits)
    sampled = prepared.sampled
    statistics = drawn_statistics(images.take(part), cue.take(part), places, prepared.right[part], sampled)
    # p-values come from the sample, the heads that are taken out from all images
    whole = drawn_statistics(images, cue, np.arange(len(images.truth))[None], prepared.right, fits)
    return replace(statistics, chosen=whole.chosen, chosen_freely=whole.chosen_freely)


def _adjusted_p(drawn: Sequence[Sequence[DrawnStatistics]]) -> tuple[Float64s, Float64s, Float64s]:
    """(F, A) step-down p of gaps, of DiDs, and of DiDs inside the classes that have the cue."""
    shape = (len(drawn), len(drawn[0]))
    # findings x answerers are one family for each of the three statistics (S10c)
    gaps = step_down(all_together([[statistics.gap_t for statistics in row] for row in drawn]))
    dids = step_down(all_together([[statistics.did_t for statistics in row] for row in drawn]))
    pointed = step_down(all_together([[statistics.pointed_t for statistics in row] for row in drawn]))
    return gaps.reshape(shape), dids.reshape(shape), pointed.reshape(shape)


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
    drawn: DrawnStatistics,
    p: tuple[float, float, float],
    columns: Sequence[OtherColumn],
    options: RelianceOptions,
) -> MeasuredReliance:
    """Everything of one cue and answerer; p: adjusted, of the gap, the DiD and the DiD of the classes with the cue."""
    answerer = prepared.answerer
    gap = measure_gap(comparison, answerer.logits, options)
    noise = label_noise(comparison, answerer.logits.argmax(axis=1), gap.gap.value or 0.0, gap.gap.low or 0.0, options)
    others = [column for column in columns if comparison.cue.name not in column.of]
    effect = _effect(prepared, comparison, sight, drawn.chosen, options)
    reliance = MeasuredReliance(
        cue=comparison.cue.name,
        answerer=answerer.name,
        options=options,
        gap=gap,
        gap_p=p[0],
        label_noise=noise,
        adjusted=tuple(adjusted_gap(comparison, prepared.right, column, options.seed) for column in others),
        effect=effect,
        effect_p=1.0 if effect is None else p[1],
        needed_effect=None,
        needed_p=p[2],
    )
    # `needed` comes after `confirmed` (docs/method.md 8): not asked where that holds
    if reliance.relies_on_it or not drawn.chosen_freely.any():
        return reliance
    return replace(reliance, needed_effect=_effect(prepared, comparison, sight, drawn.chosen_freely, options))


def _effect(
    prepared: _Prepared, comparison: CueCells, sight: _Sight, chosen: Bools, options: RelianceOptions
) -> SpecificEffect | None:
    parts = prepared.answerer.parts
    if parts is None or prepared.fits is None or not chosen.any():
        return None
    scores, seeing = sight.of(prepared, comparison)
    return measure_effect(comparison, prepared.fits, parts, chosen, scores, seeing, options)


def _placebo(
    work: Sequence[_Prepared],
    comparisons: Sequence[CueCells],
    part: Ints,
    places: Ints,
    drawn: Sequence[Sequence[DrawnStatistics]],
    options: RelianceOptions,
) -> PlaceboDraws:
    """The permuted columns through the rules. Those that only take away (controls of heads, visibility, other columns,
    label noise) are left out, which only raises the rate; verdicts at the ceiling and `needed` are not counted."""
    shape = (len(places), len(comparisons), len(work))
    gap_p = single_step(all_together([[cell.gap_t for cell in row] for row in drawn])).reshape(shape)
    did_p = single_step(all_together([[cell.did_t for cell in row] for row in drawn])).reshape(shape)
    lows = all_together([[cell.gap_low for cell in row] for row in drawn]).reshape(shape)
    # cheap conditions first: rank tests of both sides only for the few that meet them
    likely = (lows > options.margin) & (np.minimum(gap_p, did_p) < options.alpha)
    likely[0] = False  # the true columns
    believed = np.zeros(shape, np.bool_)
    images = comparisons[0].images.take(part)
    for draw, f, a in np.argwhere(likely).tolist():
        cue = comparisons[f].cue.take(part[places[draw]])
        believed[draw, f, a] = _on_both_sides(cue_cells(images, cue), work[a].answerer.logits[part], options)
    return PlaceboDraws(
        draws=len(places) - 1,
        cues=len(comparisons),
        answerers=len(work),
        rows=len(part),
        believed=int(believed.sum()),
        draws_with_any=int(believed.any(axis=(1, 2)).sum()),
    )


def _on_both_sides(comparison: CueCells, logits: Float32s, options: RelianceOptions) -> bool:
    scores = margins(logits, comparison.images.truth, comparison.cue.pointed)
    sides = [rank_difference(comparison, scores, comparison.side(pointed)) for pointed in (True, False)]
    return comparison.both_sides_comparable and all(side.p < options.alpha for side in sides)
