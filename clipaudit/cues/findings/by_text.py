"""Findings that rest on texts alone: candidates at most, with the evidence for and against each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.findings import parts
from clipaudit.cues.findings.candidates import TextCue
from clipaudit.cues.findings.carriers import CueGroups, choose_heads
from clipaudit.cues.findings.galleries import gallery
from clipaudit.cues.findings.sentences import action, listed, sentence
from clipaudit.cues.findings.verdicts import VerdictCase, headline, labels_needed, needs, verdicts
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.naming import NO_GOOD_WORD
from clipaudit.cues.result.finding_parts import CellTable, Cue, CueWord, Evidence, Need, Verdict
from clipaudit.cues.result.off_object import not_measured
from clipaudit.cues.result.panels import Shift
from clipaudit.cues.result.result import Finding, finding_id
from clipaudit.cues.statistics.groups import Grouping, grouping
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

_MOST_HEADS: Final = 6
_WITH: Final = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """What the pseudo-attribute says of the scored images."""

    cells: CellTable | None
    corrected: CorrectedChange | None
    heads: tuple[str, ...]
    """Those that were replaced."""
    unsaid: str
    """Why there is no corrected change, in words."""
    purity: float | None


_NOTHING: Final = Measured(
    cells=None,
    corrected=None,
    heads=(),
    unsaid="nothing says which answers are right",
    purity=None,
)


def text_finding(context: Context, cue: TextCue) -> Finding:
    """Everything that is known of a text and the classes that have it."""
    text = cue.word.text
    heads = tuple(dict.fromkeys(context.scan.directions[m].head for m in cue.members.tolist()))[:_MOST_HEADS]
    m, direction = int(cue.members[0]), context.scan.directions[int(cue.members[0])]
    association = parts.text_association(context, cue.axis, cue.scores, m)
    measured = _measured(context, cue, heads)
    case = VerdictCase(
        kind="text",
        classes_from=context.classes_from,
        association=association,
        few_sources=context.few_sources,
        presence=context.presence is not None,
    )
    outcome = headline(verdicts(case))
    words = parts.named_words(context, cue.upper, text)
    missing = _needs(case, outcome, text, measured)
    scores = context.scores(direction) * np.float32(cue.signs[0])
    having = pseudo_values(cue.scores)[0]
    model = str(context.run.manifest.model["name"])
    many = labels_needed(association, int(context.design.counts[cue.upper].sum()), len(context.design.truth))
    return Finding(
        id=finding_id(model, words.name, text),
        former_ids=tuple(
            finding_id(model, context.name(k), text)
            for k in np.flatnonzero(cue.upper).tolist()
            if context.name(k) != words.name
        ),
        rank=0,
        verdict=outcome,
        kind="text",
        sentence=sentence(words, outcome, association, context.classes_from, rest=missing[0].what if missing else ""),
        action=action(outcome, words, many),
        class_name=", ".join(words.classes),
        label=next(context.label(k) for k in range(context.design.classes) if context.name(k) == words.classes[0]),
        side=words.side,
        classes=parts.class_rows(context, cue.upper, cue.axis.d, cue.axis.error),
        cue=_cue(context, cue, heads),
        association=association,
        reliance=(),
        explained_by=(),
        inseparable_from=(),
        core=text in context.options.core,
        groups=None,
        cells=measured.cells,
        distributions=parts.distributions(context, f"{text} ({direction.head})", scores, cue.upper),
        evidence=_evidence(context, cue, measured),
        false_alarm=_false_alarm(context, words.name, text),
        needs=missing,
        stability=parts.finding_stability(context, cue.scores, cue.upper),
        gallery=gallery(context, cue.scores, cue.upper, heads, having, VALUES),
        no_good_word=cue.fit < NO_GOOD_WORD,
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
    words = [CueWord(text=word.text, property=word.property, kind=word.kind, head=None, d=cue.axis.cut.d)]
    words += [CueWord(text=w.text, property=w.property, kind=w.kind, head=None, d=None) for w in cue.words]
    having = pseudo_values(cue.scores)[0]
    words += parts.head_words(context, heads, cue.members, having)
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
    """A finding that rests on texts with what another set of rows says of it, among its evidence."""
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


def _needs(case: VerdictCase, outcome: Verdict, text: str, measured: Measured) -> tuple[Need, ...]:
    missing = needs(case, outcome, text, (), None, ())
    if measured.purity is not None and measured.purity < MIN_PURITY and measured.corrected is None:
        share = f"{100 * measured.purity:.0f} %"
        missing += (Need(what=f"labels of the cue: of the images called conflicting only {share} are", images=None),)
    return missing


# -- the pseudo-attribute ----------------------------------------------------------------------------------------------


def _measured(context: Context, cue: TextCue, heads: tuple[str, ...]) -> Measured:
    """Groups from the embedding without the cue's heads, and the change over them when those are replaced, corrected or
    not at all: a few wrong labels of a skewed cue turn the conflict groups over.

    The classes that have the cue count as one, and all others as one.
    """
    if context.answers is None:
        return _NOTHING
    answers = context.answers
    pointed = np.zeros(len(context.names), np.bool_)
    pointed[context.tested] = cue.upper
    axis = context.namer.axis(cue.word.place, class_free=False).astype(np.float32)
    # groups that the cue's heads do not see, since those heads are then taken out (trap 5)
    scores = answers.embedding_without(heads) @ axis
    codes, threshold = pseudo_values(scores)
    rates = rates_from_scores(scores, codes, threshold)
    title = f"pseudo-attribute: {cue.word.text}"
    side = pointed[answers.truth].astype(np.int64)
    groups = grouping(side, ("others", "with the cue"), title, VALUES, codes)
    counts = groups.sizes().reshape(2, 2)
    pure_share = purity(counts, rates, 1, _WITH)
    rows, discovery = _halves(answers, groups)
    change: CorrectedChange | None = None
    chosen: tuple[str, ...] = ()
    if rates is not None and rates.usable and rows.any() and discovery.any():
        # heads from one half, their effect from the other
        chosen = choose_heads(answers, CueGroups(pointed=pointed, value=_WITH, grouping=groups), discovery, heads)
        after = answers.right(answers.without(chosen)).astype(np.int64)
        changes = (after - answers.right(answers.base))[rows]
        cluster = answers.facts.groups[rows]
        change = corrected_change(changes, groups.take(rows), 1, _WITH, rates, context.options.seed, cluster)
    # the test has two groups of classes, the table shows each class
    by_class = grouping(answers.truth, context.names.names, title, VALUES, codes).sizes()
    return Measured(
        cells=_cells(context, title, by_class.reshape(len(context.names), 2), codes, rates, pure_share),
        corrected=change,
        heads=chosen,
        unsaid=_unsaid(rates),
        purity=pure_share,
    )


def _unsaid(rates: ErrorRates | None) -> str:
    if rates is None:
        return "the scores have one hump, so that nobody knows how often the pseudo-attribute is wrong"
    if not rates.usable:
        shares = f"{100 * rates.false_with:.0f} % without and {100 * rates.false_without:.0f} % with the cue"
        return f"the pseudo-attribute is wrong too often to be corrected ({shares})"
    return "after correction for the pseudo-attribute's errors no image goes against the cue"


def _halves(answers: Answers, groups: Grouping) -> tuple[Bools, Bools]:
    decided = groups.group >= 0
    return ~answers.facts.discovery & decided, answers.facts.discovery & decided


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


def _evidence(context: Context, cue: TextCue, measured: Measured) -> tuple[Evidence, ...]:
    having = np.flatnonzero(cue.upper).tolist()
    # of several classes the one whose name is nearest
    k = min(having, key=lambda k: context.namer.farther_than(cue.word.place, int(context.tested[k])))
    name, text = context.name(k), cue.word.text
    closer = context.namer.farther_than(cue.word.place, int(context.tested[k]))
    nearness = "few texts are" if closer < 0.05 else "many texts are"
    items = [
        Evidence(
            name="semantic distance",
            supports=closer >= 0.05,
            value=context.namer.distance(cue.word.place, int(context.tested[k])),
            sentence=f"{nearness} closer to the name {name!r} than {text!r} is ({100 * closer:.0f} % of the pool).",
        ),
        Evidence(
            name="text axis",
            supports=True,
            value=cue.axis.cut.d,
            sentence=f"In the whole embedding {listed([context.name(k) for k in having])} stand out along {text!r} (D ="
            f" {cue.axis.cut.d:.2f}, on images that were not used to choose the text).",
        ),
        not_measured(),
    ]
    steady = parts.finding_stability(context, cue.scores, cue.upper)
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
    return (*items, _pseudo_evidence(cue, measured), _head_evidence(context, cue))


def _pseudo_evidence(cue: TextCue, measured: Measured) -> Evidence:
    change = measured.corrected
    if change is None:
        return Evidence(
            name="pseudo-attribute", supports=None, value=None, sentence=f"Inconclusive: {measured.unsaid}."
        )
    value, low, high = (change.conflict.value or 0.0, change.conflict.low or 0.0, change.conflict.high or 0.0)
    return Evidence(
        name="pseudo-attribute",
        # conflicting images mended: for a shortcut; by less than a point at the most: against one
        supports=True if low > 0 else False if high < 0.01 else None,
        value=value,
        sentence=f"With the cue's heads at their means, accuracy on images that go against {cue.word.text!r} changes by"
        f" {100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), corrected for errors of the"
        " pseudo-attribute.",
    )


def _head_evidence(context: Context, cue: TextCue) -> Evidence:
    head = context.scan.directions[int(cue.members[0])].head
    own = context.scan.regressions[head].result()
    share = own.cue_share
    without_class = "" if share is None else f", {100 * share:.0f} % of it without the class prompts' part"
    return Evidence(
        name="predictability",
        supports=None,
        value=own.skill.value,
        sentence=f"{head} alone explains {100 * (own.skill.value or 0):.0f} % of the classes' uncertainty"
        f"{without_class}.",
    )
