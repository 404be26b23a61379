"""What a model of one label of several makes of the columns that the label goes with: verdicts' numbers and arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clipaudit.cues.answerers.label_reliance import label_reliance
from clipaudit.cues.answerers.rehearsed import RehearsedAnswerer
from clipaudit.cues.findings.label_rehearsal import label_column
from clipaudit.cues.findings.measured_reliance import (
    ValueCue,
    column_experiments_of,
    cue_column,
    other_columns,
    reliance_options,
    retrained_answers,
    scored_images,
    wrong_labels,
)
from clipaudit.cues.findings.rehearsal_panel import MOST_COLUMNS, RehearsedValue
from clipaudit.cues.measure.context import Context
from clipaudit.cues.reliance.ranking import presence_scores
from clipaudit.cues.reliance.rules import MeasuredReliance
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.result.rehearsal_parts import ColumnRehearsal


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelProbe:
    """A probe of one label, class 0 of the audit's two."""

    name: str
    """The label's."""
    rehearsed: RehearsedAnswerer
    labels: int
    """How many labels are measured in the audit."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredLabel:
    """What was measured of one label's cues."""

    findings: tuple[tuple[MeasuredReliance, ...], ...]
    """By cue: one answerer, or none."""
    columns: tuple[ColumnRehearsal, ...]
    """How training in other ways changes the probe, of the columns that go with the label most."""


def measured_label(context: Context, probe: LabelProbe, cues: Sequence[ValueCue]) -> MeasuredLabel:
    """Of every cue that is a value of a column; another label is said to go with this one, and not measured."""
    assert context.presence is not None
    own = [cue for cue in cues if cue.screen.attribute.column not in context.presence.others]
    if not own:
        return MeasuredLabel(findings=tuple(() for _ in cues), columns=())
    rehearsed, facts, seed = probe.rehearsed, probe.rehearsed.scored, context.options.seed
    names = tuple(dict.fromkeys(cue.screen.attribute.column for cue in own))
    experiments = column_experiments_of(rehearsed, names, len(own) * probe.labels, seed, presence_scores)
    images, columns = scored_images(context, facts), [cue_column(context, facts, cue) for cue in own]
    found = label_reliance(
        rehearsed,
        columns,
        images,
        retrained_answers(rehearsed, own, experiments),
        columns=other_columns(context, facts, own),
        options=replace(reliance_options(context), label_error=wrong_labels(rehearsed)),
        labels=probe.labels,
    )
    by_cue = {
        id(cue): (replace(part, corrected_gap=_not_corrected(context, cue)),)
        for cue, part in zip(own, found, strict=True)
    }
    strongest: dict[str, int] = {}
    for place, cue in enumerate(own):  # strongest first
        strongest.setdefault(cue.screen.attribute.column, place)
    arms = tuple(
        label_column(
            rehearsed,
            images,
            RehearsedValue(column=column, value=own[place].value, word=own[place].word, cue=columns[place], tied=True),
            probe.name,
            seed,
            experiments[column],
        )
        for column, place in list(strongest.items())[:MOST_COLUMNS]
    )
    return MeasuredLabel(findings=tuple(by_cue.get(id(cue), ()) for cue in cues), columns=arms)


def _not_corrected(context: Context, cue: ValueCue) -> Estimate | None:
    """An AUC gap is not corrected for a column's known error, so that it acquits nobody (S6c); None without one."""
    known = cue.screen.attribute.column in context.known_errors
    return Estimate(value=None, low=None, high=None, n=0) if known else None
