"""The rehearsal of a whole audit: the columns that go with classes, with the words of the audit's own heads (S14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clipaudit.cues.answerers.panel import Panel
from clipaudit.cues.findings.by_attribute import CARRIES
from clipaudit.cues.findings.leaned_heads import leaned_heads
from clipaudit.cues.findings.measured_reliance import (
    ValueCue,
    cue_column,
    having_of,
    reliance_options,
    scored_images,
)
from clipaudit.cues.findings.rehearsal_panel import (
    MOST_COLUMNS,
    RehearsedValue,
    not_rehearsed,
    rehearsal_panel,
)
from clipaudit.cues.measure.context import Context
from clipaudit.cues.rehearsal.experiment import ColumnExperiment
from clipaudit.cues.reliance.images import cue_cells
from clipaudit.cues.result.rehearsal_parts import LeanedHead, RehearsalPanel


def audit_rehearsal(
    context: Context, panel: Panel | None, cues: Sequence[ValueCue], experiments: Mapping[str, ColumnExperiment]
) -> RehearsalPanel | None:
    """What a model would learn of the columns that go with classes, those that the user declared first, then the image
    properties, each strongest first; None without labels. experiments: by column, whose weighted models are used
    again."""
    if panel is None or context.answers is None:
        return None
    if panel.rehearsed is None:
        return not_rehearsed(panel.not_rehearsed or "", context.rows, len(context.answers.facts))
    strongest: dict[str, ValueCue] = {}
    for cue in cues:  # strongest first
        if cue.associated:
            strongest.setdefault(cue.screen.attribute.column, cue)
    rehearsed = sorted(strongest.values(), key=lambda cue: cue.screen.attribute.column in context.measured)
    return rehearsal_panel(
        panel.rehearsed,
        scored_images(context, context.answers.facts),
        [_value(context, panel, cue) for cue in rehearsed[:MOST_COLUMNS]],
        context.names.names,
        at_hand=len(context.facts),
        rows=context.rows,
        options=reliance_options(context),
        experiments=experiments,
    )


def _value(context: Context, panel: Panel, cue: ValueCue) -> RehearsedValue:
    assert context.answers is not None
    return RehearsedValue(
        column=cue.screen.attribute.column,
        value=cue.value,
        word=cue.word,
        # its arms are compared as they are seen: no verdict rests on them, and none is corrected
        cue=replace(cue_column(context, context.answers.facts, cue), error=None),
        heads=_heads(context, panel, cue),
    )


def _heads(context: Context, panel: Panel, cue: ValueCue) -> tuple[LeanedHead, ...]:
    """Heads in the words of the direction that goes most with the cue in each."""
    if panel.rehearsed is None or context.answers is None:
        return ()
    strength = context.differences(having_of(cue.screen.attribute.codes[context.scan.sample], cue.value))
    words: dict[str, str] = {}
    for m in np.argsort(-strength, kind="stable").tolist():
        # a head whose directions hardly go with the cue has no word for it
        if strength[m] >= CARRIES:
            words.setdefault(context.scan.directions[m].head, context.scan.directions[m].text)
    comparison = cue_cells(
        scored_images(context, context.answers.facts), cue_column(context, context.answers.facts, cue)
    )
    return leaned_heads(panel.rehearsed.rehearsal, context.answers, comparison, lambda head: words.get(head, ""))
