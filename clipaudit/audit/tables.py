"""An audit's result as tidy tables, one row a fact: for notebooks and for whoever joins them with other tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from clipaudit.audit.parts import Counterfactual, Estimate, Groups
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.audit.result import AuditResult


def tidy(result: AuditResult, name: str) -> pa.Table:
    """One of the tables of `_TABLES` by its name; UsageError for another."""
    if name not in _TABLES:
        known = ", ".join([*_TABLES, *result.rows])
        raise UsageError(f"there is no table {name!r}: there are {known}")
    rows = _TABLES[name](result)
    return pa.Table.from_pylist(rows) if rows else pa.table({})


def _findings(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "rank": found.rank,
            "finding": found.id,
            "verdict": str(found.verdict),
            "class": found.class_name,
            "cue": found.cue.name,
            "heads": list(found.cue.heads),
            **_estimate("d", found.association.d),
            "q": found.association.q,
            "p_family": found.association.p_family,
            **_effects(found.counterfactual),
            "images_needed": max((need.images or 0 for need in found.needs), default=0) or None,
        }
        for found in result.findings
    ]


def _effects(found: Counterfactual | None) -> dict[str, float | None]:
    arm = None if found is None else found.arms[0]
    return {
        **_estimate("conflict", None if arm is None else arm.delta_conflict),
        **_estimate("group_mean", None if arm is None else arm.delta_group_mean),
        "p_control": None if arm is None or arm.control is None else arm.control.p,
    }


def _associations(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "finding": point.finding,
            "class": point.class_name,
            "cue": point.cue,
            "verdict": None if point.verdict is None else str(point.verdict),
            **_estimate("d", point.association),
            **_estimate("reliance", point.reliance),
        }
        for point in result.map
    ]


def _groups(result: AuditResult) -> list[dict[str, Any]]:
    sets: list[tuple[str | None, Groups]] = [(None, groups) for groups in result.groups]
    sets += [(found.id, found.counterfactual.before) for found in result.findings if found.counterfactual]
    return [
        {
            "finding": finding,
            "attribute": groups.attribute,
            "class": group.class_name,
            "value": group.value,
            "n": group.n,
            "size": group.size,
            **_estimate("accuracy", group.accuracy),
            **_estimate("without", group.without),
            **_estimate("change", group.change),
        }
        for finding, groups in sets
        for group in groups.groups
    ]


def _arms(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "finding": found.id,
            "arm": arm.name,
            "heads": list(arm.heads),
            **_estimate("conflict", arm.delta_conflict),
            **_estimate("group_mean", arm.delta_group_mean),
            **_estimate("worst", arm.delta_worst),
            **_estimate("plain", arm.delta_plain),
        }
        for found in result.findings
        if found.counterfactual
        for arm in found.counterfactual.arms
    ]


def _shift(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "class": row.class_name,
            "cue": row.cue,
            "head": row.head,
            **_estimate("train", row.train),
            **_estimate("test", row.test),
            **_estimate("difference", row.difference),
            "q": row.q,
        }
        for row in (result.shift.rows if result.shift else ())
    ]


def _classes(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "class": found.class_name,
            "label": str(found.label),
            "n": found.n,
            "independent": found.independent,
            "tested": found.tested,
            **_estimate("accuracy", found.accuracy),
        }
        for found in result.classes
    ]


def _predictability(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "head": found.head,
            **_estimate("skill", found.skill),
            **_estimate("class_free", found.skill_class_free),
            "cue_share": found.cue_share,
        }
        for found in result.predictability
    ]


def _estimate(name: str, found: Estimate | None) -> dict[str, float | None]:
    ends: Sequence[tuple[str, float | None]] = (
        (name, found.value if found else None),
        (f"{name}_low", found.low if found else None),
        (f"{name}_high", found.high if found else None),
    )
    return dict(ends)


_TABLES: dict[str, Callable[[AuditResult], list[dict[str, Any]]]] = {
    "findings": _findings,
    "associations": _associations,
    "group_accuracy": _groups,
    "arms": _arms,
    "shift": _shift,
    "classes": _classes,
    "predictability": _predictability,
}
