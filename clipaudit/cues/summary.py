"""Findings, controls and facts put together: ranks, the map, the trust panel, the answer in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clipaudit.arrays import Ints
from clipaudit.cues.findings import parts
from clipaudit.cues.findings.by_attribute import groups_of
from clipaudit.cues.findings.sentences import listed
from clipaudit.cues.findings.verdicts import ORDER
from clipaudit.cues.measure.context import ColumnTest, Context, Progress
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.overview import differences, points
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Estimate, Groups, Verdict
from clipaudit.cues.result.given_parts import GivenModel
from clipaudit.cues.result.mistake_parts import AnswererErrors, DoubtfulLabels
from clipaudit.cues.result.panels import (
    AttributeTable,
    ClassFacts,
    Data,
    Dropped,
    Hygiene,
    LeftOut,
    Settings,
    Shift,
    StateRead,
    Trust,
)
from clipaudit.cues.result.rehearsal_parts import RehearsalPanel
from clipaudit.cues.result.reliance_parts import Placebo
from clipaudit.cues.result.result import SCHEMA_VERSION, AuditResult, Finding
from clipaudit.cues.statistics.attributes import AttributeScreen
from clipaudit.cues.statistics.intervals import GATE, accuracy
from clipaudit.cues.trust_panel import right_answers, run_controls, trust_of
from clipaudit.run.reader import Run


def ranked(findings: Sequence[Finding], most: int) -> tuple[Finding, ...]:
    """In the order in which they should be looked at, with ranks."""

    def weight(finding: Finding) -> tuple[int, float, str, str]:
        low = finding.association.d.low or 0.0
        return ORDER.index(finding.verdict), -low, finding.class_name, finding.cue.name

    return tuple(replace(finding, rank=rank) for rank, finding in enumerate(sorted(findings, key=weight)[:most], 1))


def assemble(
    context: Context,
    findings: tuple[Finding, ...],
    *,
    test_run: Run | None,
    settings: Settings,
    versions: dict[str, str],
    dropped: tuple[Dropped, ...],
    shift: Shift | None,
    errors: tuple[AnswererErrors, ...],
    labels: DoubtfulLabels | None,
    hygiene: Hygiene,
    placebo: Placebo | None,
    rehearsal: RehearsalPanel | None,
    given: tuple[GivenModel, ...],
    everything: ImageFacts,
    left_out: tuple[LeftOut, LeftOut | None],
    rows: dict[str, Any],
    progress: Progress,
) -> AuditResult:
    """The whole result."""
    controls = run_controls(context, progress)
    trust = trust_of(context, controls, hygiene, placebo)
    facts = class_facts(context, everything)
    tables = tuple(column_table(context, *pair) for pair in zip(context.attributes, context.columns, strict=True))
    reasons = undecided(context, facts, tables, trust, dropped)
    return AuditResult(
        schema_version=SCHEMA_VERSION,
        **run_names(context.run, test_run),
        verdict=_verdict(findings, hygiene, reasons),
        sentence=answer(findings, trust, hygiene, context, reasons),
        findings=findings,
        map=points(context, findings),
        classes=facts,
        attributes=tables,
        differences=differences(context, findings),
        groups=plain_groups(context),
        predictability=context.scan.predictability,
        shift=shift,
        errors=errors,
        labels=labels,
        hygiene=hygiene,
        rehearsal=rehearsal,
        given=given,
        controls=controls,
        trust=trust,
        dropped=dropped,
        data=_data(context, everything, left_out),
        settings=settings,
        versions=versions,
        started="",
        seconds=0.0,
        rows=rows,
    )


def run_names(run: Run, test_run: Run | None) -> dict[str, Any]:
    """What a result is of."""
    return {
        "run": run.url,
        "test_run": None if test_run is None else test_run.url,
        "model": str(run.manifest.model["name"]),
        "model_fingerprint": str(run.manifest.model["fingerprint"]),
        "run_fingerprint": run.manifest.fingerprint,
        "state": state_read(run),
        "test_state": None if test_run is None else state_read(test_run),
    }


def state_read(run: Run) -> StateRead:
    """Which state of a run was read."""
    return StateRead(generation=run.state.generation, committed_at=run.state.committed_at)


def column_table(context: Context, screen: AttributeScreen, test: ColumnTest) -> AttributeTable:
    """One column as a whole (S6b)."""
    d = None
    if screen.has_whole:
        low, high = screen.screen.limits[-1]
        n = round(float(screen.independent.sum()) / 2)
        d = Estimate(value=screen.screen.cuts[-1].d, low=float(low), high=float(high), n=n)
    error = context.known_errors.get(screen.attribute.column)
    return AttributeTable(
        attribute=screen.attribute.column,
        cells=parts.attribute_cells(context, screen),
        cramers_v=test.omnibus.cramers_v,
        p=test.omnibus.p,
        kind=test.kind,
        tied=test.omnibus.tied,
        multi_class_auc=test.multi_class_auc,
        d=d,
        decided=test.omnibus.tied or float(screen.independent.sum(axis=1).min()) >= GATE,
        known_error=None if error is None else error.rate,
    )


def undecided(
    context: Context,
    classes: Sequence[ClassFacts],
    tables: Sequence[AttributeTable],
    trust: Trust,
    dropped: Sequence[Dropped],
) -> tuple[str, ...]:
    """Why an audit without findings is no pass: what was not tested well enough, one sentence each."""
    reasons = []
    if context.classes_from == "label" and trust.near_chance:
        reasons.append("CLIP's answers are no better than guessing")
    if not context.scan.directions:
        reasons.append("the audited heads tell no images apart beyond the class names, so that no text was tested")
    reasons += [
        f"the column {column_in_words(column.what)} could not be tested ({column.reason})"
        for column in dropped
        if column.head is None
    ]
    # also classes with too few images to be tested at all
    few = [facts.class_name for facts in classes if facts.n and facts.independent < GATE]
    if few:
        verb = "has" if len(few) == 1 else "have"
        reasons.append(f"{listed(few)} {verb} fewer than {GATE} independent images")
    if context.few_sources:
        reasons.append(f"the images come from {context.design.clusters} sources, and eight are needed")
    reasons += [
        f"{column_in_words(table.attribute)} has fewer than {GATE} independent images with a value in a class"
        for table in tables
        if not table.decided and not few
    ]
    return (*reasons, *(() if few else open_values(context)))


def open_values(context: Context) -> tuple[str, ...]:
    """Which values of columns cannot be said to go with a class, or not to, from these images; a sentence a column.

    Of image properties, for which nobody asked, only what is a finding is left open: real classes differ in everything,
    and must not make a pass impossible (trap 28)."""
    reasons = []
    for screen in (each for each in context.attributes if each.attribute.column not in context.measured):
        start = context.row_of(screen, 0)
        limits = context.family.limits[start : start + len(screen.values)]
        wide = (limits[:, 1] > context.options.delta_warn) & ~context.passed[start : start + len(screen.values)]
        if wide.any():
            names = [screen.attribute.values[v] for v in screen.values[wide].tolist()]
            column = column_in_words(screen.attribute.column)
            reasons.append(f"whether {listed(names)} of {column} goes with a class cannot be told from these images")
    return tuple(reasons)


def _verdict(findings: Sequence[Finding], hygiene: Hygiene, reasons: Sequence[str]) -> Verdict | None:
    """The first finding's; without findings a run that lacks shards, or too few images, is no pass."""
    if findings:
        return findings[0].verdict
    return Verdict.INCONCLUSIVE if hygiene.failed_shards or reasons else None


