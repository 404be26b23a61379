"""The item of evidence that an audit leaves open, because a run does not store where in an image heads look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from clipaudit.cues.result.finding_parts import Evidence
from clipaudit.cues.result.result import AuditResult, Finding

NAME: Final = "off the object"
LEFT_OPEN: Final = "a run stores what heads add up to, not where in the image it comes from; a report looks there"


def not_measured(reason: str = LEFT_OPEN) -> Evidence:
    """The item where nothing was measured; `reason` is a sentence, or the end of one."""
    return Evidence(name=NAME, supports=None, value=None, sentence=f"Not measured: {reason.rstrip('.')}.")


def with_off_object(result: AuditResult, measure: Callable[[Finding], Evidence]) -> AuditResult:
    """The audit with what `measure` says of each finding in the place of its open item."""
    return replace(result, findings=tuple(_measured(finding, measure) for finding in result.findings))


def _measured(finding: Finding, measure: Callable[[Finding], Evidence]) -> Finding:
    if not any(item.name == NAME for item in finding.evidence):
        return finding
    evidence = measure(finding)
    return replace(finding, evidence=tuple(evidence if item.name == NAME else item for item in finding.evidence))
