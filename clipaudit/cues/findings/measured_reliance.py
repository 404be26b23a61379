"""How far each answerer hangs on each value: from the scored images to the result's numbers and the rules' answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipaudit.arrays import Bools, Float32s, Ints
from clipaudit.cues.answerers.answerer import Answerer
from clipaudit.cues.answerers.from_table import clip_answerer
from clipaudit.cues.answerers.reliance_of import reliance_of
from clipaudit.cues.findings.verdicts import RelianceRules
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.picture_columns import is_measured
from clipaudit.cues.reliance import rules
from clipaudit.cues.reliance.adjusted_gap import AdjustedGap
from clipaudit.cues.reliance.gap import Side
from clipaudit.cues.reliance.images import CueColumn, OtherColumn, RelianceOptions, ScoredImages
from clipaudit.cues.reliance.specific_effect import SpecificEffect
from clipaudit.cues.result.finding_parts import Estimate, Verdict
from clipaudit.cues.result.reliance_parts import (
    Arm,
    CellAccuracy,
    Counterfactual,
    CueSide,
    DosePoint,
    LabelNoise,
    OtherColumnGap,
    Placebo,
    Reliance,
)
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import AttributeScreen
from clipaudit.cues.statistics.columns import MAX_BINS, OTHER, binned_column
from clipaudit.cues.statistics.groups import Grouping, grouping
from clipaudit.cues.statistics.known_error import corrected_cells


@dataclass(frozen=True, eq=False, kw_only=True)
class ValueCue:
    """A value of an attribute, and the classes that have it."""

    screen: AttributeScreen
    place: int
    """Among the tested values."""
    upper: Bools
    """(K,) tested classes that have it."""
    associated: bool
    """Its cut passes; else it is here because the model's answers differ along it."""
    also: tuple[str, ...] = ()
    """Of an image property: other ends that part the classes in the same way, more weakly."""

    @property
    def value(self) -> int:
        """Among the attribute's values."""
        return int(self.screen.values[self.place])

    @property
    def word(self) -> str:
        """The value's name."""
        return self.screen.attribute.values[self.value]

    @property
    def name(self) -> str:
        """Column and value."""
        return f"{self.screen.attribute.column}={self.word}"


def scored_images(context: Context, answers: Answers) -> ScoredImages:
    """The scored images; clusters are sources where the audit found some, or the user named a column of few."""
    facts = answers.facts
    sources = facts.source is not None or context.named_sources
    cluster = facts.source if facts.source is not None else facts.cluster
    return ScoredImages(
        truth=answers.truth,
        classes=len(context.names),
        cluster=cluster,
        discovery=facts.discovery,
        sources=sources,
    )


def answerers_of(answers: Answers) -> tuple[Answerer, ...]:
    """Everything that answers: zero-shot CLIP."""
    coordinates = [answers.values[head] for head in answers.heads]
    frames = [answers.bases[head] for head in answers.heads]
    return (clip_answerer(answers.embedding, answers.classes, answers.heads, coordinates, frames),)


def scored_values(answers: Answers, screen: AttributeScreen) -> Ints:
    """(n,) place among the association's values of each scored image, -1 for none."""
    scored = answers.facts.attributes[screen.attribute.column]
    place = {value: number for number, value in enumerate(screen.attribute.values)}
    # values that the association's rows lack count as unknown; the last place is that of code -1
    code_of = np.array([place.get(value, -1) for value in scored.values] + [-1], np.int64)
    return code_of[scored.codes]


def scored_groups(context: Context, answers: Answers, screen: AttributeScreen) -> Grouping:
    """The scored images by class and value of an attribute, in the association's values."""
    codes = scored_values(answers, screen)
    return grouping(answers.truth, context.names.names, screen.attribute.column, screen.attribute.values, codes)


def having_of(codes: Ints, value: int) -> Ints:
    """(n,) 1 with a value, 0 with another, -1 without any."""
    return np.where(codes < 0, -1, (codes == value).astype(np.int64))


def measure_reliance(
    context: Context, cues: Sequence[ValueCue]
) -> tuple[tuple[tuple[rules.MeasuredReliance, ...], ...], rules.PlaceboDraws | None]:
    """By cue and answerer, all together, and how often permuted columns are believed; nothing without labels."""
    if context.answers is None or not cues:
        return tuple(() for _ in cues), None
    answers, options = context.answers, context.options
    columns = [_cue_column(context, answers, cue) for cue in cues]
    report = reliance_of(
        answerers_of(answers),
        columns,
        scored_images(context, answers),
        columns=[
            _other_column(context, answers, screen, [cue.name for cue in cues if cue.screen is screen])
            for screen in context.attributes
            if screen.attribute.column not in context.core_columns
            # what is measured on the pixels follows from the cue, and explains nothing (S9b)
            and not is_measured(screen.attribute.column)
        ],
        options=RelianceOptions(
            margin=options.margin,
            delta=options.delta_warn,
            alpha=options.alpha,
            clean_labels=options.clean_labels,
            random_sets=options.random_sets,
            seed=options.seed,
        ),
    )
    return report.findings, report.placebo


