"""Findings that rest on a column: a value tied to classes, one that a model hangs on, or a column tied as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.findings import parts as building
from clipaudit.cues.findings.collecting import to_collect, value_counts
from clipaudit.cues.findings.galleries import gallery
from clipaudit.cues.findings.measured_reliance import ValueCue, having_of, judged, scored_groups
from clipaudit.cues.findings.reliance_result import described
from clipaudit.cues.findings.sentences import Words, action, also_of, sentence
from clipaudit.cues.findings.still_needed import missing_of, rest_of
from clipaudit.cues.findings.value_words import nearest_words, says_what_it_is
from clipaudit.cues.findings.verdicts import (
    VerdictCase,
    headline,
    labels_needed,
    verdicts,
)
from clipaudit.cues.measure.context import Context
from clipaudit.cues.reliance import rules
from clipaudit.cues.result.column_words import column_in_words, core_word
from clipaudit.cues.result.finding_parts import Association, Cue, CueWord, Evidence, Groups, Verdict
from clipaudit.cues.result.off_object import not_measured
from clipaudit.cues.result.reliance_parts import Reliance
from clipaudit.cues.result.result import Finding, finding_id
from clipaudit.cues.statistics.attributes import AttributeScreen
from clipaudit.cues.statistics.groups import describe_groups

CARRIES: Final = 0.3
"""Strength of a value along a direction, inside classes."""


# -- a finding ---------------------------------------------------------------------------------------------------------


def value_finding(
    context: Context,
    cue: ValueCue,
    measured: Sequence[rules.MeasuredReliance],
    stands_in_for: str | None,
) -> Finding:
    """Everything that is known of a value; measured: of each answerer, in the same order."""
    screen, m = cue.screen, context.row_of(cue.screen, cue.place)
    association = building.attribute_association(context, screen, cue.place)
    codes = screen.attribute.codes[context.scan.sample]
    having = having_of(codes, cue.value)
    members, signs, carriers = _carriers(context, having)
    case = _case(context, association, measured, _is_core(context, cue), stands_in_for)
    outcomes = verdicts(case)
    outcome = headline(outcomes)
    words = _words(context, cue)
    missing = missing_of(context, case, outcome, cue, next(iter(measured), None), words)
    rests = [missing_of(context, case, own, cue, part, words) for part, own in zip(measured, outcomes, strict=False)]
    reliance = described(context, measured, outcomes, words, association, [rest_of(rest) for rest in rests])
    # the answerer with the headline's verdict gives sentence and heads; without one, the heads that carry the value
    worst = next((part for part in reliance if part.verdict is outcome), None)
    heads = worst.effect.heads if worst is not None and worst.effect is not None else carriers
    scores = _scores(context, members, signs, having)
    named, good = _cue(context, cue, having, members, heads, association.d.value)
    return Finding(
        id=finding_id(str(context.run.manifest.model["name"]), words.name, f"{screen.attribute.column}={cue.word}"),
        former_ids=_former_ids(context, screen, cue.upper, cue.value),
        rank=0,
        verdict=outcome,
        kind="value",
        sentence=f"{worst.sentence}{also_of(reliance, outcome)}"
        if worst is not None
        else sentence(words, outcome, association, context.classes_from, rest=rest_of(missing)),
        action=action(outcome, words, _images_asked_for(context, cue, association, outcome)),
        class_name=", ".join(words.classes),
        label=context.label(first_class(context, words)),
        side=words.side,
        classes=building.class_rows(
            context, cue.upper, context.family.d[m], context.family.error[m], screen, cue.value
        ),
        cue=named,
        association=association,
        reliance=reliance,
        explained_by=tuple(dict.fromkeys(name for part in measured for name in part.explained_by)),
        inseparable_from=tuple(dict.fromkeys(name for part in measured for name in part.inseparable_from)),
        core=_is_core(context, cue),
        groups=groups_of(context, screen, _right_after(measured, worst)),
        cells=building.attribute_cells(context, screen, cue.upper),
        distributions=building.distributions(
            context, _label(context, members, named), scores, cue.upper, screen.attribute.values, codes
        ),
        evidence=_evidence(context, scores, cue.upper),
        false_alarm=column_warnings(words.name, cue.said, context),
        needs=missing,
        stability=building.finding_stability(context, np.where(having == 1, 1.0, 0.0), cue.upper),
        gallery=gallery(context, scores, cue.upper, heads, having, cue.ends),
        no_good_word=not good,
        merged=len(members),
    )


def _words(context: Context, cue: ValueCue) -> Words:
    """How the finding speaks of itself."""
    column = cue.screen.attribute.column
    words = building.named_words(context, cue.upper, cue.said, column_in_words(column))
    other = None if context.presence is None else context.presence.others.get(column)
    return replace(words, core=core_word(column, cue.word), other_label=other, why_not=_why_not(context))


def _carriers(context: Context, having: Ints) -> tuple[Ints, Float64s, tuple[str, ...]]:
    """Directions that carry a value, their signs, and their heads; having (s,) 1 with it, 0 without, -1 unknown."""
    # chosen with labels, so on the half that nothing is scored on
    strength = context.differences(np.where(context.sampled.discovery, having, -1))
    members, signs = carrying(context, strength)
    return members, signs, tuple(dict.fromkeys(context.scan.directions[m].head for m in members.tolist()))


def _is_core(context: Context, cue: ValueCue) -> bool:
    """Whether the user called the value or its column part of the class."""
    column, values = cue.screen.attribute.column, cue.screen.attribute.values
    # of two values each is the other's absence: whichever the user names, it is this cue
    words = values if cue.screen.two_ends else (cue.word,)
    names = {name for word in words for name in (word, f"{column}={word}", core_word(column, word))}
    return bool({column, *names} & set(context.options.core)) or column in context.core_columns


def _case(
    context: Context,
    association: Association,
    measured: Sequence[rules.MeasuredReliance],
    core: bool,
    stands_in_for: str | None,
) -> VerdictCase:
    """What the verdicts on a value rest on."""
    return VerdictCase(
        kind="value",
        classes_from=context.classes_from,
        association=association,
        reliance=[judged(part, core) for part in measured],
        few_sources=context.few_sources,
        stands_in_for=None if stands_in_for is None else column_in_words(stands_in_for),
        presence=context.presence is not None,
        why_not=_why_not(context),
    )


def _why_not(context: Context) -> str:
    """Why no model of one of several labels was measured."""
    return "" if context.presence is None else context.presence.why_not


def _images_asked_for(context: Context, cue: ValueCue, association: Association, outcome: Verdict) -> int | None:
    """Images to label where a value is only observed, else images to collect."""
    if outcome is Verdict.OBSERVED:
        return labels_needed(association, int(context.design.counts[cue.upper].sum()), len(context.design.truth))
    return to_collect(*value_counts(cue.screen.counts, cue.value), cue.upper).total


def first_class(context: Context, words: Words) -> int:
    """The first of the named classes, as a tested class."""
    return next(k for k in range(context.design.classes) if context.name(k) == words.classes[0])


def _former_ids(context: Context, screen: AttributeScreen, upper: Bools, value: int) -> tuple[str, ...]:
    """The first edition's ids, one a class; of a column of two values the other classes had the other value."""
    model, values = str(context.run.manifest.model["name"]), screen.attribute.values
    ids = []
    for k in range(context.design.classes):
        own = value if upper[k] else 1 - value if len(values) == 2 else None
        if own is not None:
            ids.append(finding_id(model, context.name(k), f"{screen.attribute.column}={values[own]}"))
    return tuple(ids)


