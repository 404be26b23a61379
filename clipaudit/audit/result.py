"""The whole result of a spurious-cue audit: what the report, the JSON file and a notebook read.

`AuditResult.to_json()` is its JSON form, described by `json_schema()`; a report publishes both inside its own.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final

import pyarrow as pa
from pydantic import Field, TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from clipaudit.audit.panels import (
    AttributeTable,
    ClassFacts,
    Controls,
    Data,
    Dropped,
    HeadShift,
    Hygiene,
    LeftOut,
    MapPoint,
    NegativeControl,
    PositiveControl,
    Settings,
    Shift,
    ShiftRow,
    Trust,
)
from clipaudit.audit.parts import (
    Arm,
    Association,
    CellTable,
    Counterfactual,
    Cue,
    CueWord,
    Distribution,
    Distributions,
    DosePoint,
    Estimate,
    Evidence,
    Gallery,
    GroupAccuracy,
    Groups,
    Half,
    Need,
    PairedTest,
    Predictability,
    RandomControl,
    Rival,
    SampleRef,
    Stability,
    Strength,
    Verdict,
    _Documented,
    strength_word,
)

__all__ = [
    "SCHEMA_URL",
    "SCHEMA_VERSION",
    "Arm",
    "Association",
    "AttributeTable",
    "AuditResult",
    "CellTable",
    "ClassFacts",
    "Controls",
    "Counterfactual",
    "Cue",
    "CueWord",
    "Data",
    "Distribution",
    "Distributions",
    "DosePoint",
    "Dropped",
    "Estimate",
    "Evidence",
    "Finding",
    "Gallery",
    "GroupAccuracy",
    "Groups",
    "Half",
    "HeadShift",
    "Hygiene",
    "LeftOut",
    "MapPoint",
    "Need",
    "NegativeControl",
    "PairedTest",
    "PositiveControl",
    "Predictability",
    "RandomControl",
    "Rival",
    "SampleRef",
    "Settings",
    "Shift",
    "ShiftRow",
    "Stability",
    "Strength",
    "Trust",
    "Verdict",
    "finding_id",
    "json_schema",
    "strength_word",
]

SCHEMA_VERSION: Final = 1
SCHEMA_URL: Final = "urn:clipaudit:schema:audit-result:1"


@dataclass(frozen=True, kw_only=True)
class Finding(_Documented):
    """One class and one cue, with everything that is known of them."""

    id: str
    """Stable: a hash of model, class and direction text; what a waiver names."""
    rank: int
    """1 is what to look at first."""
    verdict: Verdict
    sentence: str
    """The verdict in plain words, with number, interval and n."""
    action: str
    """What to do, in plain words."""
    class_name: str
    label: int | str
    cue: Cue
    association: Association
    counterfactual: Counterfactual | None
    """None when CLIP's reliance could not be measured; `needs` says why."""
    cells: CellTable | None
    distributions: Distributions | None
    evidence: tuple[Evidence, ...]
    false_alarm: tuple[str, ...]
    """Why this could be a false alarm, one sentence each."""
    needs: tuple[Need, ...]
    """Empty when the verdict is conclusive."""
    stability: Stability | None
    gallery: Gallery
    merged: int
    """Significant (head, direction) tests of this class that are this one cue."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AuditResult(_Documented):
    """Everything that a spurious-cue audit found."""

    schema_version: int
    run: str
    test_run: str | None
    model: str
    model_fingerprint: str
    run_fingerprint: str
    verdict: Verdict | None
    """Of the first finding; None without findings."""
    sentence: str
    """The answer in plain words: what is wrong, how much, how sure."""
    findings: tuple[Finding, ...]
    """In order of rank."""
    map: tuple[MapPoint, ...]
    classes: tuple[ClassFacts, ...]
    attributes: tuple[AttributeTable, ...]
    groups: tuple[Groups, ...]
    """Accuracy by class x value of each attribute, nothing replaced."""
    predictability: tuple[Predictability, ...]
    """By head, most class-free skill first."""
    shift: Shift | None
    hygiene: Hygiene
    controls: Controls
    trust: Trust
    dropped: tuple[Dropped, ...]
    data: Data
    settings: Settings
    versions: dict[str, str]
    started: str
    """UTC, ISO 8601. This and `seconds` are all that differs between two audits of one run with one seed."""
    seconds: float
    rows: Annotated[SkipJsonSchema[Mapping[str, pa.Table]], Field(exclude=True)] = field(
        default_factory=dict, repr=False
    )
    """Tables by image, for the exports; see `clipaudit.audit.exports`. Not part of the JSON."""

    def __repr__(self) -> str:
        return f"AuditResult({self.run!r}, {len(self.findings)} findings, {self.sentence!r})"

    def finding(self, finding_id: str) -> Finding:
        """The finding with this id; KeyError when there is none."""
        for found in self.findings:
            if found.id == finding_id:
                return found
        raise KeyError(finding_id)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; null where there is no finite number."""
        found: dict[str, Any] = json.loads(_adapter().dump_json(self))  # pydantic writes null for NaN and infinity
        return found

    def table(self, name: str = "findings") -> pa.Table:
        """A tidy table: `findings`, `associations`, `group_accuracy`, `arms`, `shift`, `classes`, or one of `rows`."""
        from clipaudit.audit.tables import tidy

        return self.rows[name] if name in self.rows else tidy(self, name)

    def _repr_html_(self) -> str:
        lines = "".join(
            f"<tr><td>{html.escape(f.class_name)}</td><td>{html.escape(f.cue.name)}</td><td>{html.escape(f.verdict)}"
            f"</td><td>{html.escape(f.sentence)}</td></tr>"
            for f in self.findings
        )
        head = "<tr><th>class</th><th>cue</th><th>verdict</th><th>evidence</th></tr>"
        return f"<p>{html.escape(self.sentence)}</p><table>{head}{lines}</table>"


def finding_id(model: str, class_name: str, text: str) -> str:
    """A finding's stable id, 12 hex digits; `text` is the cue's name."""
    return hashlib.sha256("\0".join((model, class_name, text)).encode()).hexdigest()[:12]


@cache
def _adapter() -> TypeAdapter[AuditResult]:
    return TypeAdapter(AuditResult)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `to_json()`."""
    found = _adapter().json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_URL, **found}
