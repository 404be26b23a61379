"""Tidy tables of a result's panels: rows of plain values, an estimate as its value and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipaudit.cues.result.finding_parts import Estimate, Predictability
from clipaudit.cues.result.panels import Shift
from clipaudit.cues.result.rehearsal_parts import RehearsalPanel


def shift_rows(shift: Shift | None) -> list[dict[str, Any]]:
    """A row for each association in two sets of rows."""
    return [
        {
            "class": row.class_name,
            "cue": row.cue,
            "head": row.head,
            **estimate_columns("train", row.train),
            **estimate_columns("test", row.test),
            **estimate_columns("difference", row.difference),
            "q": row.q,
        }
        for row in (shift.rows if shift else ())
    ]


def predictability_rows(entries: Sequence[Predictability]) -> list[dict[str, Any]]:
    """A row for each head."""
    return [
        {
            "head": entry.head,
            **estimate_columns("skill", entry.skill),
            **estimate_columns("class_free", entry.skill_class_free),
            "cue_share": entry.cue_share,
        }
        for entry in entries
    ]


def rehearsal_rows(rehearsal: RehearsalPanel | None) -> list[dict[str, Any]]:
    """A row for each column and way of training."""
    return [
        {
            "attribute": column.attribute,
            "value": column.value,
            "label": column.label,
            "arm": arm.name,
            "training_images": arm.training_images,
            **estimate_columns("average", arm.average),
            **estimate_columns("group_mean", arm.group_mean),
            **estimate_columns("worst_group", arm.worst_group),
            "worst": arm.worst,
            **estimate_columns("gap", arm.gap),
            **estimate_columns("gain", arm.gain),
        }
        for column in (rehearsal.columns if rehearsal else ())
        for arm in column.arms
    ]


def estimate_columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """`name`, `name_low`, `name_high`."""
    ends: Sequence[tuple[str, float | None]] = (
        (name, estimate.value if estimate else None),
        (f"{name}_low", estimate.low if estimate else None),
        (f"{name}_high", estimate.high if estimate else None),
    )
    return dict(ends)
