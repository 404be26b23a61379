"""Findings of a column as a whole: tied to the classes without any value that is (S6b)."""

from __future__ import annotations

import numpy as np

from clipaudit.cues.findings import parts as building
from clipaudit.cues.findings.by_attribute import column_warnings, first_class, groups_of
from clipaudit.cues.findings.galleries import gallery
from clipaudit.cues.findings.sentences import action, sentence
from clipaudit.cues.findings.still_needed import rest_of
from clipaudit.cues.findings.verdicts import VerdictCase, headline, needs, verdicts
from clipaudit.cues.measure.context import Context
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Cue, CueWord
from clipaudit.cues.result.off_object import not_measured
from clipaudit.cues.result.result import Finding, finding_id
from clipaudit.cues.statistics.attributes import AttributeScreen


def column_finding(context: Context, screen: AttributeScreen) -> Finding:
    """A column that is tied to the classes without any value that is."""
    # a column of two values has no row of its own: each value is the whole
    place = len(screen.values) if screen.has_whole else 0
    m = context.row_of(screen, place)
    upper = context.family.cuts[m].upper
    association = building.attribute_association(context, screen, place)
    case = VerdictCase(
        kind="column",
        classes_from=context.classes_from,
        association=association,
        few_sources=context.few_sources,
    )
    outcome = headline(verdicts(case))
    column = column_in_words(screen.attribute.column)
    words = building.named_words(context, upper, column, column)
    missing = needs(case, outcome, column, (), None, ())
    codes = screen.attribute.codes[context.scan.sample]
    scores = screen.scores[np.maximum(codes, 0), place].astype(np.float32)
    # images without a value get the mean score, which pulls to neither side
    scores[codes < 0] = scores[codes >= 0].mean() if (codes >= 0).any() else 0.0
    having = np.where(codes < 0, -1, (scores > np.median(scores)).astype(np.int64))
    model = str(context.run.manifest.model["name"])
    return Finding(
        id=finding_id(model, words.name, screen.attribute.column),
        former_ids=(),
        rank=0,
        verdict=outcome,
        kind="column",
        sentence=sentence(words, outcome, association, context.classes_from, rest=rest_of(missing)),
        action=action(outcome, words, None),
        class_name=", ".join(words.classes),
        label=context.label(first_class(context, words)),
        side=words.side,
        classes=building.class_rows(context, upper, context.family.d[m], context.family.error[m]),
        cue=Cue(
            name=column,
            words=(CueWord(text=column, property="attribute", kind="context-like", head=None, d=association.d.value),),
            opposite=None,
            heads=(),
            attribute=screen.attribute.column,
            value=None,
            class_part=None,
        ),
        association=association,
        reliance=(),
        explained_by=(),
        inseparable_from=(),
        core=screen.attribute.column in context.core_columns,
        groups=groups_of(context, screen, None),
        cells=building.attribute_cells(context, screen, upper),
        distributions=None,
        evidence=(not_measured(),),
        false_alarm=column_warnings(words.name, column, context),
        needs=missing,
        stability=building.finding_stability(context, scores, upper),
        gallery=gallery(context, scores, upper, (), having, (f"low {column}", f"high {column}")),
        no_good_word=False,
        merged=0,
    )
