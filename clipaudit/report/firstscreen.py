"""The first screen in plain words: what is wrong, how it shows, what to do, for readers who know nothing of CLIP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipaudit.audit.parts import GroupAccuracy, SampleRef, Verdict
from clipaudit.audit.result import AuditResult, Finding
from clipaudit.report.document import Report
from clipaudit.report.gallery import Pictures, Shown, row
from clipaudit.report.words import MEANING, count, cue_word, share

_PICTURES = 4
_ACTIONS = 12


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A share as a bar."""

    name: str
    value: float
    kind: str
    """CSS class: empty, `bad` or `after`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of images: how well it is answered, and some of them."""

    title: str
    bars: tuple[Bar, ...]
    pictures: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class _Contrast:
    """The groups that show a shortcut best."""

    aligned: GroupAccuracy | None
    same: GroupAccuracy | None
    """The class without its cue."""
    other: GroupAccuracy | None
    """Another class with the cue."""


def plain_sentences(report: Report) -> tuple[str, ...]:
    """What is found, without a technical word."""
    audit = report.audit
    if not audit.trust.valid:
        return ("Something is wrong with the audit itself, so none of its findings should be believed.",)
    if not audit.findings:
        return _clean(report)
    first = audit.findings[0]
    shown = _contrast(first)
    if first.verdict != Verdict.CONFIRMED or shown is None or shown.same is None:
        return (MEANING[first.verdict],)
    return _confirmed(first, shown)


def to_do(report: Report) -> str:
    """The first thing to do."""
    audit = report.audit
    if not audit.trust.valid:
        return "Do not act on this report. Look at what failed below, and at how far to trust this."
    if audit.findings:
        return audit.findings[0].action
    return report.gate.open_questions[0] if report.gate.open_questions else "Nothing has to be done about shortcuts."


def actions(result: AuditResult) -> tuple[str, ...]:
    """What to do about the findings, each thing once."""
    return tuple(dict.fromkeys(finding.action for finding in result.findings))[:_ACTIONS]


def cases(result: AuditResult, pictures: Pictures) -> tuple[Case, ...]:
    """How the first finding shows: the class with its cue, without it, and another class with it."""
    if not result.findings or not result.trust.valid:
        return ()
    first = result.findings[0]
    shown, gallery = _contrast(first), first.gallery
    name, cue = first.class_name, cue_word(first)
    if shown is None:
        found = (
            Case(title=f"“{name}” with most of “{cue}”", bars=(), pictures=_row(gallery.aligned, pictures, first)),
            Case(title=f"“{name}” with least of it", bars=(), pictures=_row(gallery.least_spurious, pictures, first)),
        )
        return tuple(case for case in found if case.pictures)
    same = [sample for sample in gallery.conflicting if sample.class_name == name]
    others = [sample for sample in gallery.conflicting if sample.class_name != name]
    made = (
        _case(shown.aligned, gallery.aligned, "", pictures, first),
        _case(shown.same, same, "bad", pictures, first),
        _case(shown.other, others, "bad", pictures, first),
    )
    return tuple(case for case in made if case is not None)


def _case(
    group: GroupAccuracy | None, samples: Sequence[SampleRef], kind: str, pictures: Pictures, finding: Finding
) -> Case | None:
    if group is None or group.accuracy is None or group.accuracy.value is None:
        return None
    bars = [Bar(name="right", value=group.accuracy.value, kind=kind)]
    if group.without is not None and group.without.value is not None:
        bars.append(Bar(name="cue removed", value=group.without.value, kind="after"))
    fitting = [sample for sample in samples if (sample.class_name, sample.value) == (group.class_name, group.value)]
    return Case(
        title=f"{_described(group)} ({count(group.n)} images)",
        bars=tuple(bars),
        pictures=_row(fitting, pictures, finding),
    )


def _row(samples: Sequence[SampleRef], pictures: Pictures, finding: Finding) -> tuple[Shown, ...]:
    """The first few that can be shown; without pictures, captions alone would say little here."""
    return tuple(shown for shown in row(samples, pictures, finding.id) if shown.picture is not None)[:_PICTURES]


def _confirmed(first: Finding, shown: _Contrast) -> tuple[str, ...]:
    found = []
    same, aligned = shown.same, shown.aligned
    if same is not None and same.accuracy is not None:
        against = ""
        if aligned is not None and aligned.accuracy is not None:
            against = f"; of {_described(aligned)}, {share(aligned.accuracy.value, 0)}"
        found.append(
            f"Of {_described(same)}, the image model CLIP gets only {share(same.accuracy.value, 0)} right{against}."
        )
        if same.without is not None:
            found.append(
                f"With the cue taken out of the model, the first figure becomes {share(same.without.value, 0)}:"
                f" it was looking at “{cue_word(first)}”, not only at the {first.class_name}."
            )
    return tuple(found)


def _clean(report: Report) -> tuple[str, ...]:
    audit = report.audit
    found = [f"{count(audit.trust.tests)} combinations of cue and class were tested, and none stands out."]
    found += [
        f"As a check, {control.trials} cues of strength {control.d} were planted, and {control.detected} were found."
        for control in audit.controls.positive
        if control.trials
    ]
    return tuple(found)


def _contrast(finding: Finding) -> _Contrast | None:
    tested = finding.counterfactual
    if tested is None or not tested.arms:
        return None
    conflict = {(test.class_name, test.value) for test in tested.arms[0].tests if test.conflict}
    groups = [group for group in tested.before.groups if group.accuracy is not None]
    own = [group for group in groups if group.class_name == finding.class_name]
    against = [group for group in groups if (group.class_name, group.value) in conflict]
    return _Contrast(
        aligned=_largest(group for group in own if (group.class_name, group.value) not in conflict),
        same=_worst(group for group in against if group.class_name == finding.class_name),
        other=_worst(group for group in against if group.class_name != finding.class_name),
    )


def _largest(groups: Iterable[GroupAccuracy]) -> GroupAccuracy | None:
    return max(groups, key=lambda group: group.n, default=None)


def _worst(groups: Iterable[GroupAccuracy]) -> GroupAccuracy | None:
    """The lowest accuracy, among groups of a size that is shown in full if there are any."""
    found = list(groups)
    large = [group for group in found if group.size in ("shown", "may gate")]
    return min(large or found, key=lambda g: (g.accuracy and g.accuracy.value) or 0.0, default=None)


def _described(group: GroupAccuracy) -> str:
    if group.value is None:
        return f"“{group.class_name}”"
    joined = group.value if group.value.startswith(("with ", "without ")) else f"with “{group.value}”"
    return f"“{group.class_name}” {joined}"
