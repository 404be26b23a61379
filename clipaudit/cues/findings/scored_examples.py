"""Scored images of a finding with the answers of the answerer that its verdict is of: what its figures are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s
from clipaudit.cues.findings.galleries import drawn_in_proportion
from clipaudit.cues.findings.measured_reliance import ValueCue, cue_column
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.sample_refs import sample_ref
from clipaudit.cues.result.finding_parts import SampleRef
from clipaudit.cues.result.reliance_parts import CellExamples
from clipaudit.cues.result.result import Finding
from clipaudit.cues.result.telling_cells import telling_cells
from clipaudit.cues.statistics.right import answered, right_answers

IMAGES: Final = 8
"""Of each cell."""


def with_examples(
    context: Context, answers: Answers | None, logits: Mapping[str, Float32s], cue: ValueCue, finding: Finding
) -> Finding:
    """The finding with images of the cells that show it best; logits (n, C) of the scored images by answerer.

    As it is where images have several labels, or no answerer was measured.
    """
    part = finding.relying
    if answers is None or part is None or part.answerer not in logits or context.presence is not None:
        return finding
    column, scores = cue_column(context, answers.facts, cue), logits[part.answerer]
    # a cue that the answers themselves chose has its figures from the images that did not choose it
    counted = np.ones(len(answers.truth), np.bool_) if column.scored is None else column.scored
    rng = np.random.default_rng([context.options.seed, 23])
    examples = []
    for cell in telling_cells(part.cells, finding.having).all:
        k = context.names.names.index(cell.class_name)
        # a class that has the cue conflicts without it, another one with it
        with_cue = int(bool(column.pointed[k]) != cell.conflicting)
        inside = counted & (answers.truth == k) & (column.having == with_cue)
        examples.append(
            CellExamples(
                class_name=cell.class_name,
                conflicting=cell.conflicting,
                images=_images(context, answers, scores, inside, cue.ends[with_cue], rng),
            )
        )
    parts = (replace(each, examples=tuple(examples)) if each is part else each for each in finding.reliance)
    return replace(finding, reliance=tuple(parts))


def _images(
    context: Context, answers: Answers, logits: Float32s, inside: Bools, value: str, rng: np.random.Generator
) -> tuple[SampleRef, ...]:
    """Some of the scored images inside (n,), right and wrong answers in proportion."""
    names = context.names.names
    places = drawn_in_proportion(inside & answered(logits), right_answers(logits, answers.truth), IMAGES, rng)
    return tuple(
        replace(
            sample_ref(answers.facts, place, context.names),
            predicted=names[int(logits[place].argmax())],
            value=value,
        )
        for place in places.tolist()
    )
