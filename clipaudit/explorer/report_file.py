"""A report's files as the explorer reads them: `report.json`, and the tables by image beside it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from clipaudit.errors import IntegrityError, UsageError
from clipaudit.retrieval.row_table import RowTable
from clipaudit.run.reader import Run
from clipaudit.storage.directory import Storage

_FILE: Final = "report.json"
_BESIDE: Final = 50
"""Directories beside a run in which its report is looked for."""


@dataclass(frozen=True, kw_only=True)
class ReportFile:
    """A report of a run."""

    storage: Storage
    """Its directory."""
    document: dict[str, Any]
    """`report.json`, see `report.schema.json`."""

    @property
    def audit(self) -> dict[str, Any]:
        """The audit's result."""
        audit: dict[str, Any] = self.document["audit"]
        return audit

    def table(self, name: str) -> pa.Table | None:
        """A Parquet file of the report; None when it has none of that name. IntegrityError when it is damaged."""
        try:
            data = self.storage.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return pq.read_table(pa.BufferReader(data))
        except (pa.ArrowInvalid, OSError) as error:
            raise IntegrityError(f"{self.storage.full(name)} is damaged: make the report again") from error

    def columns(self, rows: RowTable) -> dict[str, pa.Array]:
        """Columns (n,) of a run's rows that the report knows, by name.

        `audit.rows` says what an image was used for; `cue.NAME` is its score along a finding's cue, for the images of
        the finding's class.
        """
        columns: dict[str, pa.Array] = {}
        groups = self.table("groups.parquet")
        if groups is not None and "rows" in groups.column_names:
            columns["audit.rows"] = _placed(rows, groups, groups["rows"], pa.string())
        scores = self.table("spuriosity.parquet")
        if scores is not None and {"finding", "score"} <= set(scores.column_names):
            for finding, name in self.cue_columns().items():
                chosen = scores.filter(pa.compute.equal(scores["finding"], finding))
                if len(chosen):
                    columns[name] = _placed(rows, chosen, chosen["score"], pa.float64())
        return columns

    def cue_columns(self) -> dict[str, str]:
        """Finding's id -> the column of its cue's scores, `cue.water`; numbered where cues have one name."""
        names: dict[str, str] = {}
        for finding in self.audit["findings"]:
            word = re.sub(r"\W+", "_", str(finding["cue"]["name"])).strip("_")[:40] or "cue"
            name, number = f"cue.{word}", 1
            while name in names.values():
                number += 1
                name = f"cue.{word}_{number}"
            names[str(finding["id"])] = name
        return names


def find_report(run: Run, given: str | None) -> ReportFile | None:
    """The report in the directory `given`, or one of this run that lies in it or beside it; None when there is none.

    UsageError when the directory given holds no report, or one of another run.
    """
    if given is not None:
        report = _read(given)
        if report is None:
            raise UsageError(f"--report {given}: there is no {_FILE} in it; `clipaudit report RUN --out DIR` makes one")
        if report.audit.get("run_fingerprint") != run.manifest.fingerprint:
            raise UsageError(f"--report {given} is the report of another run: {report.audit.get('run')}")
        return report
    for place in _places(run):
        report = _read(place)
        if report is not None and report.audit.get("run_fingerprint") == run.manifest.fingerprint:
            return report
    return None


def _places(run: Run) -> list[str]:
    url = run.directory.url
    inside = [f"{url}/reports/{name}" for name in sorted(run.directory.storage.names("reports"))]
    if not run.directory.storage.local:
        return inside
    beside = sorted(path for path in Path(url).resolve().parent.iterdir() if (path / _FILE).is_file())
    return [*inside, *(str(path) for path in beside[:_BESIDE])]


def _read(place: str) -> ReportFile | None:
    storage = Storage(place)
    try:
        document = json.loads(storage.read(_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise IntegrityError(f"{storage.full(_FILE)} is damaged: make the report again") from error
    if not isinstance(document, dict) or not isinstance(document.get("audit"), dict):
        raise IntegrityError(f"{storage.full(_FILE)} is no report of clipaudit")
    return ReportFile(storage=storage, document=document)


def _placed(rows: RowTable, table: pa.Table, values: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """(n,) values of a report's table at the rows of a run, null elsewhere."""
    placed: list[Any] = [None] * len(rows)
    shards, indices = table["shard_id"].to_pylist(), table["index"].to_pylist()
    numbers = rows.numbers(list(zip(shards, indices, strict=True)))
    for number, value in zip(numbers, values.to_pylist(), strict=True):
        if number is not None:
            placed[number] = value
    return pa.array(placed, kind)