def answer(
    findings: Sequence[Finding], trust: Trust, hygiene: Hygiene, context: Context, reasons: Sequence[str] = ()
) -> str:
    """What is wrong, how much, how sure."""
    if not trust.valid:
        return f"This audit is not valid: {trust.problems[0]}"
    missing = f" {hygiene.failed_shards} shards of the run are missing, so that this is not the whole data set."
    tail = missing if hygiene.failed_shards else ""
    if not findings:
        none = "No shortcut cue was found for" if context.classes_from == "label" else "No cue goes with"
        open_ = f" That is not decided: {'; '.join(reasons)}." if reasons else ""
        return (
            f"{none} any of the {context.design.classes} classes ({trust.tests:,} tests on"
            f" {len(context.facts):,} images, least |D| {context.options.delta_warn:g}).{open_}{tail}"
        )
    more = len(findings) - 1
    others = f" There {'is' if more == 1 else 'are'} {more} more finding{'s' if more > 1 else ''}." if more else ""
    return f"{findings[0].sentence}{others}{tail}"


# -- the map, classes, groups ------------------------------------------------------------------------------------------


def class_facts(context: Context, everything: ImageFacts) -> tuple[ClassFacts, ...]:
    """Every class that the association's rows or the class file have."""
    counts, independent = class_sizes(everything, len(context.names))
    truth, right = right_answers(context) or (np.empty(0, np.int64), np.empty(0, np.bool_))
    entries = []
    for k, (label, name) in enumerate(zip(context.names.labels, context.names.names, strict=True)):
        inside = truth == k
        scored = int(inside.sum())
        entries.append(
            ClassFacts(
                class_name=name,
                label=label,
                n=int(counts[k]),
                independent=int(independent[k]),
                tested=bool((context.tested == k).any()),
                accuracy=accuracy(int(right[inside].sum()), scored) if scored else None,
            )
        )
    return tuple(entries)


def class_sizes(facts: ImageFacts, classes: int) -> tuple[Ints, Ints]:
    """(C,) images, and independent images, of each class."""
    pairs = np.unique(np.stack([facts.truth, facts.cluster]), axis=1)
    return np.bincount(facts.truth, minlength=classes), np.bincount(pairs[0], minlength=classes)


def plain_groups(context: Context) -> tuple[Groups, ...]:
    """Accuracy by class and value of each attribute, over all scored images."""
    tables = (groups_of(context, screen, None) for screen in context.attributes)
    return tuple(groups for groups in tables if groups is not None)


def _data(context: Context, everything: ImageFacts, left_out: tuple[LeftOut, LeftOut | None]) -> Data:
    scored = None if context.answers is None else context.answers.facts
    discovery = 0 if scored is None else int(scored.discovery.sum())
    labelled = Verdict.CONFIRMED if context.attributes or context.measured else Verdict.CANDIDATE
    return Data(
        association=context.rows,
        counterfactual=None if scored is None else context.answers_rows,
        rows=len(everything),
        counterfactual_rows=0 if scored is None else len(scored),
        discovery_rows=discovery,
        confirmation_rows=0 if scored is None else len(scored) - discovery,
        clusters=int(everything.cluster.max(initial=-1)) + 1,
        attributes=tuple(s.attribute.column for s in context.attributes if s.attribute.column not in context.measured),
        image_properties=context.measured,
        evidence=labelled if context.classes_from == "label" else Verdict.OBSERVED,
        left_out=left_out[0],
        test_left_out=left_out[1],
    )
