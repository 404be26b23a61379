"""The whole result of a spurious-cue audit: what the report, the JSON file and a notebook read.

`AuditResult.to_json()` is its JSON form, described by `json_schema()`; a report publishes both inside its own.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
from pydantic import Field, TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from clipaudit.cues.result.finding_parts import (
    Association,
    CellTable,
    ClassRow,
    Cue,
    Distributions,
    Documented,
    Evidence,
    Gallery,
    Groups,
    Need,
    Predictability,
    Stability,
    Verdict,
)
from clipaudit.cues.result.given_parts import GivenModel
from clipaudit.cues.result.mistake_parts import AnswererErrors, DoubtfulLabels
from clipaudit.cues.result.panel_tables import estimate_columns, predictability_rows, rehearsal_rows, shift_rows
from clipaudit.cues.result.panels import (
    AttributeTable,
    ClassDifference,
    ClassFacts,
    Controls,
    Data,
    Dropped,
    Hygiene,
    MapPoint,
    Settings,
    Shift,
    StateRead,
    Trust,
)
from clipaudit.cues.result.rehearsal_parts import RehearsalPanel
from clipaudit.cues.result.reliance_parts import Counterfactual, Reliance
from clipaudit.errors import UsageError

SCHEMA_VERSION: Final = 2
SCHEMA_URL: Final = "urn:clipaudit:schema:audit-result:2"


@dataclass(frozen=True, kw_only=True)
class Finding(Documented):
    """One cue, with everything that is known of it and a row for each class."""

    id: str
    """Stable: a hash of model, cue and the classes that it names; what a waiver names."""
    former_ids: tuple[str, ...]
    """Ids of the first edition's findings that are this one now: one a class; a waiver of one of them still counts."""
    rank: int
    """1 is what to look at first."""
    verdict: Verdict
    """The worst of the answerers'."""
    kind: Literal["value", "column", "text"]
    """A column's value, a column as a whole, or a text."""
    sentence: str
    """The verdict in plain words, with number, interval and n."""
    action: str
    """What to do, in plain words."""
    class_name: str
    """The classes that the finding names, joined by commas."""
    label: int | str
    """Of the first of them."""
    side: Literal["has", "lacks", "both"]
    """Whether the named classes have the cue, lack it, or are both sides (as many classes on each)."""
    classes: tuple[ClassRow, ...]
    """Every class on either side, named ones first; at most 20."""
    cue: Cue
    association: Association
    reliance: tuple[Reliance, ...]
    """One for each answerer that was measured."""
    explained_by: tuple[str, ...]
    """Columns that explain its gap."""
    inseparable_from: tuple[str, ...]
    """Columns that cannot be told from it."""
    core: bool
    """The user called the value part of the class (`--core`)."""
    groups: Groups | None
    """Accuracy of the answers by class x value, before and (in `without`) with the heads at their means."""
    cells: CellTable | None
    distributions: Distributions | None
    evidence: tuple[Evidence, ...]
    false_alarm: tuple[str, ...]
    """Why this could be a false alarm, one sentence each."""
    needs: tuple[Need, ...]
    """What is missing for a stronger verdict; empty when it is conclusive."""
    stability: Stability | None
    gallery: Gallery
    no_good_word: bool
    """No text of the pool describes the cue well: its pictures say more than its name."""
    merged: int
    """Significant (head, direction) tests that are this one cue."""

    def by(self, answerer: str) -> Reliance | None:
        """What was measured of an answerer, `clip`, `rehearsed` or `given:NAME`; None where it was not.

        `given` alone is that of the user's models with the worst verdict.
        """
        parts = [part for part in self.reliance if answerer in (part.answerer, part.answerer.partition(":")[0])]
        return min(parts, key=lambda part: list(Verdict).index(part.verdict), default=None)

    @property
    def relying(self) -> Reliance | None:
        """The answerer that the verdict is of, CLIP before others; CLIP where it is no answerer's."""
        return next((part for part in self.reliance if part.verdict == self.verdict), self.by("clip"))

    @property
    def having(self) -> frozenset[str]:
        """The classes that have the cue."""
        return frozenset(row.class_name for row in self.classes if row.has)

    @property
    def counterfactual(self) -> Counterfactual | None:
        """What CLIP would answer without the cue's heads; None where it could not be measured."""
        clip = self.by("clip")
        return None if clip is None else clip.effect


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AuditResult(Documented):
    """Everything that a spurious-cue audit found; in a notebook a table of the findings.

    >>> result = audit_cues("demo-out/birds-run", AuditOptions(permutations=0, random_sets=200))
    >>> result.to_json()["verdict"] == result.verdict
    True
    """

    schema_version: int
    run: str
    test_run: str | None
    model: str
    model_fingerprint: str
    run_fingerprint: str
    state: StateRead
    test_state: StateRead | None
    verdict: Verdict | None
    """Of the first finding; `inconclusive` where that is not decided; None for a pass."""
    sentence: str
    """The answer in plain words: what is wrong, how much, how sure."""
    findings: tuple[Finding, ...]
    """In order of rank."""
    map: tuple[MapPoint, ...]
    classes: tuple[ClassFacts, ...]
    attributes: tuple[AttributeTable, ...]
    differences: tuple[ClassDifference, ...]
    """Directions along which classes differ and that are no candidates, strongest first; they block no pass."""
    groups: tuple[Groups, ...]
    """Accuracy by class x value of each attribute, nothing replaced."""
    predictability: tuple[Predictability, ...]
    """By head, most class-free skill first."""
    shift: Shift | None
    errors: tuple[AnswererErrors, ...]
    """What goes with the errors of each answerer but CLIP; empty where none was measured."""
    labels: DoubtfulLabels | None
    """Labels to look at; None where no probe was rehearsed."""
    rehearsal: RehearsalPanel | None
    """What a model trained on these images would learn, and what mends it; None without labels."""
    given: tuple[GivenModel, ...]
    """The user's models, by their predictions."""
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
    """Tables by image, for the exports; see `clipaudit.cues.row_tables`. Not part of the JSON."""

    def __repr__(self) -> str:
        return f"AuditResult({self.run!r}, {len(self.findings)} findings, {self.sentence!r})"

    def finding(self, finding_id: str) -> Finding:
        """The finding with this id; KeyError when there is none."""
        for finding in self.findings:
            if finding.id == finding_id:
                return finding
        raise KeyError(finding_id)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; null where there is no finite number."""
        document: dict[str, Any] = json.loads(_adapter().dump_json(self))  # pydantic writes null for NaN and infinity
        return document

    def table(self, name: str = "findings") -> pa.Table:
        """A tidy table: `findings`, `class_rows`, `reliance`, `associations`, `group_accuracy`, `arms`, `shift`,
        `classes`, `predictability`, `rehearsal`, or one of `rows`."""
        return self.rows[name] if name in self.rows else _tidy(self, name)

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
    schema = _adapter().json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_URL, **schema}


def _tidy(result: AuditResult, name: str) -> pa.Table:
    """One of the tables of `_TABLES` by its name; UsageError for another."""
    if name not in _TABLES:
        names = ", ".join([*_TABLES, *result.rows])
        raise UsageError(f"there is no table {name!r}: there are {names}")
    rows = _TABLES[name](result)
    return pa.Table.from_pylist(rows) if rows else pa.table({})


def _findings(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "rank": finding.rank,
            "finding": finding.id,
            "verdict": str(finding.verdict),
            "class": finding.class_name,
            "cue": finding.cue.name,
            "heads": list(finding.cue.heads),
            **estimate_columns("d", finding.association.d),
            "q": finding.association.q,
            "p_family": finding.association.p_family,
            **_reliance_columns(finding),
            "images_needed": max((need.images or 0 for need in finding.needs), default=0) or None,
        }
        for finding in result.findings
    ]


def _reliance_columns(finding: Finding) -> dict[str, float | None]:
    """CLIP's gap and net effect."""
    clip, effect = finding.by("clip"), finding.counterfactual
    return {
        **estimate_columns("gap", None if clip is None else clip.gap),
        **estimate_columns("margin_d", None if clip is None else clip.margin_d),
        **estimate_columns("net_did", None if effect is None else effect.net_did),
        "p_did": None if effect is None else effect.p,
    }


