"""Findings that rest on texts alone: candidates at most, with the evidence for and against each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.findings import parts
from clipaudit.cues.findings.by_attribute import scored_groups
from clipaudit.cues.findings.candidates import TextCue
from clipaudit.cues.findings.counterfactual import CueGroups, arm, choose_heads
from clipaudit.cues.findings.verdicts import VerdictCase, action, harmful, labels_needed, needs, sentence, verdict
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.cues.result.finding_parts import CellTable, Cue, CueWord, Evidence, Need, Verdict
from clipaudit.cues.result.off_object import not_measured
from clipaudit.cues.result.panels import Shift
from clipaudit.cues.result.reliance import Counterfactual
from clipaudit.cues.result.result import Finding, finding_id
from clipaudit.cues.statistics.groups import Grouping, conflict_of, describe_groups, grouping
from clipaudit.cues.statistics.intervals import GATE
from clipaudit.cues.statistics.pseudo import (
    MIN_PURITY,
    VALUES,
    CorrectedChange,
    ErrorRates,
    corrected_change,
    corrected_counts,
    pseudo_values,
    purity,
    rates_from_scores,
)

_MAX_HEADS: Final = 6
"""Heads of a text cue that are replaced, those of its strongest directions."""
_WITH: Final = 1
"""The value `with cue`, as a place in `VALUES`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PseudoEffect:
    """What is measured on the scored images by a pseudo-attribute (S7)."""

    counterfactual: Counterfactual | None
    cells: CellTable | None
    corrected: CorrectedChange | None
    reason: str
    """Why there is no corrected change, in words."""
    purity: float | None
    """Share of the images called conflicting that are, 0..1."""
    own: int
    """Scored images of the class called without the cue."""
    others: int
    """Scored images of other classes called with the cue."""


_NOT_MEASURED: Final = PseudoEffect(
    counterfactual=None,
    cells=None,
    corrected=None,
    reason="without labels nothing says which answers are right",
    purity=None,
    own=0,
    others=0,
)


def text_finding(context: Context, cue: TextCue) -> Finding:
    """The finding of a class and a text: association, corrected counterfactual, verdict, evidence and samples."""
    k, name, text = cue.k, context.name(cue.k), cue.word.text
    heads = tuple(dict.fromkeys(context.scan.directions[m].head for m in cue.members.tolist()))[:_MAX_HEADS]
    association = parts.direction_association(context, int(cue.members[0]), k)
    effect = _pseudo_effect(context, cue, heads)
    case = VerdictCase(
        association=association,
        attributes=False,
        classes_from=context.classes_from,
        arm=None,
        own=effect.own,
        others=effect.others,
    )
    outcome = verdict(case)
    core = _core(context, cue, heads)
    if core is not None:
        outcome, case = Verdict.CORE, replace(case, arm=core.arms[0])
    scores = context.scores(context.scan.directions[int(cue.members[0])]) * np.float32(cue.signs[0])
    having = pseudo_values(cue.scores)[0]
    return Finding(
        id=finding_id(str(context.run.manifest.model["name"]), name, text),
        rank=0,
        verdict=outcome,
        sentence=sentence(case, outcome, name, text),
        action=action(outcome, name, text, labels_needed(association, int(context.design.counts[k]))),
        class_name=name,
        label=context.label(k),
        cue=_cue(context, cue, heads),
        association=association,
        counterfactual=core or effect.counterfactual,
        cells=effect.cells,
        distributions=parts.distributions(
            context, f"{text} ({context.scan.directions[int(cue.members[0])].head})", scores, k
        ),
        evidence=_evidence(context, cue, effect),
        false_alarm=_false_alarm(context, name, text),
        needs=() if outcome is Verdict.CORE else _needs(case, name, text, effect),
        stability=parts.finding_stability(context, cue.scores, k),
        gallery=parts.gallery(context, cue.scores, k, heads, having, VALUES),
        merged=len(cue.members),
    )


