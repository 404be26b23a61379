"""A report's findings as cards: verdict, effect net of controls, each answerer, and class x cue cells with filters."""

from __future__ import annotations

import re
from typing import Any, Final

from clipaudit.cues.report.words import MEANING, SHORT, slug
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.errors import IntegrityError
from clipaudit.explorer.report_columns import ReportColumns
from clipaudit.explorer.report_file import REJECTED, ReportFile
from clipaudit.run.filter_terms import KEYWORDS, quoted
from clipaudit.run.reader import Run

_WORD: Final = re.compile(r"[A-Za-z_][\w.-]*")
"""A column or value that filters have without quotes."""


def finding_cards(run: Run, report: ReportFile) -> list[dict[str, Any]]:
    """A card a finding, in the report's order; IntegrityError when `report.json` is not of the expected form."""
    try:
        columns = ReportColumns(report).cues()
        return [_card(run, report.audit, finding, columns) for finding in report.audit["findings"]]
    except REJECTED as error:
        where = report.storage.full("report.json")
        raise IntegrityError(f"{where} is damaged, or of another version: make the report again") from error


def summary(report: ReportFile) -> dict[str, Any]:
    """What the whole report says: sentence, gate, images, command, and what limits it; IntegrityError as above."""
    try:
        audit, gate = report.audit, report.document["gate"]
        return {
            "place": report.storage.url,
            "sentence": audit["sentence"],
            "verdict": SHORT[Verdict(audit["verdict"])] if audit["verdict"] in set(Verdict) else audit["verdict"],
            "gate": {"outcome": gate["outcome"], "sentence": gate["sentence"]},
            "accuracy": audit["trust"]["accuracy"],
            "rows": audit["data"]["rows"],
            "association": audit["data"]["association"],
            "counterfactual": audit["data"]["counterfactual"],
            "limits": audit["trust"]["limits"],
            "problems": audit["trust"]["problems"],
            "command": report.document["command"],
            "files": [{"name": file["name"], "about": file["about"]} for file in report.document["files"]],
        }
    except REJECTED as error:
        where = report.storage.full("report.json")
        raise IntegrityError(f"{where} is damaged, or of another version: make the report again") from error


def _card(run: Run, audit: dict[str, Any], finding: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    verdict = Verdict(finding["verdict"])
    cue = finding["cue"]
    column = columns[finding["id"]]
    return {
        "id": finding["id"],
        "verdict": SHORT[verdict],
        "slug": slug(verdict),
        "meaning": MEANING[verdict],
        "sentence": finding["sentence"],
        "action": finding["action"],
        "class_name": finding["class_name"],
        "cue": cue["name"],
        "words": [word["text"] for word in cue["words"]],
        "no_good_word": bool(finding.get("no_good_word")),
        "heads": cue["heads"],
        "attribute": cue["attribute"],
        "value": cue["value"],
        "score_column": column,
        "without": f"clip.without.{column.removeprefix('cue.')}.right",
        "association": finding["association"]["d"],
        "answerers": [_answerer(each) for each in finding["reliance"]],
        "cells": _cells(run, audit, finding),
        "evidence": [evidence["sentence"] for evidence in finding["evidence"]],
        "false_alarm": finding["false_alarm"],
        "needs": [str(need) for need in finding["needs"]],
        "kind": finding["kind"],
        "class_filter": None if finding["label"] is None else label_filter(run, finding["label"]),
    }


def _answerer(reliance: dict[str, Any]) -> dict[str, Any]:
    """One answerer's row: accuracies where the cue helps and where it misleads, and the effect of taking it away."""
    effect = reliance["effect"]
    return {
        "name": reliance["answerer"],
        "verdict": SHORT[Verdict(reliance["verdict"])] if reliance["verdict"] else None,
        "state": reliance["state"],
        # of one label of several the gap is one of AUCs, and no points of accuracy: the sentence has it
        "gap": None if reliance.get("ranking") else reliance["gap"],
        "gap_after": None if effect is None else effect["gap_after"],
        "net": None if effect is None else effect["net_did"],
        "control": None if effect is None else effect["control"],
        "control_band": None if effect is None else effect["control_band"],
        "cells": reliance["cells"],
    }


def _cells(run: Run, audit: dict[str, Any], finding: dict[str, Any]) -> dict[str, Any] | None:
    """Class x value cells: images, accuracy with and without the cue's heads, and the filter of each; None for cues
    that no column gives.
    """
    cells, attribute = finding["cells"], finding["cue"]["attribute"]
    if cells is None or attribute is None:
        return None
    groups = finding["groups"] or {"groups": [], "rows": None, "attribute": None}
    measured = {
        (group["class_name"], group["value"]): group for group in groups["groups"] if groups["attribute"] == attribute
    }
    # of several labels the sides of the finding are images with and without one, and no classes of the audit
    labels = {each["class_name"]: each["label"] for each in (*audit["classes"], *finding["classes"])}
    rows = []
    for place, class_name in enumerate(cells["classes"]):
        row = []
        for value_place, value in enumerate(cells["values"]):
            group = measured.get((class_name, value))
            row.append(
                {
                    "class_name": class_name,
                    "value": value,
                    "count": cells["counts"][place][value_place],
                    "expected": cells["expected"][place][value_place],
                    "accuracy": None if group is None else group["accuracy"],
                    "without": None if group is None else group["without"],
                    "where": cell_filters(run, labels.get(class_name), attribute, value),
                }
            )
        rows.append(row)
    return {"attribute": attribute, "values": cells["values"], "measured_on": groups["rows"], "rows": rows}


def cell_filters(run: Run, label: int | str | None, attribute: str, value: str) -> list[str]:
    """Filters of the images of a class, None for any, with a value of a column."""
    filters = [] if label is None else [label_filter(run, label)]
    return [*filters, _value_filter(run, attribute, value)]


def label_filter(run: Run, label: int | str) -> str:
    """The filter of a class's images."""
    without = str(label).removeprefix("not ")
    if run.spec.multi_label and without != str(label):  # the images that lack one of several labels
        return f"label != {_literal(without)}"
    return f"label = {label}" if run.spec.label_kind == "int" else f"label = {_literal(str(label))}"


def _value_filter(run: Run, attribute: str, value: str) -> str:
    """`place = water`; numbers and booleans stand without quotes, texts only where they are plain words."""
    if attribute.startswith("labels."):  # whether an image has another of several labels
        without = value.removeprefix("no ")
        return f"label {'=' if without == value else '!='} {_literal(without)}"
    kind = run.column_types().get(attribute, "text")
    name = attribute.removeprefix("attributes.")
    name = attribute if name in run.columns else name
    name = name if _WORD.fullmatch(name) else f"`{name}`"
    return f"{name} = {_literal(value) if kind == 'text' else value}"


def _literal(text: str) -> str:
    return text if _WORD.fullmatch(text) and text.lower() not in KEYWORDS else quoted(text)
