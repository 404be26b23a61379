"""The report in Markdown, short enough for a pull request's comment."""

from __future__ import annotations

import re
from typing import Final

from clipaudit.cues.report.document import Report
from clipaudit.cues.report.first_screen import plain_sentences
from clipaudit.cues.report.reliance_words import reliance
from clipaudit.cues.report.words import SHORT, headline, unit, with_limits

_ROWS: Final = 10
_SPECIAL: Final = re.compile(r"([\\`*_\[\]#|~@]|:(?=//))")


def markdown(report: Report) -> str:
    """Verdict, gate, at most ten findings and what to do; texts of the data are escaped."""
    audit = report.audit
    lines = [f"# {escape(headline(audit))}", "", escape(" ".join(plain_sentences(report))), ""]
    lines += [f"**{escape(report.gate.sentence)}**", ""]
    if audit.findings:
        measure = "reliance, AUC" if audit.settings.several_labels else "reliance, points"
        lines += [f"| | verdict | class | cue | tie in the data, D | {measure} | what to do |",
                  "|---:|---|---|---|---|---|---|"]  # fmt: skip
    for finding in audit.findings[:_ROWS]:
        cells = (
            str(finding.rank),
            SHORT[finding.verdict] + (" (waived)" if finding.id in report.gate.waived else ""),
            finding.class_name,
            finding.cue.name,
            with_limits(finding.association.d),
            with_limits(reliance(finding), unit(finding.relying)),
            finding.action,
        )
        lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
    if len(audit.findings) > _ROWS:
        lines += ["", f"{len(audit.findings) - _ROWS} more are in report.json."]
    mistakes = [errors.sentence for errors in audit.errors]
    mistakes += [part.sentence for errors in audit.errors for part in errors.slices[:_ROWS]]
    labels = [] if audit.labels is None else [audit.labels.sentence]
    sections = (
        ("Where models err", mistakes),
        ("Labels", labels),
        ("Not decided", report.gate.open_questions),
        ("Warnings", report.gate.warnings),
    )
    for title, sentences in sections:
        if sentences:
            lines += ["", f"## {title}", "", *(f"- {escape(sentence)}" for sentence in sentences)]
    if report.waivers:
        lines += ["", "## Waivers", ""]
        lines += [
            f"- {escape(f'{w.finding}: {w.status}, {w.owner}, until {w.expires}: {w.reason}')}" for w in report.waivers
        ]
    lines += ["", "## Files", "", *(f"- {escape(file.name)}: {escape(file.about)}" for file in report.files)]
    lines += ["", "Made by:", "", *(f"    {line}" for line in report.command.splitlines())]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """A text as Markdown shows it letter by letter, on one line, HTML included."""
    flat = " ".join(text.split())
    safe = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(_escaped, safe)


def _escaped(match: re.Match[str]) -> str:
    # addresses and at signs would become links and mentions; an entity stops both
    entity = {":": "&#58;", "@": "&#64;"}.get(match[1])
    return entity or f"\\{match[1]}"
