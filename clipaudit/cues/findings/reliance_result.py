"""What was measured of answerers and cues, as the result holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clipaudit.cues.findings.sentences import Words, sentence
from clipaudit.cues.measure.context import Context
from clipaudit.cues.reliance import rules
from clipaudit.cues.reliance.adjusted_gap import AdjustedGap
from clipaudit.cues.reliance.gap import Side
from clipaudit.cues.reliance.specific_effect import SpecificEffect
from clipaudit.cues.reliance.training_effect import TrainingEffect
from clipaudit.cues.result.finding_parts import Association, Estimate, Verdict
from clipaudit.cues.result.reliance_parts import (
    AnswererPlacebo,
    Arm,
    CellAccuracy,
    Counterfactual,
    CueSide,
    DosePoint,
    LabelNoise,
    LabelRanking,
    OtherColumnGap,
    Placebo,
    Reliance,
    TrainingExperiment,
)


def described(
    context: Context,
    measured: Sequence[rules.MeasuredReliance],
    outcomes: Sequence[Verdict],
    words: Words,
    association: Association,
    rests: Sequence[str],
) -> tuple[Reliance, ...]:
    """Each answerer's numbers with its sentence; outcomes: their verdicts; rests: what each still needs, in words."""
    parts = []
    for own, outcome, rest in zip(measured, outcomes, rests, strict=False):
        part = as_result(context, own, outcome, "")
        statement = sentence(
            words,
            outcome,
            association,
            context.classes_from,
            own.answerer,
            gap=part.gap if part.gap.value is not None else None,
            margin_d=part.margin_d,
            corrected_margin_d=part.corrected_margin_d,
            effect=part.effect,
            training=part.training,
            ranking=part.ranking,
            rest=rest,
        )
        parts.append(replace(part, sentence=statement))
    return tuple(parts)


def as_result(context: Context, measured: rules.MeasuredReliance, verdict: Verdict, sentence: str) -> Reliance:
    """The numbers as the result holds them."""
    gap, noise = measured.gap, measured.label_noise
    # `needed` rests on the heads that were chosen whatever the group mean loses
    effect = measured.effect if verdict is not Verdict.NEEDED else measured.needed_effect
    p = measured.effect_p if verdict is not Verdict.NEEDED else measured.needed_p
    return Reliance(
        answerer=measured.answerer,
        verdict=verdict,
        sentence=sentence,
        state=gap.state,
        cells=tuple(
            CellAccuracy(class_name=context.names.names[cell.k], conflicting=cell.conflicting, accuracy=cell.accuracy)
            for cell in gap.cells
        ),
        group_mean=gap.group_mean,
        chance=gap.chance,
        gap=gap.gap,
        gap_90=gap.gap_90,
        gap_p=measured.gap_p,
        margin_d=gap.margin_d,
        margin_d_90=gap.margin_d_90,
        have=_side(gap.have),
        lack=_side(gap.lack),
        both_sides=gap.both_sides,
        label_noise=LabelNoise(rate=noise.rate, rate_low=noise.rate_low, needed=noise.needed, counts=noise.counts),
        adjusted=tuple(_adjusted(part) for part in measured.adjusted),
        explained_by=measured.explained_by,
        inseparable_from=measured.inseparable_from,
        does_not_hang_on_it=measured.does_not_hang_on_it,
        corrected_gap=_known(measured.corrected_gap),
        effect=None if effect is None else effect_of(effect, p),
        training=None if measured.training is None else _training(measured.training, measured.effect_p),
        corrected_margin_d=_known(gap.corrected_margin_d),
        ranking=None
        if gap.ranking is None
        else LabelRanking(aligned=gap.ranking.aligned, conflicting=gap.ranking.conflicting),
    )


def _known(estimate: Estimate | None) -> Estimate | None:
    return estimate if estimate is not None and estimate.value is not None else None


def _training(effect: TrainingEffect, p: float) -> TrainingExperiment:
    return TrainingExperiment(
        gap_before=effect.gap_before,
        gap_after=effect.gap_after,
        fall=effect.fall,
        net_fall=effect.net_fall,
        conflict_rise=effect.conflict_rise,
        group_mean_change=effect.group_mean_change,
        p=p,
        draws=effect.draws,
        band=effect.band,
        highest=effect.highest,
        training_rows=effect.training_rows,
        visibility=effect.visibility,
    )


def _side(side: Side) -> CueSide:
    return CueSide(d=side.d, p=side.p)


def _adjusted(part: AdjustedGap) -> OtherColumnGap:
    return OtherColumnGap(
        column=part.column,
        phi=part.phi,
        gap=part.gap,
        other=part.other,
        p=part.p,
        explains=part.explains,
        inseparable=part.inseparable,
    )


def effect_of(effect: SpecificEffect, p: float) -> Counterfactual:
    """What taking heads out does, as the result holds it."""
    whole = Arm(name="whole heads", did=effect.did, net_did=effect.net_did, delta_conflict=effect.conflict_rise)
    others = [Arm(name=arm.name, did=arm.did, net_did=arm.net_did, delta_conflict=None) for arm in effect.arms]
    return Counterfactual(
        heads=tuple(dict.fromkeys(head for fit in effect.heads for head in fit)),
        heads_named=effect.heads_named,
        gap_before=effect.gap_before,
        gap_after=effect.gap_after,
        did=effect.did,
        net_did=effect.net_did,
        conflict_rise=effect.conflict_rise,
        net_conflict_rise=effect.net_conflict_rise,
        aligned_change=effect.aligned_change,
        group_mean_change=effect.group_mean_change,
        p=p,
        control=effect.control,
        control_sets=effect.control_sets,
        control_band=effect.control_band,
        matched=effect.matched,
        visibility=effect.visibility,
        doses=tuple(
            DosePoint(alpha=dose.alpha, gap=dose.gap, aligned=dose.aligned, conflicting=dose.conflicting)
            for dose in effect.doses
        ),
        arms=(whole, *others),
    )


def placebo_of(placebo: rules.PlaceboDraws | None) -> Placebo | None:
    """How often permuted columns were believed, as the result holds it."""
    if placebo is None:
        return None
    tried = placebo.draws * placebo.cues
    return Placebo(
        draws=placebo.draws,
        cues=placebo.cues,
        answerers=placebo.answerers,
        rows=placebo.rows,
        believed=placebo.believed,
        rate=placebo.rate,
        rate_of_any=placebo.rate_of_any,
        by_answerer=tuple(
            AnswererPlacebo(answerer=answerer, believed=believed, tried=tried, rate=believed / max(tried, 1))
            for answerer, believed in placebo.believed_by.items()
        ),
    )
