"""Labels to look at, as the result holds them, and their rows of `review.csv` (S16)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from clipaudit.arrays import Bools, Float32s
from clipaudit.cues.answerers.panel import Panel
from clipaudit.cues.answerers.rehearsed import TRAINING_ROWS, RehearsedAnswerer, rehearsed_answerer
from clipaudit.cues.measure.answers import sampled
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.sample_refs import sample_ref
from clipaudit.cues.mistakes import label_issues
from clipaudit.cues.result.mistake_parts import DoubtfulLabel, DoubtfulLabels, LabelPair
from clipaudit.cues.statistics.right import answered

EXAMPLES: Final = 16
_PAIRS: Final = 10
FINDING: Final = "label"
"""In the column `finding` of `review.csv`, where other rows have a finding's id."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelParts:
    """Labels to look at, and a row of `review.csv` for each."""

    labels: DoubtfulLabels | None
    rows: pa.Table


@dataclass(frozen=True, eq=False, kw_only=True)
class _Answered:
    """Images and (n, C) answers of a probe that was trained on none of them, but on their classes."""

    facts: ImageFacts
    logits: Float32s

    def conflicts(self) -> Bools:
        """(n,) images of which a near duplicate has another label."""
        pairs = np.unique(np.stack([self.facts.cluster, self.facts.truth]), axis=1)
        mixed: Bools = np.bincount(pairs[0])[self.facts.cluster] > 1
        return mixed


def doubtful_labels(context: Context, panel: Panel | None) -> LabelParts:
    """Label issues of the association's images and, where others are scored, of these too; nothing where no probe was
    rehearsed."""
    rehearsed = None if panel is None else panel.rehearsed
    if rehearsed is None:
        return LabelParts(labels=None, rows=_REVIEW.empty_table())
    parts = [_answered_by(rehearsed)]
    if not rehearsed.out_of_fold:
        # the scored images are others: those that train are answered out of fold
        facts = sampled(context.facts, TRAINING_ROWS, context.options.seed)
        own = rehearsed_answerer(facts, facts, len(context.names), out_of_fold=True, seed=context.options.seed)
        parts.insert(0, _answered_by(own))
    labels = np.concatenate([part.facts.truth for part in parts])
    issues = label_issues.label_issues(np.concatenate([part.logits for part in parts]), labels)
    return _result(context, parts, issues)


def _answered_by(probe: RehearsedAnswerer) -> _Answered:
    """Without images of classes that are not tested: a probe that never saw their class contradicts them all."""
    rows = np.flatnonzero(answered(probe.logits))
    return _Answered(facts=probe.scored.take(rows), logits=probe.logits[rows])


def _result(context: Context, parts: Sequence[_Answered], issues: label_issues.LabelIssues) -> LabelParts:
    names = context.names
    starts = np.concatenate([[0], np.cumsum([len(part.facts) for part in parts])])
    conflicts = [np.zeros(len(part.facts), np.bool_) if context.named_sources else part.conflicts() for part in parts]
    entries, rows = [], []
    for number, place in enumerate(issues.listed.tolist()):
        which = int(np.searchsorted(starts, place, side="right")) - 1
        facts, inside = parts[which].facts, int(place - starts[which])
        looks_like = names.names[int(issues.suggested[place])]
        ref = replace(sample_ref(facts, inside, names), predicted=looks_like)
        entry = DoubtfulLabel(
            image=ref,
            margin=float(issues.margin[place]),
            rate=float(issues.rates[number]),
            duplicate_conflict=bool(conflicts[which][inside]),
        )
        entries.append(entry)
        rows.append(
            {
                "finding": FINDING,
                "shard_id": ref.shard_id,
                "index": ref.index,
                "key": ref.key,
                "class": ref.class_name,
                "reason": _reason(entry),
            }
        )
    pairs = Counter((str(entry.image.class_name), str(entry.image.predicted)) for entry in entries)
    part = DoubtfulLabels(
        images=len(issues.margin),
        contradicted=len(issues.contradicted),
        listed=len(entries),
        fdr=issues.fdr,
        expected_wrong=issues.expected_wrong,
        wrong_share=issues.wrong_share,
        pairs=tuple(
            LabelPair(label=label, looks_like=other, images=count)
            for (label, other), count in pairs.most_common(_PAIRS)
        ),
        examples=tuple(entries[:EXAMPLES]),
        sentence="",
    )
    table = pa.Table.from_pylist(rows, schema=_REVIEW)
    return LabelParts(labels=replace(part, sentence=_sentence(part)), rows=table)


def _reason(entry: DoubtfulLabel) -> str:
    duplicate = "; a near duplicate has another label" if entry.duplicate_conflict else ""
    return (
        f"label contradicted: looks like {entry.image.predicted} (log odds {entry.margin:.1f}; of the labels up to here"
        f" {100 * entry.rate:.0f} % may be right){duplicate}"
    )


def _sentence(part: DoubtfulLabels) -> str:
    """How many labels to look at, and how many of them may be right."""
    who = "a model that was trained on the other images"
    if not part.listed:
        more = (
            "" if not part.contradicted else f" It contradicts {part.contradicted:,}, no more than hard images explain."
        )
        return f"No label to look at: {who} contradicts none of {part.images:,} labels beyond doubt.{more}"
    return (
        f"{part.listed:,} of {part.images:,} labels to look at: {who} is sure of another class. About"
        f" {part.expected_wrong:.0f} of them are wrong (estimated false-discovery rate {100 * (part.fdr or 0):.0f} %)."
    )


_REVIEW: Final = pa.schema(
    [
        ("finding", pa.string()),
        ("shard_id", pa.int32()),
        ("index", pa.int32()),
        ("key", pa.string()),
        ("class", pa.string()),
        ("reason", pa.string()),
    ]
)
