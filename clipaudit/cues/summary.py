"""The result put together from findings and controls: ranks, the map, the trust panel, the answer in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypedDict

import numpy as np
import pyarrow as pa

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.findings import parts
from clipaudit.cues.findings.by_attribute import scored_groups, train_counts
from clipaudit.cues.measure.context import Context, Progress
from clipaudit.cues.measure.controls import STRENGTHS, few_classes, negative_control, positive_control, subset
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.result.finding_parts import ClassesFrom, Estimate, Verdict
from clipaudit.cues.result.panels import (
    AttributeTable,
    ClassFacts,
    Controls,
    Data,
    Dropped,
    Hygiene,
    LeftOut,
    MapPoint,
    Settings,
    Shift,
    Trust,
)
from clipaudit.cues.result.reliance import Groups
from clipaudit.cues.result.result import SCHEMA_VERSION, AuditResult, Finding
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import chi_squared, cramers_v
from clipaudit.cues.statistics.groups import describe_groups
from clipaudit.cues.statistics.intervals import accuracy
from clipaudit.cues.statistics.strength import Z95
from clipaudit.heads.zeroshot import near_chance
from clipaudit.run.reader import Run
from clipaudit.statistics import Proportion

_RANKS: Final = (
    Verdict.CONFIRMED,
    Verdict.DATA_ONLY,
    Verdict.MODEL_ONLY,
    Verdict.CANDIDATE,
    Verdict.INCONCLUSIVE,
    Verdict.OBSERVED,
    Verdict.CORE,
)
_MAP_POINTS: Final = 300
"""Points of the map, at most."""
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
_CAPTIONS_UNRELATED: Final = (
    "CLIP answers what captions name no more often than chance: they may not describe these images."
)
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
    """The first `most` findings in the order in which they should be looked at, with ranks: verdict, then strength."""

    def weight(finding: Finding) -> tuple[int, float, str, str]:
        low = finding.association.d.low or 0.0
        return _RANKS.index(finding.verdict), -low, finding.class_name, finding.cue.name

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
    hygiene: Hygiene,
    everything: ImageFacts,
    left_out: tuple[LeftOut, LeftOut | None],
    rows: Mapping[str, pa.Table],
    progress: Progress,
) -> AuditResult:
    """The whole result; controls are run here.

    everything: the association's images, untested classes included; left_out: images without a class, of the
    association and of the rows that these are compared with; rows: tables by image.
    """
    controls = run_controls(context, progress)
    trust = trust_of(context, controls, hygiene)
    facts = class_facts(context, everything)
    verdict = _verdict(findings, hygiene)
    return AuditResult(
        schema_version=SCHEMA_VERSION,
        **run_names(context.run, test_run),
        verdict=verdict,
        sentence=answer(findings, trust, hygiene, context),
        findings=findings,
        map=points(context, findings),
        classes=facts,
        attributes=tuple(
            AttributeTable(
                attribute=screen.attribute.column,
                cells=parts.attribute_cells(context, screen),
                cramers_v=cramers_v(screen.counts),
                p=chi_squared(screen.independent)[1],
            )
            for screen in context.attributes
        ),
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


class RunNames(TypedDict):
    """The fields of `AuditResult` that say which runs and which model it is of."""

    run: str
    test_run: str | None
    model: str
    model_fingerprint: str
    run_fingerprint: str


def run_names(run: Run, test_run: Run | None) -> RunNames:
    """The runs and the model of a result."""
    return {
        "run": run.directory.url,
        "test_run": None if test_run is None else test_run.directory.url,
        "model": str(run.manifest.model["name"]),
        "model_fingerprint": str(run.manifest.model["fingerprint"]),
        "run_fingerprint": run.manifest.fingerprint,
    }


def _verdict(findings: Sequence[Finding], hygiene: Hygiene) -> Verdict | None:
    """The first finding's verdict; without findings, inconclusive for a run that lacks shards, else None."""
    if findings:
        return findings[0].verdict
    return Verdict.INCONCLUSIVE if hygiene.failed_shards else None


def answer(findings: Sequence[Finding], trust: Trust, hygiene: Hygiene, context: Context) -> str:
    """The answer in plain words: what is wrong, how much, how sure."""
    if not trust.valid:
        return f"This audit is not valid: {trust.problems[0]}"
    missing = f" {hygiene.failed_shards} shards of the run are missing, so that this is not the whole data set."
    shards_note = missing if hygiene.failed_shards else ""
    if not findings:
        none = "No shortcut cue was found for" if context.classes_from == "label" else "No cue goes with"
        return (
            f"{none} any of the {context.design.classes} classes ({trust.tests:,} tests on"
            f" {len(context.facts):,} images, least |D| {context.options.delta_warn:g}).{shards_note}"
        )
    further = len(findings) - 1
    further_note = (
        f" There {'is' if further == 1 else 'are'} {further} more finding{'s' if further > 1 else ''}."
        if further
        else ""
    )
    return f"{findings[0].sentence}{further_note}{shards_note}"


# -- the map, classes, groups ------------------------------------------------------------------------------------------