def _false_alarm(context: Context, name: str, text: str) -> tuple[str, ...]:
    nearest = "The text is the nearest of the pool; the images may share something else that it stands for."
    if context.classes_from != "label":
        return (parts.guess_warning(context, name, text), nearest)
    return (
        f"{text!r} may be part of what {name} is: class labels alone cannot tell.",
        nearest,
        "Only direct effects of the audited heads are measured.",
    )


def _cue(context: Context, cue: TextCue, heads: tuple[str, ...]) -> Cue:
    word = cue.word
    words = [CueWord(text=word.text, property=word.property, kind=word.kind, head=None, d=cue.axis.value)]
    words += [CueWord(text=w.text, property=w.property, kind=w.kind, head=None, d=None) for w in cue.words]
    having = pseudo_values(cue.scores)[0]
    words += parts.head_words(context, heads, cue.members, having, cue.k)
    opposite = context.namer.words(-context.namer.axis(word.place, class_free=False), 1, context_only=True)
    return Cue(
        name=word.text,
        words=tuple(words),
        opposite=opposite[0].text if opposite else None,
        heads=heads,
        attribute=None,
        value=None,
        class_part=context.scan.directions[int(cue.members[0])].outside,
    )


def with_shift(finding: Finding, shift: Shift | None) -> Finding:
    """The finding with its shift between two sets of rows (S11) among its evidence, if it rests on texts alone."""
    rows = () if shift is None else shift.rows
    named = (finding.class_name, finding.cue.name)
    row = next((row for row in rows if row.head is not None and (row.class_name, row.cue) == named), None)
    if finding.verdict not in (Verdict.CANDIDATE, Verdict.OBSERVED) or finding.cue.attribute is not None or row is None:
        return finding
    train, test = row.train.value or 0.0, row.test.value or 0.0
    conclusion = "; a cue that changes is no part of the class" if row.shifted else ""
    other_rows = "scored" if finding.verdict is Verdict.CANDIDATE else "other"
    evidence = Evidence(
        name="shift",
        supports=True if row.shifted else None,
        value=row.difference.value,
        sentence=f"D is {train:.2f} where the association was measured and {test:.2f} on the {other_rows} rows (q ="
        f" {row.q:.2g}){conclusion}.",
    )
    return replace(finding, evidence=(*finding.evidence, evidence))


def _needs(case: VerdictCase, name: str, text: str, effect: PseudoEffect) -> tuple[Need, ...]:
    missing = needs(case, name, text)
    if effect.purity is not None and effect.purity < MIN_PURITY and effect.corrected is None:
        share = f"{100 * effect.purity:.0f} %"
        missing += (Need(what=f"labels of the cue: of the images called conflicting only {share} are", images=None),)
    return missing


# -- the pseudo-attribute ----------------------------------------------------------------------------------------------


def _pseudo_effect(context: Context, cue: TextCue, heads: tuple[str, ...]) -> PseudoEffect:
    """Groups from the embedding without the cue's heads, and the counterfactual over them if it can be corrected (S7).

    A few wrong values of a skewed cue are enough to fill the conflict groups with images that do not conflict, so that
    an uncorrected change says nothing.
    """
    if context.answers is None:
        return _NOT_MEASURED
    answers, k = context.answers, int(context.tested[cue.k])
    axis = context.namer.axis(cue.word.place, class_free=False).astype(np.float32)
    scores = answers.embedding_without(heads) @ axis
    codes, threshold = pseudo_values(scores)
    rates = rates_from_scores(scores, codes, threshold)
    title = f"pseudo-attribute: {cue.word.text}"
    groups = grouping(answers.truth, context.names.names, title, VALUES, codes)
    counts = groups.sizes().reshape(len(context.names), 2)
    pure_share = purity(counts, rates, k, _WITH)
    rows, discovery = _halves(answers, groups)
    conflict = conflict_of(groups.take(rows), k, _WITH)
    counterfactual = change = None
    if rates is not None and rates.usable and rows.any() and discovery.any():
        cue_groups = CueGroups(k=k, value=_WITH, grouping=groups)
        chosen = choose_heads(answers, cue_groups, discovery, heads)
        after = answers.right(answers.without(chosen)).astype(np.int64)
        changes = (after - answers.right(answers.base))[rows]
        change = corrected_change(changes, groups.take(rows), k, _WITH, rates, context.options.seed)
        if change is not None:
            words = f"{title}, read from the embedding without {', '.join(heads)}; changes corrected for its errors"
            counterfactual = _corrected(_scored(context, answers, cue_groups, chosen, words), change)
    return PseudoEffect(
        counterfactual=counterfactual,
        cells=_cells(context, title, counts, codes, rates, pure_share),
        corrected=change,
        reason=_why_uncorrected(rates),
        purity=pure_share,
        own=conflict.own,
        others=conflict.others,
    )


