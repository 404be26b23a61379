"""JUnit XML, which build servers show: one test case a finding, one for the audit's own controls, one for evidence."""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree

from clipaudit.cues.report.document import Report
from clipaudit.cues.report.words import SHORT
from clipaudit.cues.result.result import Finding

_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(report: Report) -> bytes:
    """The report as one test suite, UTF-8; its failures are the findings that fail the gate."""
    suite = ElementTree.Element("testsuite", name="clipaudit", timestamp=report.audit.started[:19])
    _controls(suite, report)
    _evidence(suite, report)
    for finding in report.audit.findings:
        _finding(suite, finding, report)
    cases = suite.findall("testcase")
    for kind in ("failure", "error", "skipped"):
        plural = {"failure": "failures", "error": "errors"}.get(kind, kind)
        suite.set(plural, str(sum(case.find(kind) is not None for case in cases)))
    suite.set("tests", str(len(cases)))
    suite.set("time", f"{report.audit.seconds:.3f}")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _controls(suite: ElementTree.Element, report: Report) -> None:
    case = _case(suite, "audit", "controls")
    if not report.audit.trust.valid:
        _outcome(case, "error", "the audit is not valid", "\n".join(report.audit.trust.problems))


def _evidence(suite: ElementTree.Element, report: Report) -> None:
    case = _case(suite, "audit", "evidence")
    gate = report.gate
    # findings of a failing kind that are too weak to fail leave it open, too
    questions = gate.open_questions or (gate.warnings if gate.outcome == "inconclusive" else ())
    if not questions:
        return
    # open questions fail a build only where evidence is required
    kind = "failure" if gate.require_evidence and gate.outcome == "inconclusive" else "skipped"
    _outcome(case, kind, questions[0], "\n".join(questions))


def _finding(suite: ElementTree.Element, finding: Finding, report: Report) -> None:
    case = _case(suite, finding.class_name, f"{finding.cue.name} [{finding.id}]")
    waiver = next((w for w in report.waivers if w.matches == finding.id and w.status == "active"), None)
    message = f"{SHORT[finding.verdict]}: {finding.sentence}"
    if finding.id in report.gate.failing:
        _outcome(case, "failure", message, f"{message}\nWhat to do: {finding.action}")
    elif waiver is not None:
        _outcome(case, "skipped", f"waived by {waiver.owner} until {waiver.expires}: {waiver.reason}", None)
    else:
        _outcome(case, "skipped", message, None)


def _case(suite: ElementTree.Element, class_name: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=_xml(f"clipaudit.{class_name}"), name=_xml(name))


def _outcome(case: ElementTree.Element, kind: str, message: str, body: str | None) -> None:
    element = ElementTree.SubElement(case, kind, message=_xml(message))
    if body is not None:
        element.text = _xml(body)


def _xml(text: str) -> str:
    """The text without characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
