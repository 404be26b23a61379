"""`report.json`: an audit with its gate, waivers, files and command, and the JSON Schema that is published for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter

from clipaudit.cues.report.gate import Gate
from clipaudit.cues.report.waivers import Applied
from clipaudit.cues.result.finding_parts import Documented
from clipaudit.cues.result.result import AuditResult

SCHEMA_VERSION: Final = 1
SCHEMA_URL: Final = "https://clipaudit.dev/schema/report-2.json"


@dataclass(frozen=True, kw_only=True)
class File(Documented):
    """A file beside the page."""

    name: str
    about: str
    """What is in it and what to do with it."""
    rows: int | None
    """Images or lines; None for a file without rows."""


@dataclass(frozen=True, kw_only=True)
class Report(Documented):
    """The whole content of a report."""

    audit: AuditResult
    gate: Gate
    waivers: tuple[Applied, ...]
    files: tuple[File, ...]
    command: str
    """What makes this report again."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; null where there is no finite number."""
        document: dict[str, Any] = json.loads(_adapter().dump_json(self))  # pydantic writes null for NaN and infinity
        return document


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `Report.to_json()`; written beside every report as `report.schema.json`."""
    schema = _adapter().json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_URL, **schema}
