"""The rehearsal on the page: bars of the worst group for every way to train, the table and the learning curve."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from clipaudit.cues.report.plots import interval_row
from clipaudit.cues.report.words import count, counted, limits, points, share
from clipaudit.cues.result.column_words import column_in_words, value_word
from clipaudit.cues.result.rehearsal_parts import ColumnRehearsal, RehearsalArm, RehearsalPanel
from clipaudit.cues.result.result import AuditResult, Finding

_ARMS: Final = {
    "as it is": "as they are",
    "group weights": "with the group weights",
    "balanced subset": "on the balanced subset",
    "cue taken out": "with the cue taken out",
    "last layer on a balanced part": "last layer from a balanced part",
}
"""How a probe is trained, in words that follow `trained`."""
_FILES: Final = {"group weights": "weights.parquet", "balanced subset": "balanced_subset.txt"}
"""What a report exports for them."""
_GLANCE: Final = ("as it is", "group weights", "balanced subset")
"""Ways to train that stand on the first screen."""


@dataclass(frozen=True, kw_only=True)
class ArmLine:
    """One way to train."""

    name: str
    file: str
    """The export that it needs; empty for none."""
    images: str
    worst: float
    """0..1"""
    worst_limits: str
    worst_name: str
    mean: str
    mean_limits: str
    average: str
    gap: str
    gap_limits: str
    gain: str
    gain_limits: str
    kind: str
    """CSS class of the bar."""
    plot: Markup
    """Worst group and group mean with their intervals."""


@dataclass(frozen=True, kw_only=True)
class ColumnLines:
    """One column's rehearsal."""

    title: str
    column: ColumnRehearsal
    lines: tuple[ArmLine, ...]
    curve: tuple[tuple[str, str, str], ...]
    """Conflicting images, worst group and group mean, in words."""
    heads: tuple[tuple[str, str, str], ...]
    """Head, words and share of the cue's push."""


def rehearsal_columns(result: AuditResult) -> tuple[ColumnLines, ...]:
    """Every column that was rehearsed."""
    columns, balanced = (result.rehearsal.columns if result.rehearsal else ()), _balanced_alone(result)
    return tuple(_column(column, column.attribute == balanced) for column in columns)


def rehearsal_of(result: AuditResult, finding: Finding) -> ColumnRehearsal | None:
    """The rehearsal of a finding's own value, if it has arms; None where there is none."""
    columns = result.rehearsal.columns if result.rehearsal else ()
    pair = (finding.cue.attribute, finding.cue.value)
    return next((column for column in columns if (column.attribute, column.value) == pair and column.able), None)


def glance(result: AuditResult) -> tuple[str, tuple[tuple[str, float, str], ...]]:
    """Title and bars (name, share, CSS class) of the first finding's rehearsal; no bars where there is none."""
    column = rehearsal_of(result, result.findings[0]) if result.findings and result.trust.valid else None
    if column is None:
        return "", ()
    bars = [(_ARMS[arm.name], arm.worst_group.value or 0.0, _kind(arm)) for arm in column.arms if arm.name in _GLANCE]
    return "A model trained on these images: its worst group", tuple(bars)


def _balanced_alone(result: AuditResult) -> str | None:
    """The column that the exported balanced subset balances, where it is one alone; else None."""
    table = result.rows.get("balanced")
    stored = None if table is None else (table.schema.metadata or {}).get(b"columns")
    columns = [] if stored is None else json.loads(stored)
    return columns[0] if len(columns) == 1 else None


def how_rehearsed(panel: RehearsalPanel | None) -> str:
    """What was trained on what, in one sentence; empty where nothing could be."""
    if panel is None:
        return ""
    if panel.not_rehearsed is not None:
        return f"Nothing was trained: {panel.not_rehearsed}."
    images = counted(panel.training_images, "image")
    if panel.out_of_fold:
        how = (
            f"each fifth of {counted(panel.scored_images, 'image')} was scored by a probe of about {images} of the rest"
        )
    else:
        sample = (
            "" if panel.training_images >= panel.training_rows_at_hand else f" of {count(panel.training_rows_at_hand)}"
        )
        how = f"it was trained on {images}{sample} and scored on {count(panel.scored_images)} others"
    return (
        "A linear probe on the stored embeddings stands for a model that is trained on these images, such as a"
        f" fine-tuned last layer: {how}; {share(panel.accuracy.value if panel.accuracy else None, 0)} right over all."
        " Near duplicates are never on both sides."
    )


def _column(column: ColumnRehearsal, balanced: bool) -> ColumnLines:
    """balanced: whether the exported subset is that of this column alone."""
    word = value_word(column.attribute, column.value)
    return ColumnLines(
        title=f"{column_in_words(column.attribute)}: “{word}”, which goes with “{column.classes}”",
        column=column,
        lines=tuple(_line(arm, balanced) for arm in column.arms),
        curve=tuple(
            (count(point.conflicting), share(point.worst_group, 0), share(point.group_mean, 0))
            for point in (column.curve.points if column.curve else ())
        ),
        heads=tuple((head.head, head.text, share(head.share, 0)) for head in column.heads),
    )


def _line(arm: RehearsalArm, balanced: bool) -> ArmLine:
    file = _FILES.get(arm.name, "")
    return ArmLine(
        name=_ARMS[arm.name],
        # weights.parquet has the weights of each column alone, the subset is one: of several columns none's own
        file=file if balanced or arm.name != "balanced subset" else "",
        images=count(arm.training_images),
        worst=arm.worst_group.value or 0.0,
        worst_limits=limits(arm.worst_group, "share"),
        worst_name=arm.worst,
        mean=share(arm.group_mean.value, 0),
        mean_limits=limits(arm.group_mean, "share"),
        average=share(arm.average.value, 0),
        gap=points(arm.gap.value),
        gap_limits=limits(arm.gap, "points"),
        gain="–" if arm.gain is None else points(arm.gain.value),
        gain_limits=limits(arm.gain, "points"),
        kind=_kind(arm),
        plot=interval_row([("second", arm.worst_group), ("before", arm.group_mean)], 0, 1),
    )


def _kind(arm: RehearsalArm) -> str:
    return "bad" if arm.name == "as it is" else "after"
