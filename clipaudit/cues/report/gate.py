"""The gate: findings, waivers and trust to passed, failed, inconclusive or invalid, and the exit code of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from clipaudit.cues.report.waivers import Applied, former_waivers
from clipaudit.cues.report.words import CLASSES, counted, decimal, slug
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Documented, Estimate, Verdict
from clipaudit.cues.result.result import AuditResult, Finding
from clipaudit.cues.statistics.intervals import GATE
from clipaudit.errors import UsageError

Outcome: TypeAlias = Literal["passed", "failed", "inconclusive", "invalid"]

NEVER: Final = "never"
FAIL_ON: Final = {
    slug(v): v
    for v in (
        Verdict.CONFIRMED,
        Verdict.FAILS_WHERE,
        Verdict.NEEDED,
        Verdict.MODEL_ONLY,
        Verdict.DATA_ONLY,
        Verdict.TIED,
        Verdict.CANDIDATE,
    )
}
"""The words of `--fail-on`."""
DETECTS: Final = 0.8
"""Share of strong planted cues below which an audit cannot tell that there is nothing."""
_STRONG: Final = 0.5
_NAMED: Final = 3
_UNDECIDED: Final = {
    Verdict.FAILS_WHERE: (
        "the model fails where the cue is missing, which does not fail this gate",
        "Collect images that break the tie, or train with the group weights.",
    ),
    Verdict.NEEDED: (
        "somebody has to decide whether what the model needs is part of the class (--core)",
        "Decide whether the cue is part of the class, and say so with --core or a waiver.",
    ),
    Verdict.DATA_ONLY: (
        "a cue is tied to a class, though no answer hangs on it",
        "Collect images that break the tie, or train with the group weights.",
    ),
    Verdict.TIED: (
        "a column is tied to the classes as a whole",
        "Look at how the column is spread over the classes, and balance it or leave it out.",
    ),
}
"""Verdicts that are no pass: why, and what to do."""
_GUESSING: Final = "CLIP's answers are no better than guessing, so nothing can be said about what it relies on."
_STRANGERS: Final = "CLIP's answers match the captions no more than by chance: they may not describe these images."
_EXIT: Final[dict[Outcome, int]] = {"passed": 0, "failed": 1, "inconclusive": 0, "invalid": 4}
_EXIT_WITHOUT_EVIDENCE: Final = 3


_TIED_LABEL: Final = (
    "a column, or another label, goes with a label, and what a model makes of it is not measured",
    "Add images that break each tie (collect.csv counts them), and audit again.",
)
"""The same of a tied column where images may have several labels."""


@dataclass(frozen=True, kw_only=True)
class Gate(Documented):
    """Whether a pipeline may go on."""

    outcome: Outcome
    exit_code: int
    """0 passed or inconclusive, 1 failed, 3 inconclusive with --require-evidence, 4 invalid."""
    sentence: str
    fail_on: tuple[str, ...]
    """Verdicts that fail the gate; empty with `never`."""
    require_evidence: bool
    failing: tuple[str, ...]
    """Ids of the findings that fail it."""
    waived: tuple[str, ...]
    """Ids of findings that would, but for a waiver."""
    warnings: tuple[str, ...]
    """Findings of a failing kind that are too weak or rest on too few images, one sentence each."""
    open_questions: tuple[str, ...]
    """Why it is not known whether the data are fine, one sentence each."""
    remedies: tuple[str, ...]
    """What to do about each of these, in their order."""


def parse_fail_on(words: Sequence[str]) -> tuple[str, ...]:
    """The words of `--fail-on`, checked; UsageError names one that is unknown."""
    unknown = [word for word in words if word not in (*FAIL_ON, NEVER)]
    if unknown:
        raise UsageError(f"--fail-on {unknown[0]!r} is not understood: use {', '.join(FAIL_ON)} or {NEVER}")
    if NEVER in words and len(words) > 1:
        raise UsageError(f"--fail-on {NEVER} stands alone")
    return tuple(word for word in FAIL_ON if word in words)


def judge(result: AuditResult, applied: Sequence[Applied], *, fail_on: Sequence[str], require_evidence: bool) -> Gate:
    """The gate's answer; `fail_on` from `parse_fail_on`."""
    active = {waiver.matches for waiver in applied if waiver.status == "active" and waiver.matches is not None}
    of_failing_kind = [finding for finding in result.findings if slug(finding.verdict) in fail_on and not finding.core]
    serious = [finding for finding in of_failing_kind if _excuse(finding, result) is None]
    failing = tuple(finding.id for finding in serious if finding.id not in active)
    waived = tuple(finding.id for finding in serious if finding.id in active)
    warnings = tuple(
        excuse
        for finding in of_failing_kind
        if finding.id not in active and (excuse := _excuse(finding, result)) is not None
    ) + former_waivers(applied)
    questions = _open_questions(result, active, fail_on)
    open_questions = tuple(question.sentence for question in questions)
    too_weak = any(finding.id not in active and finding not in serious for finding in of_failing_kind)
    outcome: Outcome = (
        "invalid"
        if not result.trust.valid
        else "failed"
        if failing
        else "inconclusive"
        if open_questions or too_weak
        else "passed"
    )
    exit_code = _EXIT_WITHOUT_EVIDENCE if outcome == "inconclusive" and require_evidence else _EXIT[outcome]
    return Gate(
        outcome=outcome,
        exit_code=exit_code,
        sentence=_sentence(outcome, result, failing, waived, [*open_questions, *warnings], fail_on),
        fail_on=tuple(fail_on),
        require_evidence=require_evidence,
        failing=failing,
        waived=waived,
        warnings=warnings,
        open_questions=open_questions,
        remedies=tuple(question.remedy for question in questions),
    )


