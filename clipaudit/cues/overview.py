"""The 2 x 2 map of an audit, and the differences between classes that are no candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from clipaudit.cues.findings import parts
from clipaudit.cues.findings.sentences import listed
from clipaudit.cues.measure.context import Context
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.result.panels import (
    ClassDifference,
    MapPoint,
)
from clipaudit.cues.result.result import Finding

_MAP: Final = 300
_DIFFERENCES: Final = 20


def points(context: Context, findings: Sequence[Finding]) -> tuple[MapPoint, ...]:
    """Findings, then every other value of a column, then the strongest directions."""
    points = [
        MapPoint(
            finding=finding.id,
            class_name=finding.class_name,
            cue=finding.cue.name,
            verdict=finding.verdict,
            association=finding.association.d,
            reliance=_reliance(finding),
        )
        for finding in findings
    ]
    known = {(finding.cue.attribute, finding.cue.value) for finding in findings}
    for screen in context.attributes:
        for place, value in enumerate(screen.values.tolist()):
            word = screen.attribute.values[value]
            if (screen.attribute.column, word) not in known:
                cue = f"{column_in_words(screen.attribute.column)} = {word}"
                points.append(_point(context, context.row_of(screen, place), cue))
    M = len(context.scan.directions)
    low = context.family.limits[:M, 0]
    for m in np.argsort(-low, kind="stable")[: max(0, _MAP - len(points))].tolist():
        direction = context.scan.directions[m]
        points.append(_point(context, m, f"{direction.text} ({direction.head})"))
    return tuple(points[:_MAP])


def _reliance(finding: Finding) -> Estimate | None:
    """Net effect of the answerer with the finding's verdict, or its gap where nothing was taken out or trained."""
    part = next((part for part in finding.reliance if part.verdict == finding.verdict), finding.by("clip"))
    if part is None:
        return None
    if part.effect is not None:
        return part.effect.net_did
    if part.training is not None:
        return part.training.net_fall
    return part.gap if part.gap.value is not None else None


def _point(context: Context, m: int, cue: str) -> MapPoint:
    cut, (low, high) = context.family.cuts[m], context.family.limits[m]
    return MapPoint(
        finding=None,
        class_name=listed(parts.named_words(context, cut.upper, cue).classes),
        cue=cue,
        verdict=None,
        association=Estimate(
            value=cut.d, low=float(low), high=float(high), n=round(float(context.design.counts.sum()) / 2)
        ),
        reliance=None,
    )


def differences(context: Context, findings: Sequence[Finding]) -> tuple[ClassDifference, ...]:
    """Passing directions whose heads carry no finding, strongest first."""
    M = len(context.scan.directions)
    carried = {head for finding in findings for head in finding.cue.heads}
    places = [m for m in np.flatnonzero(context.passed[:M]).tolist() if context.scan.directions[m].head not in carried]
    order = sorted(places, key=lambda m: -float(context.family.limits[m, 0]))[:_DIFFERENCES]
    result = []
    for m in order:
        cut, direction = context.family.cuts[m], context.scan.directions[m]
        low, high = context.family.limits[m]
        names = [context.name(k) for k in range(context.design.classes)]
        result.append(
            ClassDifference(
                having=tuple(name for name, above in zip(names, cut.upper, strict=True) if above),
                lacking=tuple(name for name, above in zip(names, cut.upper, strict=True) if not above),
                text=direction.text,
                head=direction.head,
                d=Estimate(
                    value=cut.d, low=float(low), high=float(high), n=round(float(context.design.counts.sum()) / 2)
                ),
            )
        )
    return tuple(result)
