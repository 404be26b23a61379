"""The first screen in plain words: what is wrong, how it shows, what to do, for readers who know nothing of CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from clipaudit.cues.report.document import Report
from clipaudit.cues.report.pictures import CaptionedPicture, Pictures, row
from clipaudit.cues.report.rehearsed_arms import rehearsal_of
from clipaudit.cues.report.telling_words import accuracy_of, cell_in_words, example_cells, mended
from clipaudit.cues.report.words import (
    anything_tested,
    classes_in_words,
    count,
    counted,
    cue_word,
    decimal,
    having_name,
    meanings,
    share,
    who,
    who_first,
)
from clipaudit.cues.result.finding_parts import Estimate, Need, SampleRef, Verdict
from clipaudit.cues.result.reliance_parts import LabelRanking, Reliance
from clipaudit.cues.result.result import AuditResult, Finding
from clipaudit.cues.result.telling_cells import telling_cells

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
class ExampleRow:
    """One kind of images: how well it is answered, and some of them."""

    title: str
    bars: tuple[Bar, ...]
    pictures: tuple[CaptionedPicture, ...]


def plain_sentences(report: Report) -> tuple[str, ...]:
    """What is found, without a technical word."""
    audit = report.audit
    if not audit.trust.valid:
        return ("Something is wrong with the audit itself, so none of its findings should be believed.",)
    several = audit.settings.several_labels
    sentences = finding_in_words(audit.findings[0], several) if audit.findings else _clean(report)
    rehearsed = _rehearsed(audit) if audit.findings else None
    return tuple(filter(None, (sentences[0], classes_in_words(audit), *sentences[1:], rehearsed)))


def finding_in_words(finding: Finding, several_labels: bool = False) -> tuple[str, ...]:
    """What the data show, what CLIP makes of it, and what that means; several_labels: images may have several."""
    model = (
        _in_the_model(finding)
        if finding.verdict in (Verdict.CONFIRMED, Verdict.FAILS_WHERE, Verdict.MODEL_ONLY)
        else ()
    )
    meaning = () if model else (meanings(several_labels)[finding.verdict],)
    return (_in_the_data(finding, several_labels), *model, *meaning)


def to_do(report: Report) -> str:
    """The first thing to do, as an action; then why."""
    audit = report.audit
    if not audit.trust.valid:
        return "Do not act on this report: mend what failed below, and audit again."
    if audit.findings:
        first = audit.findings[0]
        needs = [need for need in first.needs if need.images is not None]
        return first.action if not needs else f"{first.action} Missing: {_missing(needs)}."
    if not anything_tested(audit):
        return "Add images to the classes that have too few, and audit again; this is no pass."
    if report.gate.open_questions:
        return f"{report.gate.remedies[0]} {report.gate.open_questions[0]}"
    return "Keep this report with the data, and audit again when images, labels or the model change."


def _missing(needs: Sequence[Need]) -> str:
    return "; ".join(f"{counted(need.images or 0, 'more image')}, {need.what}" for need in needs)


def actions(result: AuditResult) -> tuple[str, ...]:
    """What to do about the findings, each thing once."""
    return tuple(dict.fromkeys(finding.action for finding in result.findings))[:_ACTIONS]


def cases(result: AuditResult, pictures: Pictures) -> tuple[ExampleRow, ...]:
    """How the first finding shows: the class with its cue, without it, and another class with it."""
    if not result.findings or not result.trust.valid:
        return ()
    first = result.findings[0]
    if measured := tuple(_measured_cases(result, first, pictures)):
        return measured
    gallery, names, name, cue = first.gallery, first.having, having_name(first), cue_word(first)
    others_with_it = "Others with it" if result.settings.several_labels else "Other classes with it"
    rows = (
        (f"“{name}” with most of “{cue}”", gallery.aligned),
        (f"“{name}” with least of it", gallery.least_spurious),
        (others_with_it, [sample for sample in gallery.conflicting if sample.class_name not in names]),
    )
    examples = (ExampleRow(title=title, bars=(), pictures=_row(samples, pictures, first)) for title, samples in rows)
    return tuple(case for case in examples if case.pictures)


def case_answers(result: AuditResult) -> str | None:
    """Whose answers stand below the pictures of `cases`; None where it has no answers."""
    part = result.findings[0].relying if result.findings and result.trust.valid else None
    return who(part.answerer) if part is not None and part.examples else None


def _measured_cases(result: AuditResult, finding: Finding, pictures: Pictures) -> Iterator[ExampleRow]:
    """The cells that show the finding best, with scored images in proportion to what the bars say."""
    part = finding.relying
    if part is None:
        return
    for cell, examples in example_cells(finding):
        accuracy, after = accuracy_of(finding, part, cell), mended(result, finding, part, cell)
        bars = [Bar(name="right", value=accuracy.value or 0.0, kind="bad" if cell.conflicting else "")]
        if after is not None:
            bars.append(Bar(name=after.how, value=after.value, kind="after"))
        yield ExampleRow(
            title=f"{cell_in_words(finding, cell)} ({counted(accuracy.n, 'image')})",
            bars=tuple(bars),
            pictures=_row(examples.images, pictures, finding),
        )


def _row(samples: Sequence[SampleRef], pictures: Pictures, finding: Finding) -> tuple[CaptionedPicture, ...]:
    """The first few that can be shown; without pictures, captions alone would say little here."""
    return tuple(picture for picture in row(samples, pictures, finding.id) if picture.picture is not None)[:_PICTURES]


def _in_the_data(finding: Finding, several_labels: bool) -> str:
    """How the cue goes with the class: shares of an attribute's value where there is one, else the strength."""
    name, cue, shares = having_name(finding), cue_word(finding), _shares(finding)
    observed = finding.verdict == Verdict.OBSERVED
    if shares is not None:
        own, others = shares
        if several_labels:
            return f"{share(own, 0)} of {name} come with “{cue}”, {share(others, 0)} of others."
        images = f"the images that count as “{name}”" if observed else f"“{name}” images"
        return f"{share(own, 0)} of {images} come with “{cue}”, {share(others, 0)} of others."
    what = f"something that CLIP calls “{cue}”"
    if several_labels:
        return f"{name[0].upper()}{name[1:]} stand out by {what}: a {finding.association.strength} tie."
    images = f"images that count as “{name}”" if observed else f"“{name}” images"
    return f"The {images} stand out by {what}: a {finding.association.strength} tie."


