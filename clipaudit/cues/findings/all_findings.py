"""All findings of an audit: values of columns, columns as a whole, and texts that no column stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clipaudit.arrays import Ints
from clipaudit.cues.answerers.panel import Panel
from clipaudit.cues.findings.audit_rehearsal import audit_rehearsal
from clipaudit.cues.findings.by_attribute import value_finding
from clipaudit.cues.findings.by_column import column_finding
from clipaudit.cues.findings.by_text import text_finding
from clipaudit.cues.findings.candidates import TextCue, grounded_in, text_cues
from clipaudit.cues.findings.given_models import given_model
from clipaudit.cues.findings.label_probe import LabelProbe, measured_label
from clipaudit.cues.findings.measured_reliance import column_experiments_of, having_of, measure_reliance, scored_images
from clipaudit.cues.findings.scored_examples import with_examples
from clipaudit.cues.findings.sentences import listed
from clipaudit.cues.findings.value_cues import stand_ins, value_cues
from clipaudit.cues.measure.context import ColumnTest, Context, Progress
from clipaudit.cues.reliance.rules import PlaceboDraws
from clipaudit.cues.result.finding_parts import Evidence, Verdict
from clipaudit.cues.result.given_parts import GivenModel
from clipaudit.cues.result.rehearsal_parts import ColumnRehearsal, RehearsalPanel
from clipaudit.cues.result.result import Finding
from clipaudit.cues.side_by_side import both
from clipaudit.cues.statistics.attributes import AttributeScreen

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
    columns: tuple[ColumnRehearsal, ...] = ()
    """Of one label of several: its probe trained in other ways."""


def findings_of(
    context: Context, panel: Panel | None, progress: Progress, probe: LabelProbe | None = None
) -> AllFindings:
    """Every finding of the answerers in `panel`, None without labels; probe: of one label of several, which answers in
    their place."""
    cues = value_cues(context)[: context.options.max_findings]
    progress("reliance", 0, 1)
    columns = tuple(dict.fromkeys(cue.screen.attribute.column for cue in cues))
    # what is trained takes the longest, and waits for nothing but the cues
    named, experiments = both(
        lambda: text_cues(context),
        lambda: column_experiments_of(
            None if panel is None else panel.rehearsed, columns, len(cues), context.options.seed
        ),
    )
    reliance, rehearsal = both(
        lambda: measure_reliance(context, panel, cues, experiments),
        lambda: audit_rehearsal(context, panel, cues, experiments),
    )
    of_label = None if probe is None else measured_label(context, probe, cues)
    measured = reliance.findings if of_label is None else of_label.findings
    progress("reliance", 1, 1)
    limits = [float(context.family.limits[context.row_of(cue.screen, cue.place), 0]) for cue in cues]
    judged_by = stand_ins(cues, measured, limits) if any(measured) else [None] * len(cues)
    logits = {} if panel is None else {answerer.name: answerer.logits for answerer in panel.answerers}
    findings: list[Finding] = []
    grounds: list[tuple[int, Ints]] = []
    for done, (cue, parts, other) in enumerate(zip(cues, measured, judged_by, strict=True), 1):
        finding = with_examples(context, context.answers, logits, cue, value_finding(context, cue, parts, other))
        if cue.associated or finding.verdict in _KEPT_WITHOUT_TIE:
            # an image property follows from what is in the picture, and a text may say what that is: snow, not
            # brightness. It stands beside the text and silences none (trap 16).
            if cue.screen.attribute.column not in context.measured:
                codes = cue.screen.attribute.codes[context.scan.sample]
                grounds.append((len(findings), having_of(codes, cue.value)))
            findings.append(finding)
        progress("attributes", done, len(cues))
    # a column with a finding of a value is not listed as a whole, too
    with_value = {id(cue.screen) for cue in cues if cue.associated}
    # an image property without an end that stands out is in the tables alone: real classes differ in everything, a
    # little (trap 28)
    tied = [
        screen
        for screen, test in zip(context.attributes, context.columns, strict=True)
        if _is_tied(context, screen, test)
        and id(screen) not in with_value
        and screen.attribute.column not in context.measured
    ]
    findings += [column_finding(context, screen) for screen in tied]
    texts, echoes = _text_findings(context, named, grounds, progress)
    if context.presence is not None:  # a text that is another label in words is said with that label
        findings = [_with_texts(finding, echoes.get(place, ())) for place, finding in enumerate(findings)]
    return AllFindings(
        findings=findings + texts,
        placebo=reliance.placebo,
        rehearsal=rehearsal,
        given=_given_models(context, panel),
        columns=() if of_label is None else of_label.columns,
    )


def _given_models(context: Context, panel: Panel | None) -> tuple[GivenModel, ...]:
    if panel is None or context.answers is None:
        return ()
    images = scored_images(context, context.answers.facts)
    return tuple(given_model(part, images, context.names, context.options.seed) for part in panel.given)


def _is_tied(context: Context, screen: AttributeScreen, test: ColumnTest) -> bool:
    """Whether a column as a whole goes with the classes (S6b).

    Of several labels an image the permutations of the omnibus test, which are of one label, do not count the others:
    the whole column's row among the tests of all labels decides.
    """
    if context.presence is None:
        return test.omnibus.tied
    return screen.has_whole and bool(context.passed[context.row_of(screen, len(screen.values))])


def _text_findings(
    context: Context, named: Sequence[TextCue], grounds: list[tuple[int, Ints]], progress: Progress
) -> tuple[list[Finding], dict[int, list[str]]]:
    """Texts that no value with a finding of its own stands for: that value has been tested itself; and the other texts
    by the place of that finding."""
    cues: list[TextCue] = []
    echoes: dict[int, list[str]] = {}
    for cue in named:
        place = grounded_in(context, cue.scores, grounds)
        if place is None:
            cues.append(cue)
        else:
            echoes.setdefault(place, []).append(cue.word.text)
    findings = []
    for done, cue in enumerate(cues, 1):
        findings.append(text_finding(context, cue))
        progress("texts", done, len(cues))
    return findings, echoes


def _with_texts(finding: Finding, texts: Sequence[str]) -> Finding:
    """A finding with the texts that it stands for among its evidence."""
    if not texts:
        return finding
    quoted = listed([repr(text) for text in texts])
    which = "a cue of its own is not" if len(texts) == 1 else "cues of their own are not"
    cue = finding.cue.value or finding.cue.name
    evidence = Evidence(
        name="texts",
        supports=True,
        value=None,
        sentence=f"{quoted}: that is {cue!r} in words, and {which} listed for it.",
    )
    return replace(finding, evidence=(*finding.evidence, evidence))