def _cue_column(context: Context, answers: Answers, cue: ValueCue) -> CueColumn:
    pointed, tested = (np.zeros(len(context.names), np.bool_) for _ in range(2))
    pointed[context.tested], tested[context.tested] = cue.upper, True
    text: Float32s | None = context.namer.vector_of(cue.word)
    return CueColumn(
        name=cue.name,
        having=having_of(scored_values(answers, cue.screen), cue.value),
        pointed=pointed,
        tested=tested,
        text=text,
    )


def _other_column(context: Context, answers: Answers, screen: AttributeScreen, of: Sequence[str]) -> OtherColumn:
    """A declared column in at most five bins, and which bin goes with which class in the association's rows."""
    values = screen.attribute.values
    codes = scored_values(answers, screen)
    cut = binned_column(Attribute(column=screen.attribute.column, values=values, codes=codes), MAX_BINS)
    bin_of = np.array([_bin(cut.names, value, cut.pooled) for value in values], np.int64)
    V = max(len(cut.names), 1)
    counts = np.zeros((len(context.names), V))
    for value, place in enumerate(bin_of.tolist()):
        if place >= 0:
            counts[context.tested, place] += screen.counts[:, value]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # a bin goes with a class where its share is above the mean share in the other classes
    others = (share.sum(axis=0) - share) / max(len(context.tested) - 1, 1)
    return OtherColumn(name=screen.attribute.column, codes=cut.codes, aligned=share > others, of=tuple(of))


def _bin(names: Sequence[str], value: str, pooled: bool) -> int:
    return names.index(value) if value in names else names.index(OTHER) if pooled else -1


# -- values that a model hangs on though they go with no class ---------------------------------------------------------


def pointed_by_model(context: Context, answers: Answers, cue_codes: Ints) -> Bools | None:
    """(K,) the tested classes towards which the answers move with a value (n,) 1, 0, -1, inside classes, on the
    discovery half: those above the largest step between classes; None where it cannot be told."""
    rows = answers.facts.discovery & (cue_codes >= 0)
    logits = answers.base[:, context.tested]
    # what all classes gain alike changes no answer
    logits = logits - logits.mean(axis=1, keepdims=True)
    moves = []
    for k in context.tested.tolist():
        inside = rows & (answers.truth == k)
        having, lacking = inside & (cue_codes == 1), inside & (cue_codes == 0)
        if min(int(having.sum()), int(lacking.sum())) >= 5:
            moves.append(logits[having].mean(axis=0) - logits[lacking].mean(axis=0))
    if not moves:
        return None
    move = np.mean(moves, axis=0)
    order = np.argsort(-move, kind="stable")
    steps = move[order][:-1] - move[order][1:]
    upper = np.zeros(len(move), np.bool_)
    upper[order[: int(np.argmax(steps)) + 1]] = True
    return upper


# -- to the result -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the rules say of one answerer, a cue that cannot be told from a weaker column counting as itself."""

    answerer: str
    relies_on_it: bool
    fails_where: bool
    needed: bool
    does_not_hang_on_it: bool


def judged(measured: rules.MeasuredReliance, core: bool) -> RelianceRules:
    """The rules' answers; a column that cannot be told apart decides elsewhere which of both is judged."""
    gap = (
        measured.hangs_on_it
        and measured.gap.above_margin(measured.options)
        and measured.label_noise.counts
        and measured.gap_p < measured.options.alpha
    )
    return Judged(
        answerer=measured.answerer,
        relies_on_it=measured.relies_on_it,
        fails_where=gap,
        needed=measured.needed and not core,
        does_not_hang_on_it=measured.does_not_hang_on_it,
    )


def as_result(
    context: Context, measured: rules.MeasuredReliance, verdict: Verdict, sentence: str, corrected_gap: Estimate | None
) -> Reliance:
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
        corrected_gap=corrected_gap,
        effect=None if effect is None else effect_of(effect, p),
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
    return Placebo(
        draws=placebo.draws,
        cues=placebo.cues,
        answerers=placebo.answerers,
        rows=placebo.rows,
        believed=placebo.believed,
        rate=placebo.rate,
        rate_of_any=placebo.rate_of_any,
    )


def corrected_gap_of(context: Context, cue: ValueCue) -> Estimate | None:
    """CLIP's gap corrected for the column's known error (S6c); None where none was given."""
    error = context.known_errors.get(cue.screen.attribute.column)
    if error is None or context.answers is None:
        return None
    answers, codes = context.answers, scored_values(context.answers, cue.screen)
    place = np.full(len(context.names), -1, np.int64)
    place[context.tested] = np.arange(len(context.tested))
    inside = place[answers.truth] >= 0
    return corrected_cells(
        codes[inside],
        place[answers.truth[inside]],
        answers.facts.cluster[inside],
        cue.value,
        cue.upper,
        len(cue.screen.attribute.values),
        error,
        right=answers.right(answers.base)[inside],
        seed=context.options.seed,
    ).gap