def carrying(context: Context, strength: Float64s) -> tuple[Ints, Float64s]:
    """Passing directions that go with a value inside classes, those that go most first, and their ends; where none
    passes, all that go with it. strength (M,) of the value along every direction."""
    M = len(context.scan.directions)
    along = np.abs(strength) >= CARRIES
    goes = along & context.passed[:M] if (along & context.passed[:M]).any() else along
    members = np.flatnonzero(goes)
    members = members[np.argsort(-np.abs(strength[members]), kind="stable")]
    return members, np.sign(strength[members])


def _right_after(measured: Sequence[rules.MeasuredReliance], worst: Reliance | None) -> Bools | None:
    """(n,) right answers without the heads of the effect that the headline's answerer shows."""
    own = next((part for part in measured if worst is not None and part.answerer == worst.answerer), None)
    if own is None or worst is None:
        return None
    effect = own.needed_effect if worst.verdict is Verdict.NEEDED else own.effect
    return None if effect is None else effect.after


def groups_of(context: Context, screen: AttributeScreen, after: Bools | None) -> Groups | None:
    """Accuracies of all scored images by class and value; after (n,): right answers with a cue's heads taken out, each
    image without heads that were chosen on it (S10)."""
    if context.answers is None:
        return None
    answers = context.answers
    return describe_groups(
        scored_groups(context, answers, screen),
        answers.right(answers.base),
        context.answers_rows,
        n_min=context.options.n_min,
        seed=context.options.seed,
        train=train_counts(context, screen),
        after=after,
        cluster=answers.facts.groups,
    )


