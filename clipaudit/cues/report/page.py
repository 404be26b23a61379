"""The page: one self-contained HTML file without scripts, from the templates and the values prepared here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Final

import jinja2
from markupsafe import Markup

from clipaudit.cues.report import words
from clipaudit.cues.report.cards import anchor, card, group_tables
from clipaudit.cues.report.document import File, Report
from clipaudit.cues.report.files import effective_images
from clipaudit.cues.report.first_screen import actions, case_answers, cases, finding_in_words, plain_sentences, to_do
from clipaudit.cues.report.mistake_cards import error_cards, label_pictures
from clipaudit.cues.report.pictures import CARDS, Pictures, duplicate_strips
from clipaudit.cues.report.plots import Mark, cue_map, icon, interval_row
from clipaudit.cues.report.rehearsed_arms import glance, how_rehearsed, rehearsal_columns
from clipaudit.cues.report.reliance_words import ANSWERER_COLUMNS, answerer_cell, numbers
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Estimate, SampleRef, Verdict
from clipaudit.cues.result.result import AuditResult
from clipaudit.pages.html import render_page, template_environment

_FURTHER: Final = 3
"""Further findings named on the first screen."""
_SHIFT_ROWS: Final = 15
"""Rows of the table of shifts."""
_CLASSES: Final = 15
"""Rows of the table of classes."""
_TESTED: Final = 150
"""Cues on the map that are no findings, at most."""
_GATE: Final = {"passed": "Gate passed", "failed": "Gate failed", "inconclusive": "Gate undecided",
                "invalid": "Audit not valid"}  # fmt: skip
_FILES_FOR: Final = {
    Verdict.CONFIRMED: ("collect.csv", "weights.parquet"),
    Verdict.DATA_ONLY: ("collect.csv", "weights.parquet"),
    Verdict.FAILS_WHERE: ("collect.csv", "weights.parquet"),
    Verdict.NEEDED: ("collect.csv", "weights.parquet"),
    Verdict.OBSERVED: ("groups.parquet",),
    Verdict.INCONCLUSIVE: ("collect.csv", "review.csv"),
}
"""Files that the action of a verdict needs; other verdicts need the list of images to look at."""
_PERCENT: Final = re.compile("(?<=[0-9]) %")
"""A number stays on one line with its sign."""
_WAIVER: Final = {
    "active": "this finding does not fail the gate",
    "expired": "expired, so it has no effect",
    "unknown": "this audit has no such finding",
}


@dataclass(frozen=True, kw_only=True)
class Link:
    """Another page to look at."""

    title: str
    address: str
    """Relative to the report's directory."""


def render(report: Report, pictures: Pictures | None = None, see_also: Sequence[Link] = ()) -> str:
    """The page as text; `pictures` from `read_pictures`."""
    context = {**_context(report, pictures or Pictures()), "see_also": see_also}
    page = render_page(_environment().get_template("report.html"), **context)
    return _PERCENT.sub("\u00a0%", page)


@cache
def _environment() -> jinja2.Environment:
    environment = template_environment("clipaudit.cues.report")
    environment.globals.update(_helpers())
    return environment


def _helpers() -> dict[str, Any]:
    return {
        "anchor": anchor,
        "answerer_cell": answerer_cell,
        "answerer_words": words.who_first,
        "in_words": finding_in_words,
        "column_in_words": column_in_words,
        "icon": icon,
        "slug": words.slug,
        "short": words.SHORT,
        "count": words.count,
        "share": words.share,
        "decimal": words.decimal,
        "p_value": words.p_value,
        "limits": words.limits,
        "with_limits": words.with_limits,
        "value_of": _value_of,
        "cue_word": words.cue_word,
    }