def points(context: Context, findings: Sequence[Finding]) -> tuple[MapPoint, ...]:
    """The map's points: findings, then every other attribute value with every class, then the strongest directions."""
    marks = [
        MapPoint(
            finding=finding.id,
            class_name=finding.class_name,
            cue=finding.cue.name,
            verdict=finding.verdict,
            association=finding.association.d,
            reliance=None if finding.counterfactual is None else finding.counterfactual.arms[0].delta_conflict,
        )
        for finding in findings
    ]
    in_findings = {(finding.class_name, finding.cue.attribute, finding.cue.value) for finding in findings}
    for screen in context.attributes:
        for place, value in enumerate(screen.values.tolist()):
            word = screen.attribute.values[value]
            marks += [
                _point(context, context.row_of(screen, place), k, f"{screen.attribute.column} = {word}", 1.0)
                for k in range(context.design.classes)
                if (context.name(k), screen.attribute.column, word) not in in_findings
            ]
    M = len(context.scan.directions)
    low = context.family.low[:M]
    for flat in np.argsort(-low, axis=None)[: max(0, _MAP_POINTS - len(marks))].tolist() if M else []:
        m, k = divmod(flat, context.design.classes)
        direction = context.scan.directions[m]
        sign = 1.0 if context.family.d[m, k] >= 0 else -1.0
        text = direction.text if sign > 0 else direction.opposite
        marks.append(_point(context, m, k, f"{text} ({direction.head})", sign))
    return tuple(marks[:_MAP_POINTS])


def _point(context: Context, m: int, k: int, cue: str, sign: float) -> MapPoint:
    d, half = float(context.family.d[m, k]) * sign, Z95 * float(context.family.error[m, k])
    return MapPoint(
        finding=None,
        class_name=context.name(k),
        cue=cue,
        verdict=None,
        association=Estimate(value=d, low=max(-1.0, d - half), high=min(1.0, d + half), n=len(context.facts)),
        reliance=None,
    )


def class_facts(context: Context, everything: ImageFacts) -> tuple[ClassFacts, ...]:
    """Sizes and zero-shot accuracy of every class that the association's rows or the class file have."""
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
    """(C,) int64 images of each class, and (C,) int64 near-duplicate clusters that it has images in."""
    pairs = np.unique(np.stack([facts.truth, facts.cluster]), axis=1)
    return np.bincount(facts.truth, minlength=classes), np.bincount(pairs[0], minlength=classes)


def plain_groups(context: Context) -> tuple[Groups, ...]:
    """Accuracy by class and value of each attribute, over all scored images (S8); empty without labels."""
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
        )
        for screen in context.attributes
    )


# -- controls and trust ------------------------------------------------------------------------------------------------


def run_controls(context: Context, progress: Progress) -> Controls:
    """Permuted labels and planted shifts, on the sample (S13)."""
    design, options = context.sample_design, context.options
    part, rows = subset(design, few_classes(design, options.seed))
    attributes = [
        Attribute(
            column=screen.attribute.column,
            values=screen.attribute.values,
            codes=screen.attribute.codes[context.scan.sample[rows]],
        )
        for screen in context.attributes
    ]
    progress("controls", 0, 2)
    negative = negative_control(
        context.scan.codes[rows],
        attributes,
        part,
        audits=options.negative_audits,
        alpha=options.alpha,
        delta=options.delta_warn,
        seed=options.seed,
    )
    progress("controls", 1, 2)
    positive = tuple(
        positive_control(
            context.family,
            context.scan.spare[rows],
            part,
            d=d,
            alpha=options.alpha,
            delta=options.delta_warn,
            seed=options.seed,
        )
        for d in STRENGTHS
    )
    progress("controls", 2, 2)
    return Controls(negative=negative, positive=positive)


def trust_of(context: Context, controls: Controls, hygiene: Hygiene) -> Trust:
    """How far the findings may be trusted."""
    problems = []
    if not controls.negative.valid:
        negative, permuted = controls.negative, "labels" if context.classes_from == "label" else "classes"
        problems.append(
            f"{100 * negative.share_with_any:.0f} % of {negative.audits} audits on permuted {permuted} found something,"
            " which must not happen in more than 5 %."
        )
    limits = [*_CLASSES[context.classes_from], *_LIMITS]
    if context.classes_from != "label":
        limits.remove(_DIRECT)
    if hygiene.failed_shards:
        limits.insert(0, f"{hygiene.failed_shards} shards of the run are missing: nothing is known of their images.")
    zero_shot_right = zero_shot(context)
    guessing = zero_shot_right is not None and near_chance(zero_shot_right, len(context.names))
    if guessing:
        limits.insert(0, _GUESSING if context.classes_from == "label" else _CAPTIONS_UNRELATED)
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
        embedding_share=explained / total if total > 0 else 0.0,
        limits=tuple(limits),
    )


def right_answers(context: Context) -> tuple[Ints, Bools] | None:
    """(n,) classes of the scored images, and (n,) whether zero-shot CLIP answers them.

    None where CLIP's answers are the classes.
    """
    if context.answers is None:
        return context.agreement
    return context.answers.truth, context.answers.right(context.answers.base)


def zero_shot(context: Context) -> Proportion | None:
    """Right answers over the scored images; None without any."""
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