# -- the parts of a value's finding ------------------------------------------------------------------------------------


def train_counts(context: Context, screen: AttributeScreen) -> Ints:
    """(C * V,) images of the association by class and value."""
    V = len(screen.attribute.values)
    counts = np.zeros((len(context.names), V), np.int64)
    counts[context.tested] = screen.counts
    return counts.ravel()


def _cue(
    context: Context,
    cue: ValueCue,
    having: Ints,
    members: Ints,
    heads: Sequence[str],
    d: float | None,
) -> tuple[Cue, bool]:
    """The cue in words, and whether the best text says what sets images with it apart."""
    towards, away_from = nearest_words(context, having)
    good = bool(towards) and says_what_it_is(context, cue, having, towards[0], d)
    words = [CueWord(text=cue.word, property="attribute", kind="context-like", head=None, d=d)]
    # of an image property: what its end holds, and other ends that go with it
    measured = [context.ranges[cue.word]] if cue.word in context.ranges else []
    properties = [
        CueWord(text=text, property="image property", kind="context-like", head=None, d=None)
        for text in (*measured, *cue.also)
    ]
    in_words = [CueWord(text=w.text, property=w.property, kind=w.kind, head=None, d=None) for w in towards]
    words += [*properties, *in_words] if measured else [*in_words, *properties]
    words += building.head_words(context, heads, members, having)
    # a word that describes it badly would be a wrong name (trap 20)
    title = f"{cue.word}: {towards[0].text}" if good else cue.word
    whole = Cue(
        name=title,
        words=tuple(words),
        opposite=away_from[0].text if away_from else None,
        heads=tuple(heads),
        attribute=cue.screen.attribute.column,
        value=cue.word,
        class_part=context.scan.directions[int(members[0])].outside if len(members) else None,
    )
    return whole, good


def _scores(context: Context, members: Ints, signs: Float64s, having: Ints) -> Float32s:
    """(s,) scores of the sample along the direction that goes most with the value."""
    if not len(members):
        return having.astype(np.float32)
    scores: Float32s = context.scores(context.scan.directions[int(members[0])]) * np.float32(signs[0])
    return scores


def _label(context: Context, members: Ints, cue: Cue) -> str:
    return f"{cue.name} ({context.scan.directions[int(members[0])].head})" if len(members) else cue.name


def _evidence(context: Context, scores: Float32s, upper: Bools) -> tuple[Evidence, ...]:
    by_environment = building.finding_stability(context, scores, upper)
    if by_environment is None or by_environment.i_squared is None:
        return (not_measured(),)
    return (
        not_measured(),
        Evidence(
            name="stability",
            supports=None,
            value=by_environment.i_squared,
            sentence="Along the cue's strongest direction the class differs alike in"
            f" {len(by_environment.environments)} environments (I² = {100 * by_environment.i_squared:.0f} %).",
        ),
    )


def column_warnings(name: str, value: str, context: Context) -> tuple[str, ...]:
    """Why a finding of a column could be a false alarm."""
    column = f"The column may be wrong: look at the conflicting images. It was taken as it is, for {context.rows}."
    if context.classes_from != "label":
        return (building.guess_warning(context, name, value), column)
    if context.presence is not None:
        return (f"If {name} always go with {value} wherever the model will be used, the cue is useful there.", column)
    return (
        f"If {name} always comes with {value} wherever the model will be used, the cue is useful there.",
        "Only direct effects of the audited heads are measured: what later layers read from them, and what MLPs add,"
        " stays as it is.",
        column,
    )