def _why_uncorrected(rates: ErrorRates | None) -> str:
    if rates is None:
        return "the scores do not fall into two groups, so that the pseudo-attribute's error rates are unknown"
    if not rates.usable:
        shares = f"{100 * rates.false_with:.0f} % without and {100 * rates.false_without:.0f} % with the cue"
        return f"the pseudo-attribute is wrong too often to be corrected ({shares})"
    return "after correction for the pseudo-attribute's errors no image goes against the cue"


def _corrected(counterfactual: Counterfactual, change: CorrectedChange) -> Counterfactual:
    """The counterfactual with corrected changes; what rests on single groups, which hold wrong images, is left out."""
    arms = tuple(
        replace(
            uncorrected,
            delta_conflict=change.conflict,
            delta_group_mean=change.group_mean,
            delta_worst=None,
            worst_group=None,
            tests=(),
            control=None,
            dose=(),
        )
        for uncorrected in counterfactual.arms
    )
    return replace(counterfactual, corrected=True, arms=arms)


def _halves(answers: Answers, groups: Grouping) -> tuple[Bools, Bools]:
    """(n,) masks of the images with a value on the confirmation and on the discovery half."""
    decided = groups.group >= 0
    return ~answers.facts.discovery & decided, answers.facts.discovery & decided


def _scored(
    context: Context, answers: Answers, cue_groups: CueGroups, heads: tuple[str, ...], title: str
) -> Counterfactual:
    """Whole heads at their means, over some groups."""
    groups, options = cue_groups.grouping, context.options
    rows, discovery = _halves(answers, groups)
    whole = arm(
        "whole heads",
        answers,
        cue_groups,
        heads,
        {},
        rows,
        discovery,
        n_min=options.n_min,
        sets=options.random_sets,
        seed=options.seed,
    )
    before = describe_groups(
        groups.take(rows),
        answers.right(answers.base)[rows],
        f"{context.answers_rows}, confirmation half",
        n_min=options.n_min,
        seed=options.seed,
        after=answers.right(answers.without(heads))[rows],
        cluster=answers.facts.cluster[rows],
    )
    return Counterfactual(
        rows=f"{context.answers_rows}, confirmation half",
        discovery=f"{context.answers_rows}, discovery half",
        mean_source=answers.mean_source,
        groups=title,
        corrected=False,
        arms=(whole,),
        before=before,
    )


def _cells(
    context: Context, title: str, counts: Ints, codes: Ints, rates: ErrorRates | None, pure_share: float | None
) -> CellTable:
    classes = np.flatnonzero(counts.sum(axis=1) > 0)
    usable = rates is not None and rates.usable
    table = corrected_counts(counts[classes], rates).clip(0) if usable and rates is not None else counts[classes]
    return parts.cell_table(
        title,
        [context.names.names[k] for k in classes.tolist()],
        VALUES,
        table,
        int((codes < 0).sum()),
        corrected=usable,
        purity=pure_share,
        error_rates=None if rates is None else (rates.false_with, rates.false_without),
    )