def _excuse(finding: Finding, result: AuditResult) -> str | None:
    """Why a finding of a failing kind does not fail the gate; None when it does."""
    name = f"“{finding.class_name}” and “{finding.cue.name}”"
    if _images(finding) < GATE:
        return f"{name} rest on {_images(finding)} images; at least {GATE} are needed to fail the gate."
    if finding.verdict in (Verdict.MODEL_ONLY, Verdict.NEEDED, Verdict.TIED):
        return None
    weakest = _weakest(finding, result)
    if weakest > result.settings.delta_fail:
        return None
    return (
        f"{name} are tied by at least |D| = {decimal(weakest)}, which warns; the gate fails beyond"
        f" {decimal(result.settings.delta_fail)}."
    )


def _weakest(finding: Finding, result: AuditResult) -> float:
    """The least tie that the data allow, of the finding's value or, if that is stronger, of its column as a whole: a
    value that a fifth of the images have is never tied beyond 0.4 to one of two classes."""
    tables = (table.d for table in result.attributes if table.attribute == finding.cue.attribute)
    return max(_towards_zero(estimate) for estimate in (finding.association.d, *tables) if estimate is not None)


def _towards_zero(estimate: Estimate) -> float:
    """The end of the interval that is nearer to 0; 0 when the interval holds it."""
    if estimate.low is None or estimate.high is None or estimate.low * estimate.high <= 0:
        return 0.0
    return min(abs(estimate.low), abs(estimate.high))


def _images(finding: Finding) -> int:
    """Images behind a finding's verdict: those that are answered, or those of the association."""
    answered = [part.gap.n for part in finding.reliance if part.verdict == finding.verdict]
    return max(answered) if answered else finding.association.d.n


@dataclass(frozen=True, kw_only=True)
class _Question:
    """Why something is not known, and what to do about it."""

    sentence: str
    remedy: str


def _open_questions(result: AuditResult, active: set[str], fail_on: Sequence[str]) -> list[_Question]:
    """What keeps an audit without failing findings from being a pass (docs/method.md 8)."""
    questions = [*_of_inputs(result), *_of_findings(result, active, fail_on), *_too_small(result)]
    questions += [
        _Question(
            sentence=f"Of {control.trials} strong cues planted as a check, {control.detected} were found: there may be"
            " more.",
            remedy="Add images of every class, and audit again.",
        )
        for control in result.controls.positive
        if control.d >= _STRONG and control.trials and control.detected < DETECTS * control.trials
    ]
    if result.hygiene.failed_shards:
        questions.append(
            _Question(
                sentence=f"{counted(result.hygiene.failed_shards, 'shard')} of the run could not be read.",
                remedy="Run `clipaudit audit` again, which reads the shards that failed, and then `clipaudit report`.",
            )
        )
    if not questions and not result.findings and result.verdict is Verdict.INCONCLUSIVE:
        # such as fewer than eight sources, or a value whose interval reaches beyond delta
        questions.append(
            _Question(sentence=result.sentence, remedy="Add images of the kinds that are named here, and audit again.")
        )
    return questions


