"""The rehearsal on the page: bars of the worst group for every way to train, the table and the learning curve."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from clipaudit.cues.report.plots import interval_row
from clipaudit.cues.report.words import count, counted, decimal, limits, points, share
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
    worst_text: str
    """The same in words: a share, or an AUC."""
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

    @property
    def worst_head(self) -> str:
        """Heading of the worst group, or of the lower AUC of a label."""
        return "Lower AUC" if self.column.label else "Worst group"

    @property
    def mean_head(self) -> str:
        """Heading of the group mean."""
        return "Mean of both AUCs" if self.column.label else "Group mean"

    @property
    def average_head(self) -> str:
        """Heading of what holds over all images."""
        return "AUC over all" if self.column.label else "Average"

    @property
    def gap_head(self) -> str:
        """Heading of the gap."""
        return "Gap of AUCs" if self.column.label else "Gap, points"


def rehearsal_columns(result: AuditResult) -> tuple[ColumnLines, ...]:
    """Every column that was rehearsed."""
    columns, balanced = (result.rehearsal.columns if result.rehearsal else ()), _balanced_alone(result)
    return tuple(_column(column, column.attribute == balanced) for column in columns)


def rehearsal_of(result: AuditResult, finding: Finding) -> ColumnRehearsal | None:
    """The rehearsal of a finding's own value, if it has arms; None where there is none."""
    columns = result.rehearsal.columns if result.rehearsal else ()
    own = (finding.cue.attribute, finding.cue.value)
    label = str(finding.label).removeprefix("not ")
    return next(
        (
            column
            for column in columns
            if (column.attribute, column.value) == own and column.able and column.label in (None, label)
        ),
        None,
    )


def glance(result: AuditResult) -> tuple[str, tuple[ArmLine, ...]]:
    """Title and bars of the first finding's rehearsal; no bars where there is none."""
    column = rehearsal_of(result, result.findings[0]) if result.findings and result.trust.valid else None
    if column is None:
        return "", ()
    bars = _column(column, True).lines
    shown = tuple(line for line, arm in zip(bars, column.arms, strict=True) if arm.name in _GLANCE)
    if column.label is not None:
        return f"A model trained on these images: AUC of “{column.label}” where the cue helps less", shown
    return "A model trained on these images: its worst group", shown


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
    labels = len({column.label for column in panel.columns if column.label is not None})
    if panel.out_of_fold:
        how = (
            f"each fifth of {counted(panel.scored_images, 'image')} was scored by a probe of about {images} of the rest"
        )
    else:
        sample = (
            "" if panel.training_images >= panel.training_rows_at_hand else f" of {count(panel.training_rows_at_hand)}"
        )
        how = f"it was trained on {images}{sample} and scored on {count(panel.scored_images)} others"
    right = f"; {share(panel.accuracy.value, 0)} right over all" if panel.accuracy is not None else ""
    if labels:
        right = f"; one probe learns whether an image has a label, of {counted(labels, 'label')}"
    return (
        "A linear probe on the stored embeddings stands for a model that is trained on these images, such as a"
        f" fine-tuned last layer: {how}{right}. Near duplicates are never on both sides."
    )


def _column(column: ColumnRehearsal, balanced: bool) -> ColumnLines:
    """balanced: whether the exported subset is that of this column alone."""
    word = value_word(column.attribute, column.value)
    label = "" if column.label is None else f"{column.label}; "
    return ColumnLines(
        title=f"{label}{column_in_words(column.attribute)}: “{word}”, which goes with “{column.classes}”",
        column=column,
        lines=tuple(_line(arm, balanced, column.label is not None) for arm in column.arms),
        curve=tuple(
            (count(point.conflicting), share(point.worst_group, 0), share(point.group_mean, 0))
            for point in (column.curve.points if column.curve else ())
        ),
        heads=tuple((head.head, head.text, share(head.share, 0)) for head in column.heads),
    )


def _line(arm: RehearsalArm, balanced: bool, of_label: bool) -> ArmLine:
    # what is exported balances classes, and no single label
    file = "" if of_label else _FILES.get(arm.name, "")
    kind, gap_kind = ("decimal", "decimal") if of_label else ("share", "points")

    def number(value: float | None) -> str:
        return decimal(value) if of_label else share(value, 0)

    def difference(value: float | None) -> str:
        return decimal(value) if of_label else points(value)

    return ArmLine(
        name=_ARMS[arm.name],
        # weights.parquet has the weights of each column alone, the subset is one: of several columns none's own
        file=file if balanced or arm.name != "balanced subset" else "",
        images=count(arm.training_images),
        worst=arm.worst_group.value or 0.0,
        worst_text=number(arm.worst_group.value),
        worst_limits=limits(arm.worst_group, kind),
        worst_name=arm.worst,
        mean=number(arm.group_mean.value),
        mean_limits=limits(arm.group_mean, kind),
        average=number(arm.average.value),
        gap=difference(arm.gap.value),
        gap_limits=limits(arm.gap, gap_kind),
        gain="–" if arm.gain is None else difference(arm.gain.value),
        gain_limits=limits(arm.gain, gap_kind),
        kind=_kind(arm),
        plot=interval_row([("second", arm.worst_group), ("before", arm.group_mean)], 0, 1),
    )


def _kind(arm: RehearsalArm) -> str:
    return "bad" if arm.name == "as it is" else "after"
