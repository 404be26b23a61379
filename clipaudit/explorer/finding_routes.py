"""A report over HTTP: its findings with what labels say of them, and where its answerers err."""

from __future__ import annotations

import shlex
from typing import Any

from fastapi import APIRouter

from clipaudit.explorer.finding_cards import finding_cards, summary
from clipaudit.explorer.label_draw import plain_word
from clipaudit.explorer.labelling import Labelling
from clipaudit.explorer.mistake_cards import mistakes
from clipaudit.explorer.problems import PROBLEMS
from clipaudit.explorer.workspace import Workspace


def add_findings(router: APIRouter, workspace: Workspace, labelling: Labelling | None) -> None:
    """Findings and mistakes; without `labelling` no candidate can be labelled."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (404, 409, 422)}

    @router.get("/findings", responses=problems)
    def findings() -> dict[str, Any]:
        """The report's verdicts as cards, or the command that makes a report."""
        if workspace.report is None:
            return _no_report(workspace)
        cards = finding_cards(workspace.run, workspace.report)
        studies = [] if labelling is None else labelling.studies()
        of_finding = {study["finding"]: study for study in reversed(studies)}  # the latest of each
        for card in cards:
            card["label_word"] = plain_word(card["cue"]) if card["kind"] == "text" and labelling is not None else None
            card["labelled"] = of_finding.pop(card["id"], None)
        return {
            "report": summary(workspace.report),
            "findings": cards,
            "labelled": list(of_finding.values()),
            "answers": workspace.answer_columns(),
        }

    @router.get("/mistakes", responses=problems)
    def slices() -> dict[str, Any]:
        """The report's error slices and contradicted labels, or the command that makes a report."""
        if workspace.report is None:
            return _no_report(workspace)
        return mistakes(workspace.run, workspace.report, frozenset(workspace.report_columns()))


def _no_report(workspace: Workspace) -> dict[str, Any]:
    url = workspace.run.directory.url
    return {"missing": f"{url} has no report yet.", "command": shlex.join(["clipaudit", "report", url])}
