"""Findings, controls and facts put together: ranks, the map, the trust panel, the answer in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.findings import parts
from clipaudit.cues.findings.by_attribute import scored_groups, train_counts
from clipaudit.cues.findings.sentences import listed
from clipaudit.cues.findings.verdicts import ORDER
from clipaudit.cues.measure.context import ColumnTest, Context, Progress
from clipaudit.cues.measure.controls import STRENGTHS, negative_control, positive_control
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.result.finding_parts import ClassesFrom, Estimate, Groups, Verdict
from clipaudit.cues.result.panels import (
    AttributeTable,
    ClassDifference,
    ClassFacts,
    Controls,
    Data,
    Hygiene,
    LeftOut,
    MapPoint,
    Settings,
    Shift,
    SourceFacts,
    Trust,
)
from clipaudit.cues.result.reliance_parts import Placebo
from clipaudit.cues.result.result import SCHEMA_VERSION, AuditResult, Finding
from clipaudit.cues.statistics.attributes import AttributeScreen
from clipaudit.cues.statistics.groups import describe_groups
from clipaudit.cues.statistics.intervals import GATE, accuracy
from clipaudit.heads.zeroshot import near_chance
from clipaudit.run.reader import Run
from clipaudit.statistics import Proportion

_MAP: Final = 300
_DIFFERENCES: Final = 20
_DIRECT: Final = (
    "Only direct effects of attention heads on the class token are measured; MLPs and what later layers read from a"
    " head stay as they are."
)
_LIMITS: Final = (
    _DIRECT,
    "What CLIP does not see, and what the text pool has no words for, is not found.",
    "Association and reliance are different things: a data set may hold a shortcut that CLIP does not use, and CLIP may"
    " use one that this data set does not hold.",
)
_GUESSING: Final = "Zero-shot answers are no better than guessing: nothing can be learnt of what CLIP relies on."
_STRANGERS: Final = "CLIP answers what captions name no more often than chance: they may not describe these images."
_UNLABELLED: Final = "What CLIP relies on is not measured: only labels say which of its answers are right."
_CLASSES: Final[dict[ClassesFrom, tuple[str, ...]]] = {
    "label": (),
    "caption": (
        "Classes are what captions name: a caption that leaves out what is there, or names what is not, puts an image"
        " into no class or a wrong one.",
        _UNLABELLED,
    ),
    "clip": (
        "Classes are CLIP's own answers, which is circular: whatever makes CLIP answer a class goes with that class,"
        " whether the class's images have it or not.",
        _UNLABELLED,
    ),
}


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
    dropped: tuple[Any, ...],
    shift: Shift | None,
    hygiene: Hygiene,
    placebo: Placebo | None,
    everything: ImageFacts,
    left_out: tuple[LeftOut, LeftOut | None],
    rows: dict[str, Any],
    progress: Progress,
) -> AuditResult:
    """The whole result."""
    controls = run_controls(context, progress)
    trust = trust_of(context, controls, hygiene, placebo)
    facts = class_facts(context, everything)
    tables = tuple(_table(context, *pair) for pair in zip(context.attributes, context.columns, strict=True))
    verdict = _verdict(findings, hygiene, undecided(context, tables))
    return AuditResult(
        schema_version=SCHEMA_VERSION,
        **run_names(context.run, test_run),
        verdict=verdict,
        sentence=answer(findings, trust, hygiene, context, undecided(context, tables)),
        findings=findings,
        map=points(context, findings),
        classes=facts,
        attributes=tables,
        differences=differences(context, findings),
        groups=plain_groups(context),
        predictability=context.scan.predictability,
        shift=shift,
        hygiene=hygiene,
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
        "run": run.directory.url,
        "test_run": None if test_run is None else test_run.directory.url,
        "model": str(run.manifest.model["name"]),
        "model_fingerprint": str(run.manifest.model["fingerprint"]),
        "run_fingerprint": run.manifest.fingerprint,
    }


def _table(context: Context, screen: AttributeScreen, test: ColumnTest) -> AttributeTable:
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


def undecided(context: Context, tables: Sequence[AttributeTable]) -> tuple[str, ...]:
    """Why an audit without findings is no pass: what was not tested well enough, one sentence each."""
    reasons = []
    few = [context.name(k) for k in range(context.design.classes) if context.design.independent[k] < GATE]
    if few:
        verb = "has" if len(few) == 1 else "have"
        reasons.append(f"{listed(few)} {verb} fewer than {GATE} independent images")
    if context.few_sources:
        reasons.append(f"the images come from {context.design.clusters} sources, and eight are needed")
    reasons += [
        f"{table.attribute.rpartition('.')[2]} has fewer than {GATE} independent images with a value in a class"
        for table in tables
        if not table.decided and not few
    ]
    for screen in context.attributes:
        start = context.row_of(screen, 0)
        limits = context.family.limits[start : start + len(screen.values)]
        wide = (limits[:, 1] > context.options.delta_warn) & ~context.passed[start : start + len(screen.values)]
        if wide.any() and not few:
            names = [screen.attribute.values[v] for v in screen.values[wide].tolist()]
            column = screen.attribute.column.rpartition(".")[2]
            reasons.append(f"whether {listed(names)} of {column} goes with a class cannot be told from these images")
    return tuple(reasons)


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


def points(context: Context, findings: Sequence[Finding]) -> tuple[MapPoint, ...]:
    """Findings, then every other value of a column, then the strongest directions."""
    found = [
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
                found.append(_point(context, context.row_of(screen, place), f"{screen.attribute.column} = {word}"))
    M = len(context.scan.directions)
    low = context.family.limits[:M, 0]
    for m in np.argsort(-low, kind="stable")[: max(0, _MAP - len(found))].tolist():
        direction = context.scan.directions[m]
        found.append(_point(context, m, f"{direction.text} ({direction.head})"))
    return tuple(found[:_MAP])


def _reliance(finding: Finding) -> Estimate | None:
    """CLIP's net effect, or its gap where heads say nothing."""
    clip = finding.by("clip")
    if clip is None:
        return None
    return clip.effect.net_did if clip.effect is not None else clip.gap if clip.gap.value is not None else None


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
    if context.answers is None:
        return ()
    right = context.answers.right(context.answers.base)
    return tuple(
        describe_groups(
            scored_groups(context, context.answers, screen),
            right,
            context.answers_rows,
            n_min=context.options.n_min,
            seed=context.options.seed,
            train=train_counts(context, screen),
            cluster=_scored_clusters(context),
        )
        for screen in context.attributes
    )