def _context(report: Report, pictures: Pictures) -> dict[str, Any]:
    audit = report.audit
    card_findings, several = audit.findings[:CARDS], audit.settings.several_labels
    return {
        "report": report,
        "audit": audit,
        "files": report.files,
        "title": words.headline(audit),
        "gate_word": _GATE[report.gate.outcome] if report.gate.fail_on or not audit.trust.valid else "No gate set",
        "plain": plain_sentences(report),
        "todo": to_do(report),
        "unable": words.unable(audit),
        "level": words.level(audit.trust.level),
        "first_numbers": numbers(card_findings[0]) if card_findings and audit.trust.valid else (),
        "todo_files": _todo_files(report),
        "shorten": words.shortened(audit),
        "also": () if not audit.trust.valid else audit.findings[1 : 1 + _FURTHER],
        "more": max(len(audit.findings) - 1 - _FURTHER, 0),
        "cases": cases(audit, pictures),
        "case_answers": case_answers(audit),
        "map": _map(audit),
        "tested": min(sum(point.finding is None for point in audit.map), _TESTED),
        "shown_findings": card_findings,
        "nothing": words.nothing(audit) + ".",
        "waiver_words": _WAIVER,
        "cards": [card(finding, pictures, report.waivers, several) for finding in card_findings],
        "groups": group_tables(audit),
        "rehearsal": rehearsal_columns(audit),
        "given": audit.given,
        "how_rehearsed": words.shortened(audit)(how_rehearsed(audit.rehearsal)),
        "glance_title": glance(audit)[0],
        "glance_bars": glance(audit)[1],
        "file_names": {file.name for file in report.files},
        "shift_sentence": _shift_sentence(audit),
        "shift_rows": _shift_rows(audit),
        "mistakes": error_cards(audit, pictures),
        "label_pictures": label_pictures(audit, pictures),
        "hygiene_facts": _hygiene_facts(audit),
        "duplicates": duplicate_strips(audit, pictures),
        "class_rows": sorted(audit.classes, key=lambda facts: -facts.n)[:_CLASSES],
        "more_classes": len(audit.classes) > _CLASSES,
        "actions": actions(audit),
        "effective": effective_images(audit),
        "trust_facts": _trust_facts(audit),
        "glossary": words.GLOSSARY,
        "meaning": words.meanings(several),
        "several": several,
        "answerer_columns": _answerer_columns(audit),
        "measured": audit.settings.classes_from == "label" and not several,
        "noun": "label" if several else "class",
        "nouns": "labels" if several else "classes",
        "made_facts": _made_facts(audit),
    }


def _answerer_columns(audit: AuditResult) -> tuple[tuple[str, str], ...]:
    """Answerers in the table of findings, with their headings; of several labels what was trained alone."""
    if not audit.settings.several_labels:
        return ANSWERER_COLUMNS
    return () if audit.rehearsal is None else tuple(each for each in ANSWERER_COLUMNS if each[0] == "rehearsed")


def _todo_files(report: Report) -> list[File]:
    """The files that the first finding's action needs."""
    first = next(iter(report.audit.findings), None)
    if first is None or not report.audit.trust.valid:
        return []
    return [file for file in report.files if file.name in _FILES_FOR.get(first.verdict, ("review.csv",))]


def _value_of(estimate: Estimate | None, kind: str) -> str:
    """The estimate without its interval."""
    value = None if estimate is None else estimate.value
    return {"decimal": words.decimal, "share": words.share, "points": words.points}[kind](value)


def _map(audit: AuditResult) -> Markup | None:
    """The map of findings; None where reliance is not measured: without labels, and with several an image."""
    if audit.settings.classes_from != "label" or audit.settings.several_labels:
        return None
    ranks = {finding.id: finding for finding in audit.findings[:CARDS]}
    numbered: list[Mark] = []
    others: list[Mark] = []
    for point in audit.map:
        if point.association.value is None:
            continue
        finding = ranks.get(point.finding or "")
        mark = Mark(
            number=None if finding is None else finding.rank,
            name=f"{point.class_name} and {point.cue}",
            verdict=point.verdict,
            anchor="" if finding is None else anchor(finding),
            strength=point.association,
            effect=point.reliance,
        )
        (others if finding is None else numbered).append(mark)
    others.sort(key=lambda mark: -abs(mark.strength.value or 0.0))
    marks = [*numbered, *others[:_TESTED]]
    return cue_map(marks, audit.settings.delta_warn, audit.settings.margin) if marks else None


def _shift_sentence(audit: AuditResult) -> str:
    if audit.shift is None:
        return ""
    shifted = sum(row.shifted for row in audit.shift.rows)
    if not shifted:
        return "No tie between a cue and a class differs more than chance would have it."
    return f"{shifted} of {len(audit.shift.rows)} ties between a cue and a class differ more than chance would have it."


def _shift_rows(audit: AuditResult) -> list[dict[str, Any]]:
    rows = () if audit.shift is None else audit.shift.rows
    ordered = sorted(rows, key=lambda row: -abs(row.difference.value or 0.0))
    return [
        {"row": row, "plot": interval_row([("second", row.train), ("before", row.test)], -1, 1, 0.0)}
        for row in ordered[:_SHIFT_ROWS]
    ]


def _hygiene_facts(audit: AuditResult) -> list[tuple[str, str]]:
    hygiene = audit.hygiene
    unreadable = [
        f"{words.STATUS.get(status, status)}: {words.count(n)}" for status, n in hygiene.unreadable.items() if n
    ]
    leaked = (
        "one set of rows only" if hygiene.leaked_clusters is None else words.counted(hygiene.leaked_clusters, "cluster")
    )
    return [
        ("Unreadable samples", ", ".join(unreadable) or "none"),
        *((f"Such as, {words.STATUS.get(name, name)}", text) for name, text in hygiene.unreadable_examples.items()),
        ("Shards lost or cut", f"{hygiene.failed_shards} lost, {hygiene.truncated_shards} cut short"),
        (
            "Near duplicates",
            f"{words.counted(hygiene.duplicate_images, 'image')} in"
            f" {words.counted(hygiene.duplicate_clusters, 'cluster')}",
        ),
        (f"Near duplicates with different {_labels(audit)}", words.counted(hygiene.mixed_label_clusters, "cluster")),
        ("In both train and test", leaked),
        *(("Such as", _leak(*pair)) for pair in hygiene.leaked_examples[:1]),
        (
            f"Balance, smallest {'label' if audit.settings.several_labels else 'class'} / largest",
            words.share(hygiene.balance, 0),
        ),
    ]