def _of_inputs(result: AuditResult) -> list[_Question]:
    """What the model, the classes and the columns do not let an audit decide."""
    questions = []
    labelled = result.settings.classes_from == "label"
    if result.trust.near_chance:
        larger = "Make the run again with a larger model (`clipaudit audit --model`), and audit that."
        other = "Give captions and class names that describe these images (--classes), and audit again."
        questions.append(
            _Question(sentence=_GUESSING if labelled else _STRANGERS, remedy=larger if labelled else other)
        )
    several, tested = result.settings.several_labels, sum(facts.tested for facts in result.classes)
    if tested < (1 if several else 2):
        classes = "Fewer than two classes have enough images to be compared."
        questions.append(
            _Question(
                sentence="No label has enough images with it and without it." if several else classes,
                remedy=f"Add images to the {'labels' if several else 'classes'} that have too few, and audit again.",
            )
        )
    questions += [
        _Question(
            sentence=f"The column {column_in_words(dropped.what)} could not be tested: {dropped.reason}.",
            remedy=f"Mend the column {column_in_words(dropped.what)} or leave it out, and audit again.",
        )
        for dropped in result.dropped
        if dropped.head is None
    ]
    if not labelled:
        how = CLASSES[result.settings.classes_from]
        questions.append(
            _Question(
                sentence=f"{how}, so nothing here is more than observed: only labels can decide.",
                remedy="Label images by hand, and audit those with --label.",
            )
        )
    return questions


def _of_findings(result: AuditResult, active: set[str], fail_on: Sequence[str]) -> list[_Question]:
    """Findings that are neither a failure nor a pass."""
    questions, several = [], result.settings.several_labels
    undecided = [
        f
        for f in result.findings
        if f.verdict == Verdict.INCONCLUSIVE and f.id not in active and not _unasked(f, result)
    ]
    if undecided:
        missing = next((need.what for finding in undecided for need in finding.needs), "too few images")
        questions.append(
            _Question(
                sentence=f"{counted(len(undecided), 'finding')} could not be decided: {missing}.",
                remedy="Add what each of them says is missing, and audit again.",
            )
        )
    candidates = [f for f in result.findings if f.verdict == Verdict.CANDIDATE and f.id not in active]
    if candidates:
        part = "what the label means" if several else "the class"
        questions.append(
            _Question(
                sentence=f"{counted(len(candidates), 'candidate')} cannot be told from a part of {part} without"
                " attribute labels.",
                remedy="Add a column that says which images have the cue, and audit again with --attribute.",
            )
        )
    for verdict, (what, remedy) in _UNDECIDED.items():
        of_kind = [f for f in result.findings if f.verdict == verdict and f.id not in active and not f.core]
        if of_kind and slug(verdict) not in fail_on:
            if several and verdict == Verdict.TIED:
                what, remedy = _TIED_LABEL
            questions.append(_Question(sentence=f"{counted(len(of_kind), 'finding')}: {what}.", remedy=remedy))
    return questions


def _unasked(finding: Finding, result: AuditResult) -> bool:
    """Whether it is of an image property that nobody declared and whose tie to the classes is not sure: real classes
    differ in everything, a little, and that must not make a pass impossible (trap 28)."""
    return finding.cue.attribute in result.data.image_properties and not finding.association.above_delta


def _too_small(result: AuditResult) -> list[_Question]:
    """Classes and columns with fewer independent images than a pass asks for."""
    # of a class that was not tested for want of images nothing is known either
    few = [facts.class_name for facts in result.classes if facts.n and facts.independent < GATE]
    if few:
        which = ", ".join(few[:_NAMED]) + (", ..." if len(few) > _NAMED else "")
        noun = "label" if result.settings.several_labels else "class"
        return [
            _Question(
                sentence=f"Fewer than {GATE} independent images of {which}: a weaker cue could be missed.",
                remedy=f"Add images of {which} until each {noun} has {GATE} different ones, and audit again.",
            )
        ]
    return [
        _Question(
            sentence=f"The column {column_in_words(table.attribute)} has too few values in a class to be cleared.",
            remedy=f"Add images with a value of {column_in_words(table.attribute)} until each class has {GATE}"
            " different ones, and audit again.",
        )
        for table in result.attributes
        if not table.decided
    ]


def _sentence(
    outcome: Outcome,
    result: AuditResult,
    failing: Sequence[str],
    waived: Sequence[str],
    reasons: Sequence[str],
    fail_on: Sequence[str],
) -> str:
    waived_note = f" ({counted(len(waived), 'finding')} waived)" if waived else ""
    if outcome == "invalid":
        return " ".join(["The audit is not valid.", *result.trust.problems])
    if outcome == "failed":
        return f"Gate failed: {counted(len(failing), 'finding')} of the kind {' or '.join(fail_on)}{waived_note}."
    if outcome == "inconclusive":
        return f"Inconclusive{waived_note}: {reasons[0]}"
    return (
        f"Gate passed: nothing of the kind {' or '.join(fail_on)}{waived_note}."
        if fail_on
        else f"No gate was set{waived_note}."
    )