def _shares(finding: Finding) -> tuple[float, float] | None:
    """Shares of the images of the classes that have the cue, and of all other classes, that have the value."""
    shares = []
    for has in (True, False):
        counts = [(row.with_cue or 0, row.without_cue or 0) for row in finding.classes if row.has == has]
        images = sum(map(sum, counts))
        if not images or any(row.with_cue is None for row in finding.classes):
            return None
        shares.append(sum(with_cue for with_cue, _ in counts) / images)
    return shares[0], shares[1]


def _in_the_model(finding: Finding) -> tuple[str, ...]:
    """How the model fails without the cue, and that it does not once the cue is out, or once it is trained otherwise;
    empty where that was not measured."""
    part = finding.relying
    clip = part is not None and part.answerer == "clip"
    values = {group.value for group in finding.groups.groups} if finding.groups is not None else set()
    # of more than two values the lowest of several groups would look worse than the cue's absence is
    if part is None or (clip and len(values) <= 2):
        return _in_clip(finding)
    if part.ranking is not None:
        return _of_label(finding, part, part.ranking)
    cells = [cell for cell in part.cells if cell.accuracy.value is not None]
    telling = telling_cells(cells, finding.having)
    against = [cell for cell in (telling.same, telling.other) if cell is not None]
    if not against:
        return ()
    worst = min(against, key=lambda cell: cell.accuracy.value or 0.0)
    with_it = next((cell for cell in cells if cell.class_name == worst.class_name and not cell.conflicting), None)
    pointed = worst.class_name in finding.having
    where, other = ("without", "with") if pointed else ("with", "without")
    cue = cue_word(finding)
    helped = "" if with_it is None else f", but {share(with_it.accuracy.value, 0)} of it {other} “{cue}”"
    name = "The image model CLIP" if clip else who_first(part.answerer)
    sentences = [
        f"{name} answers only {share(worst.accuracy.value, 0)} of “{worst.class_name}” {where}"
        f" “{cue}” right ({_interval(worst.accuracy, _whole)}, {counted(worst.accuracy.n, 'image')}){helped}."
    ]
    if part.training is not None and part.verdict == Verdict.CONFIRMED:
        before, fall = part.training.gap_before.value or 0.0, part.training.net_fall.value or 0.0
        sentences.append(
            f"Trained again so that class and cue are balanced, {100 * fall:.0f} of the {100 * before:.0f} points"
            f" between images where “{cue}” helps and where it misleads are gone, beyond what weights of shuffled"
            f" columns do: it is “{cue}”, or what goes with it, that such a model learns."
        )
    return (*sentences, *_without_it(finding)) if clip else tuple(sentences)