def _associations(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "finding": point.finding,
            "class": point.class_name,
            "cue": point.cue,
            "verdict": None if point.verdict is None else str(point.verdict),
            **estimate_columns("d", point.association),
            **estimate_columns("reliance", point.reliance),
        }
        for point in result.map
    ]


def _groups(result: AuditResult) -> list[dict[str, Any]]:
    sets: list[tuple[str | None, Groups]] = [(None, groups) for groups in result.groups]
    sets += [(finding.id, finding.groups) for finding in result.findings if finding.groups is not None]
    return [
        {
            "finding": finding,
            "attribute": groups.attribute,
            "class": group.class_name,
            "value": group.value,
            "n": group.n,
            "independent": group.independent,
            "size": group.size,
            **estimate_columns("accuracy", group.accuracy),
            **estimate_columns("without", group.without),
            **estimate_columns("change", group.change),
        }
        for finding, groups in sets
        for group in groups.groups
    ]


def _class_rows(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "finding": finding.id,
            "class": row.class_name,
            "has": row.has,
            "named": row.named,
            **estimate_columns("d", row.d),
            "n": row.n,
            "independent": row.independent,
            **estimate_columns("share", row.share),
            "collect": row.collect,
        }
        for finding in result.findings
        for row in finding.classes
    ]


