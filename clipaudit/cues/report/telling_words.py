"""The cells that show a finding best, in words, with how they are answered."""

from __future__ import annotations

from collections.abc import Iterator

from clipaudit.cues.report.words import cue_word
from clipaudit.cues.result.column_words import value_word
from clipaudit.cues.result.finding_parts import Estimate, GroupAccuracy, Verdict
from clipaudit.cues.result.reliance_parts import CellAccuracy, CellExamples, Reliance
from clipaudit.cues.result.result import Finding


def example_cells(finding: Finding) -> Iterator[tuple[CellAccuracy, CellExamples]]:
    """The cells that have pictures of scored images, of the answerer that the verdict is of, in the order shown."""
    part = finding.relying
    for examples in part.examples if part is not None else ():
        cells = (cell for cell in part.cells if _key(cell) == _key(examples)) if part is not None else ()
        for cell in cells:
            yield cell, examples


def cell_in_words(finding: Finding, cell: CellAccuracy) -> str:
    """`“dog” with “sketch”`; of more than two values `“dog” without “cartoon”`."""
    has_cue, other = _has_cue(finding, cell), _other_value(finding)
    if has_cue or other is None:
        return f"“{cell.class_name}” {'with' if has_cue else 'without'} “{cue_word(finding)}”"
    return f"“{cell.class_name}” with “{value_word(finding.cue.attribute, other)}”"


def group_of(finding: Finding, cell: CellAccuracy) -> GroupAccuracy | None:
    """The group of the finding's groups that is this cell; None where the cell is of several values."""
    value = finding.cue.value if _has_cue(finding, cell) else _other_value(finding)
    groups = () if finding.groups is None or value is None else finding.groups.groups
    return next((group for group in groups if (group.class_name, group.value) == (cell.class_name, value)), None)


def accuracy_of(finding: Finding, part: Reliance, cell: CellAccuracy) -> Estimate:
    """How the cell is answered: for CLIP the group's figure, which the page's table of groups has, too, unless its
    answers chose the cue: the group holds the images that chose it as well."""
    of_group = part.answerer == "clip" and part.verdict != Verdict.MODEL_ONLY
    group = group_of(finding, cell) if of_group else None
    return cell.accuracy if group is None or group.accuracy is None else group.accuracy


def _key(cell: CellAccuracy | CellExamples) -> tuple[str, bool]:
    return cell.class_name, cell.conflicting


def _has_cue(finding: Finding, cell: CellAccuracy) -> bool:
    return (cell.class_name in finding.having) != cell.conflicting


def _other_value(finding: Finding) -> str | None:
    """The column's other value, where it has two."""
    groups = () if finding.groups is None else finding.groups.groups
    others = {group.value for group in groups if group.value is not None} - {finding.cue.value}
    return others.pop() if len(others) == 1 else None
