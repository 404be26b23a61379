"""`report.json`: an audit with its gate, waivers, files and command, and the JSON Schema that is published for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import to_json

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
        # A TypeAdapter would read the source of every class for its docstrings (0.4 s), which values do not need.
        # Tables by image are no part of the JSON.
        plain = replace(self, audit=replace(self.audit, rows={}))
        document: dict[str, Any] = json.loads(to_json(plain, inf_nan_mode="null"))
        del document["audit"]["rows"]
        return document


def published_schema() -> bytes:
    """The JSON Schema of `Report.to_json()` as the package holds it; written beside every report."""
    return Path(__file__).with_name("report.schema.json").read_bytes()


def json_schema() -> dict[str, Any]:
    """The same schema, made from the classes: for the package's file and the test that compares both."""
    schema = TypeAdapter(Report).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_URL, **schema}
