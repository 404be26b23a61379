"""All findings of an audit: values of columns, columns as a whole, and texts that no column stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipaudit.arrays import Ints
from clipaudit.cues.answerers.panel import Panel
from clipaudit.cues.findings.audit_rehearsal import audit_rehearsal
from clipaudit.cues.findings.by_attribute import value_finding
from clipaudit.cues.findings.by_column import column_finding
from clipaudit.cues.findings.by_text import text_finding
from clipaudit.cues.findings.candidates import grounded_in, text_cues
from clipaudit.cues.findings.given_models import given_model
from clipaudit.cues.findings.measured_reliance import ValueCue, having_of, measure_reliance, scored_images
from clipaudit.cues.findings.value_cues import same_parting, stand_ins, value_cues
from clipaudit.cues.measure.context import Context, Progress
from clipaudit.cues.measure.picture_columns import is_measured
from clipaudit.cues.reliance.rules import PlaceboDraws
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.result.given_parts import GivenModel
from clipaudit.cues.result.rehearsal_parts import RehearsalPanel
from clipaudit.cues.result.result import Finding
from clipaudit.cues.statistics.attributes import AttributeScreen, Omnibus

_KEPT_WITHOUT_TIE = (Verdict.MODEL_ONLY, Verdict.NEEDED)
"""A value that goes with no class is a finding only if a model hangs on it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AllFindings:
    """What was found, and what was measured and trained for it."""

    findings: list[Finding]
    """Not yet ranked."""
    placebo: PlaceboDraws | None
    """How often permuted columns were believed."""
    rehearsal: RehearsalPanel | None
    """What a model would learn of the columns that go with classes; None without labels."""
    given: tuple[GivenModel, ...]
    """The user's models."""


def findings_of(context: Context, panel: Panel | None, progress: Progress) -> AllFindings:
    """Every finding of the answerers in `panel`; None without labels."""
    cues = value_cues(context)[: context.options.max_findings]
    progress("reliance", 0, 1)
    reliance = measure_reliance(context, panel, cues)
    measured = reliance.findings
    progress("reliance", 1, 1)
    rehearsal = audit_rehearsal(context, panel, cues, reliance)
    limits = [float(context.family.limits[context.row_of(cue.screen, cue.place), 0]) for cue in cues]
    judged_by = stand_ins(cues, measured, limits) if measured and measured[0] else [None] * len(cues)
    findings: list[Finding] = []
    grounds: list[tuple[int, Ints]] = []
    for done, (cue, parts, other) in enumerate(zip(cues, measured, judged_by, strict=True), 1):
        finding = value_finding(context, cue, parts, other)
        if cue.associated or finding.verdict in _KEPT_WITHOUT_TIE:
            codes = cue.screen.attribute.codes[context.scan.sample]
            grounds.append((len(findings), having_of(codes, cue.value)))
            findings.append(finding)
        progress("attributes", done, len(cues))
    # a column with a finding of a value is not listed as a whole, too
    with_value = {id(cue.screen) for cue in cues if cue.associated}
    tied = [
        (screen, test.omnibus)
        for screen, test in zip(context.attributes, context.columns, strict=True)
        if test.omnibus.tied and id(screen) not in with_value
    ]
    findings += [column_finding(context, screen) for screen in _with_one_property(context, cues, tied)]
    findings += _text_findings(context, grounds, progress)
    return AllFindings(
        findings=findings, placebo=reliance.placebo, rehearsal=rehearsal, given=_given_models(context, panel)
    )


def _given_models(context: Context, panel: Panel | None) -> tuple[GivenModel, ...]:
    if panel is None or context.answers is None:
        return ()
    images = scored_images(context, context.answers)
    return tuple(given_model(part, images, context.names, context.options.seed) for part in panel.given)


def _with_one_property(
    context: Context, cues: Sequence[ValueCue], tied: Sequence[tuple[AttributeScreen, Omnibus]]
) -> list[AttributeScreen]:
    """The tied columns, of image properties those that part the classes clearly, one for each way to part them, and
    none where an end of one has a finding that parts them so: several are tied where one is (S6b)."""
    parted = [cue.upper for cue in cues if cue.associated and is_measured(cue.screen.attribute.column)]
    chosen = set()
    for screen, _ in sorted(tied, key=lambda pair: -pair[1].cramers_v):
        if is_measured(screen.attribute.column):
            place = len(screen.values) if screen.has_whole else 0
            row = context.row_of(screen, place)
            upper = context.family.cuts[row].upper
            # real classes differ in everything, a little (trap 28)
            if not context.passed[row] or any(same_parting(upper, other) for other in parted):
                continue
            parted.append(upper)
        chosen.add(id(screen))
    return [screen for screen, _ in tied if id(screen) in chosen]


def _text_findings(context: Context, grounds: list[tuple[int, Ints]], progress: Progress) -> list[Finding]:
    """Texts that no value with a finding of its own stands for: that value has been tested itself."""
    cues = [cue for cue in text_cues(context) if grounded_in(context, cue.scores, grounds) is None]
    findings = []
    for done, cue in enumerate(cues, 1):
        findings.append(text_finding(context, cue))
        progress("texts", done, len(cues))
    return findings