def _of_label(finding: Finding, part: Reliance, ranking: LabelRanking) -> tuple[str, ...]:
    """How a model of one label of several ranks it where the cue misleads, and what training it otherwise does."""
    cue, wrong = cue_word(finding), ranking.conflicting
    sentences = [
        f"{who_first(part.answerer)} tells {having_name(finding)} from others worse where “{cue}” is missing or"
        f" misleads: AUC {decimal(wrong.value)} ({_interval(wrong, decimal)}, {counted(wrong.n, 'image')}), against"
        f" {decimal(ranking.aligned.value)} where it points right; 0.5 is guessing."
    ]
    if part.training is not None and part.verdict == Verdict.CONFIRMED:
        before, fall = part.training.gap_before.value, part.training.net_fall.value
        sentences.append(
            f"Trained again so that label and cue are balanced, {decimal(fall)} of the {decimal(before)} between the"
            f" two is gone, beyond what weights of shuffled columns do: it is “{cue}”, or what goes with it, that such"
            " a model learns."
        )
    return tuple(sentences)


def _in_clip(finding: Finding) -> tuple[str, ...]:
    part = finding.by("clip")
    cells = None if part is None else telling_cells(part.cells, finding.having)
    if part is None or cells is None or cells.same is None:
        return ()
    right = accuracy_of(finding, part, cells.same)
    against = ""
    if cells.aligned is not None:
        aligned = accuracy_of(finding, part, cells.aligned)
        against = f", but {share(aligned.value, 0)} of {cell_in_words(finding, cells.aligned)}"
    sentences = [
        f"The image model CLIP recognises only {share(right.value, 0)} of {cell_in_words(finding, cells.same)}"
        f" ({_interval(right, _whole)}, {counted(right.n, 'image')}){against}."
    ]
    return (*sentences, *_without_it(finding))


def _without_it(finding: Finding) -> tuple[str, ...]:
    """What taking the cue out of CLIP does."""
    effect = finding.counterfactual
    if effect is None or effect.net_did.value is None or effect.gap_before.value is None:
        return ()
    return (
        f"Taking the cue out of the model closes {100 * effect.net_did.value:.0f} of the"
        f" {100 * effect.gap_before.value:.0f} points between images where it helps and where it misleads, beyond"
        f" what random controls close: CLIP looks at “{cue_word(finding)}”, not only at the {having_name(finding)}.",
    )


def _rehearsed(audit: AuditResult) -> str | None:
    """What a model trained on these images would do, and whether the group weights mend it, where another answerer
    gives the headline. One way to train, named beforehand: the best of several looks better than it is."""
    first = audit.findings[0]
    column = rehearsal_of(audit, first)
    if column is None or first.by("rehearsed") is None:
        return None
    arms = {arm.name: arm for arm in column.arms}
    plain, weighted = arms["as it is"], arms.get("group weights")
    if column.label is not None:
        if weighted is None or weighted.gain is None or (weighted.gain.low or 0.0) <= 0:
            return None
        low = weighted.worst_group
        return (
            f"Trained with the group weights, its lower AUC is {decimal(low.value)} ({_interval(low, decimal)}) instead"
            f" of {decimal(plain.worst_group.value)}."
        )
    sentence = (
        f"A model trained on these images would answer {share(plain.worst_group.value, 0)} of its worst group right"
        f" ({plain.worst})"
    )
    if weighted is None:
        return f"{sentence}."
    if weighted.gain is not None and (weighted.gain.low or 0.0) > 0:
        worst = weighted.worst_group
        return f"{sentence}; trained with the group weights, {share(worst.value, 0)} ({_interval(worst, _whole)})."
    return f"{sentence}; the group weights make it no better beyond chance."


def _interval(estimate: Estimate, form: Callable[[float | None], str]) -> str:
    return f"95 % interval {form(estimate.low)} to {form(estimate.high)}"


def _whole(value: float | None) -> str:
    return share(value, 0)


def _clean(report: Report) -> tuple[str, ...]:
    audit = report.audit
    if not anything_tested(audit) or audit.verdict == Verdict.INCONCLUSIVE:
        return (audit.sentence,)
    sentences = [
        f"{count(audit.trust.tests)} combinations of cue and class were tested on {counted(audit.data.rows, 'image')},"
        " and none stands out."
    ]
    planted = [
        f"of {control.trials} with strength {control.d:g}, {control.detected} were found"
        for control in audit.controls.positive
        if control.trials
    ]
    return (*sentences, f"As a check, cues were planted: {'; '.join(planted)}.") if planted else tuple(sentences)