def _scored_clusters(context: Context) -> Ints | None:
    """(n,) what the scored images' intervals count: sources, or near-duplicate clusters."""
    if context.answers is None:
        return None
    facts = context.answers.facts
    return facts.cluster if facts.source is None else facts.source


# -- controls and trust ------------------------------------------------------------------------------------------------


def run_controls(context: Context, progress: Progress) -> Controls:
    """Permuted labels and planted shifts, on the sample."""
    design, options = context.sample_design, context.options
    progress("controls", 0, 2)
    negative = negative_control(
        context.ranks,
        design,
        context.largest,
        audits=options.negative_audits,
        alpha=options.alpha,
        delta=options.delta_warn,
        seed=options.seed,
    )
    progress("controls", 1, 2)
    positive = tuple(
        positive_control(
            context.scan.spare,
            design,
            context.largest,
            d=d,
            alpha=options.alpha,
            delta=options.delta_warn,
            seed=options.seed,
        )
        for d in STRENGTHS
    )
    progress("controls", 2, 2)
    return Controls(negative=negative, positive=positive)


def trust_of(context: Context, controls: Controls, hygiene: Hygiene, placebo: Placebo | None) -> Trust:
    """How far the findings may be trusted."""
    problems = []
    if not controls.negative.valid:
        dealt = "labels" if context.classes_from == "label" else "classes"
        problems.append(
            f"{100 * controls.negative.share_with_any:.0f} % of {controls.negative.audits} audits on permuted {dealt}"
            " found something, which must not happen in more than 5 %."
        )
    limits = [*_CLASSES[context.classes_from], *_LIMITS]
    if context.classes_from != "label":
        limits.remove(_DIRECT)
    if hygiene.failed_shards:
        limits.insert(0, f"{hygiene.failed_shards} shards of the run are missing: nothing is known of their images.")
    zero_shot_right = zero_shot(context)
    guessing = zero_shot_right is not None and near_chance(zero_shot_right, len(context.names))
    if guessing:
        limits.insert(0, _GUESSING if context.classes_from == "label" else _STRANGERS)
    total = float(context.embedding.astype(np.float64).var(axis=0).sum())
    explained = float(context.scan.heads_sum.astype(np.float64).var(axis=0).sum())
    return Trust(
        valid=not problems,
        problems=tuple(problems),
        tests=context.family.p.size,
        directions=len(context.scan.directions),
        heads=len(context.scan.values),
        accuracy=None if zero_shot_right is None else accuracy(zero_shot_right.right, zero_shot_right.total),
        near_chance=guessing,
        mean_source=None if context.answers is None else context.answers.mean_source,
        placebo=placebo,
        level=context.level,
        sources=tuple(
            SourceFacts(name=test.name, levels=test.levels, icc=test.icc, p=test.p, used=test is context.source)
            for test in context.sources
        ),
        embedding_share=explained / total if total > 0 else 0.0,
        limits=tuple(limits),
    )


def right_answers(context: Context) -> tuple[Ints, Bools] | None:
    """(n,) classes of the scored images, and whether zero-shot CLIP answers them; None where its answers are the
    classes."""
    if context.answers is None:
        return context.agreement
    return context.answers.truth, context.answers.right(context.answers.base)


def zero_shot(context: Context) -> Proportion | None:
    """Right answers over the scored images."""
    truth, right = right_answers(context) or ((), np.empty(0, np.bool_))
    return Proportion(right=int(right.sum()), total=len(truth)) if len(truth) else None


def _data(context: Context, everything: ImageFacts, left_out: tuple[LeftOut, LeftOut | None]) -> Data:
    scored = None if context.answers is None else context.answers.facts
    discovery = 0 if scored is None else int(scored.discovery.sum())
    labelled = Verdict.CONFIRMED if context.attributes else Verdict.CANDIDATE
    return Data(
        association=context.rows,
        counterfactual=None if scored is None else context.answers_rows,
        rows=len(everything),
        counterfactual_rows=0 if scored is None else len(scored),
        discovery_rows=discovery,
        confirmation_rows=0 if scored is None else len(scored) - discovery,
        clusters=int(everything.cluster.max(initial=-1)) + 1,
        attributes=tuple(screen.attribute.column for screen in context.attributes),
        evidence=labelled if context.classes_from == "label" else Verdict.OBSERVED,
        left_out=left_out[0],
        test_left_out=left_out[1],
    )