# -- evidence ----------------------------------------------------------------------------------------------------------


def _evidence(context: Context, cue: TextCue, effect: PseudoEffect) -> tuple[Evidence, ...]:
    name, text = context.name(cue.k), cue.word.text
    closer = context.namer.farther_than(cue.word.place, int(context.tested[cue.k]))
    nearness = "few texts are" if closer < 0.05 else "many texts are"
    items = [
        Evidence(
            name="semantic distance",
            supports=closer >= 0.05,
            value=context.namer.distance(cue.word.place, int(context.tested[cue.k])),
            sentence=f"{nearness} closer to the name {name!r} than {text!r} is ({100 * closer:.0f} % of the pool).",
        ),
        Evidence(
            name="text axis",
            supports=True,
            value=cue.axis.value,
            sentence=f"In the whole embedding {name} stands out along {text!r} (D ="
            f" {cue.axis.value or 0:.2f}, on images that were not used to choose the text).",
        ),
        not_measured(),
    ]
    steady = parts.finding_stability(context, cue.scores, cue.k)
    if steady is not None and steady.i_squared is not None:
        items.append(
            Evidence(
                name="stability",
                supports=None if steady.i_squared < 0.5 else True,
                value=steady.i_squared,
                sentence=f"I² = {100 * steady.i_squared:.0f} % over {len(steady.environments)} environments; a cue that"
                " changes between environments is no part of the class.",
            )
        )
    return (*items, _pseudo_evidence(cue, effect), _head_evidence(context, cue))


def _pseudo_evidence(cue: TextCue, effect: PseudoEffect) -> Evidence:
    change = effect.corrected
    if change is None:
        return Evidence(name="pseudo-attribute", supports=None, value=None, sentence=f"Inconclusive: {effect.reason}.")
    value, low, high = (change.conflict.value or 0.0, change.conflict.low or 0.0, change.conflict.high or 0.0)
    return Evidence(
        name="pseudo-attribute",
        supports=True if low > 0 else False if high < 0.01 else None,
        value=value,
        sentence=f"With the cue's heads at their means, accuracy on images that go against {cue.word.text!r} changes by"
        f" {100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), corrected for errors of the"
        " pseudo-attribute.",
    )


def _head_evidence(context: Context, cue: TextCue) -> Evidence:
    head = context.scan.directions[int(cue.members[0])].head
    own = next(candidate for candidate in context.scan.predictability if candidate.head == head)
    share = own.cue_share
    without_class = "" if share is None else f", {100 * share:.0f} % of it without the class prompts' part"
    return Evidence(
        name="predictability",
        supports=None,
        value=own.skill.value,
        sentence=f"{head} alone explains {100 * (own.skill.value or 0):.0f} % of the classes'"
        f" uncertainty{without_class}.",
    )


# -- core --------------------------------------------------------------------------------------------------------------


def _core(context: Context, cue: TextCue, heads: tuple[str, ...]) -> Counterfactual | None:
    """The counterfactual that shows, over an attribute's groups, that the cue's heads are needed; None without one.

    With an attribute that has nothing to do with the text, its groups still tell whether CLIP needs the heads
    everywhere: in the groups that go against the attribute as in all others.
    """
    if context.answers is None:
        return None
    answers, k = context.answers, int(context.tested[cue.k])
    for screen in context.attributes:
        groups = scored_groups(context, answers, screen)
        rows, _ = _halves(answers, groups)
        value = int(screen.counts[cue.k].argmax())
        conflict = conflict_of(groups.take(rows), k, value)
        if min(conflict.own, conflict.others) < GATE:
            continue
        counterfactual = _scored(
            context, answers, CueGroups(k=k, value=value, grouping=groups), heads, screen.attribute.column
        )
        if harmful(counterfactual.arms[0]):
            return counterfactual
    return None
