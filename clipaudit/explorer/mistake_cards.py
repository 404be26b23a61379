"""A report's error slices and contradicted labels, each with the filter of its images."""

from __future__ import annotations

from typing import Any

from clipaudit.errors import IntegrityError
from clipaudit.explorer.finding_cards import label_filter
from clipaudit.explorer.report_columns import DOUBT, ReportColumns
from clipaudit.explorer.report_file import REJECTED, ReportFile
from clipaudit.run.reader import Run


def mistakes(run: Run, report: ReportFile, columns: frozenset[str]) -> dict[str, Any]:
    """Slices by answerer and contradicted labels; columns: names of the report's columns that the wall has.

    IntegrityError when `report.json` is not of the expected form.
    """
    try:
        names = ReportColumns(report).slices()
        errors = report.audit.get("errors") or []
        return {
            "answerers": [
                {
                    "name": each["answerer"],
                    "images": each["images"],
                    "wrong": each["wrong"],
                    "sentence": each["sentence"],
                    "too_few": each["too_few"],
                    "slices": [_slice(run, part, names[part["id"]], columns) for part in each["slices"]],
                }
                for each in errors
            ],
            "labels": _labels(report.audit.get("labels"), columns),
        }
    except REJECTED as error:
        where = report.storage.full("report.json")
        raise IntegrityError(f"{where} is damaged, or of another version: make the report again") from error


def _slice(run: Run, part: dict[str, Any], column: str, columns: frozenset[str]) -> dict[str, Any]:
    there = column in columns
    return {
        "id": part["id"],
        "class_name": part["class_name"],
        "description": part["description"],
        "sentence": part["sentence"],
        "wrong": part["wrong"],
        "others": part["others"],
        "share_of_errors": part["share_of_errors"],
        "images": part["images"],
        "same": part["same"],
        "no_good_word": part["no_good_word"],
        "taken_for": [{"class_name": name, "images": images} for name, images in part["taken_for"]],
        "where": f"{_name(column)} is not null" if there else None,
        "where_wrong": f"{_name(column)} = wrong" if there else None,
        "class_filter": label_filter(run, part["label"]),
    }


def _labels(labels: dict[str, Any] | None, columns: frozenset[str]) -> dict[str, Any] | None:
    if labels is None:
        return None
    return {
        "sentence": labels["sentence"],
        "listed": labels["listed"],
        "pairs": labels["pairs"],
        "where": f"{DOUBT} is not null" if DOUBT in columns else None,
        "sort": DOUBT,
    }


def _name(column: str) -> str:
    return column if column.isascii() and not column.split(".")[1][:1].isdigit() else f"`{column}`"