def _leak(trained: SampleRef, scored: SampleRef) -> str:
    """`000017 of birds-0.tar and 000211 of birds-4.tar`."""
    return " and ".join(f"{part.key} of {PurePosixPath(part.url).name}" for part in (trained, scored))


def _trust_facts(audit: AuditResult) -> list[tuple[str, str]]:
    trust, negative, shorten = audit.trust, audit.controls.negative, words.shortened(audit)
    facts = [
        (
            f"Same audit, {_labels(audit)} shuffled",
            f"{'✓' if negative.valid else '✗'} {words.share(negative.share_with_any, 0)} of"
            f" {negative.audits} audits had a finding (limit {words.share(negative.limit, 0)}),"
            f" on {words.sample(negative.rows, audit.data.rows, 'image')}",
        )
    ]
    for control in audit.controls.positive:
        strength = words.decimal(control.d, 1)
        right = "side" if audit.settings.several_labels else "class"
        facts.append((f"Planted cues of D = {strength}", f"{control.detected} of {control.trials} found,"
                      f" {control.named} with the right {right}"))  # fmt: skip
    if trust.placebo is not None:
        # S10d: the rules of reliance on columns that no image shows
        believed = "; ".join(
            f"{words.who_first(part.answerer)} {words.count(part.believed)} of"
            f" {words.counted(part.tried, 'permuted column')} ({words.share(part.rate, 1)})"
            for part in trust.placebo.by_answerer
        )
        on = words.sample(trust.placebo.rows, audit.data.counterfactual_rows, "scored image")
        facts.append(("Believed though shuffled", f"{believed}, on {on}"))
    accuracy = words.with_limits(trust.accuracy, "share") + (", no better than guessing" if trust.near_chance else "")
    independent = f"{words.count(audit.data.rows)} ({words.count(audit.data.clusters)} independent)"
    images = f"{independent}, {shorten(audit.data.association)}"
    scored = f"{words.count(audit.data.counterfactual_rows)} images, {shorten(audit.data.counterfactual or '')}"
    return [
        *facts,
        ("Tests", f"{words.count(trust.tests)}: {trust.heads} heads, {words.count(trust.directions)} directions"),
        *_class_facts(audit, accuracy),
        ("Audited heads’ share of the embedding", words.share(trust.embedding_share, 0)),
        ("Means from", shorten(trust.mean_source or words.NONE)),
        ("Images", images),
        ("Reliance measured on", scored if audit.data.counterfactual else "not measured"),
        ("Strongest verdict this input allows", words.SHORT[audit.data.evidence]),
    ]


def _labels(audit: AuditResult) -> str:
    return "labels" if audit.settings.classes_from == "label" else "classes"


def _class_facts(audit: AuditResult, accuracy: str) -> list[tuple[str, str]]:
    """How often CLIP's answers are the classes, and where classes come from if not from labels."""
    if audit.settings.several_labels:
        return [("CLIP’s zero-shot accuracy", "not measured: images have several labels")]
    if audit.settings.classes_from == "label":
        return [("CLIP’s zero-shot accuracy", accuracy)]
    captions = audit.settings.classes_from == "caption"
    facts = [("Classes from", "captions" if captions else "CLIP’s own answers")]
    for which, left_out in (("Images", audit.data.left_out), ("Compared images", audit.data.test_left_out)):
        if left_out is not None:
            facts.append((f"{which} left out", f"{words.count(left_out.unnamed)} without a class,"
                          f" {words.count(left_out.ambiguous)} with more than one"))  # fmt: skip
    if captions:
        return [*facts, ("CLIP answers what the caption names", accuracy)]
    return [*facts, ("CLIP’s zero-shot accuracy", "not measured: its answers are the classes")]


def _made_facts(audit: AuditResult) -> list[tuple[str, str]]:
    settings = audit.settings
    return [
        ("Seed", str(settings.seed)),
        ("Texts", f"{settings.pool}, {settings.directions_per_head} directions a head"),
        ("Class names", f"{settings.classes}, prompts: {settings.templates}"),
        ("Model", f"{audit.model} ({audit.model_fingerprint[:12]})"),
        ("Run", f"{audit.run} ({audit.run_fingerprint[:12]})"),
        ("State", f"generation {audit.state.generation}, last commit {audit.state.committed_at}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in audit.versions.items())),
        ("Made", f"{audit.started}, in {audit.seconds:.0f} s"),
    ]