def _reliances(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "finding": finding.id,
            "answerer": part.answerer,
            "verdict": str(part.verdict),
            "state": part.state,
            **estimate_columns("group_mean", part.group_mean),
            **estimate_columns("gap", part.gap),
            "gap_p": part.gap_p,
            **estimate_columns("auc_aligned", None if part.ranking is None else part.ranking.aligned),
            **estimate_columns("auc_conflicting", None if part.ranking is None else part.ranking.conflicting),
            **estimate_columns("margin_d", part.margin_d),
            **estimate_columns("net_did", None if part.effect is None else part.effect.net_did),
            **estimate_columns("net_fall", None if part.training is None else part.training.net_fall),
        }
        for finding in result.findings
        for part in finding.reliance
    ]


def _arms(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "finding": finding.id,
            "arm": arm.name,
            "heads": list(finding.counterfactual.heads),
            **estimate_columns("did", arm.did),
            **estimate_columns("net_did", arm.net_did),
            **estimate_columns("conflict", arm.delta_conflict),
        }
        for finding in result.findings
        if finding.counterfactual
        for arm in finding.counterfactual.arms
    ]


def _classes(result: AuditResult) -> list[dict[str, Any]]:
    return [
        {
            "class": entry.class_name,
            "label": str(entry.label),
            "n": entry.n,
            "independent": entry.independent,
            "tested": entry.tested,
            **estimate_columns("accuracy", entry.accuracy),
        }
        for entry in result.classes
    ]


_TABLES: dict[str, Callable[[AuditResult], list[dict[str, Any]]]] = {
    "findings": _findings,
    "associations": _associations,
    "group_accuracy": _groups,
    "class_rows": _class_rows,
    "reliance": _reliances,
    "arms": _arms,
    "shift": lambda result: shift_rows(result.shift),
    "classes": _classes,
    "predictability": lambda result: predictability_rows(result.predictability),
    "rehearsal": lambda result: rehearsal_rows(result.rehearsal),
}
