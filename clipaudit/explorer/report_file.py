"""A report's files as the explorer reads them: `report.json`, and the tables by image beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from clipaudit.errors import ClipauditError, IntegrityError, UsageError
from clipaudit.run.reader import Run
from clipaudit.storage.directory import Storage

_FILE: Final = "report.json"
REJECTED: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError)
"""What a document of another form than `report.schema.json` ends in."""
_BESIDE: Final = 200
"""Entries beside a run among which its report is looked for."""


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


def find_report(run: Run, given: str | None) -> ReportFile | None:
    """The report in the directory `given`, or the newest of this run that lies in it, else beside it; None when there
    is none.

    UsageError when the directory given holds no report, or one of another run. Where nothing is given, what cannot be
    read is no report.
    """
    if given is not None:
        report = _read(given)
        if report is None:
            raise UsageError(f"--report {given}: there is no {_FILE} in it; `clipaudit report RUN --out DIR` makes one")
        if not _is_of(report, run):
            raise UsageError(f"--report {given} is the report of another run: {report.audit.get('run')}")
        return report
    for inside, places in _places(run):
        reports = [report for place in places if (report := _readable(place)) is not None and _is_of(report, run)]
        # beside it may lie that of another run of the same options, which was computed in the same second
        own = [each for each in reports if inside or _base(str(each.audit.get("run"))) == _base(run.directory.url)]
        if own:
            return max(own, key=lambda report: str(report.audit.get("started")))
    return None


def _is_of(report: ReportFile, run: Run) -> bool:
    """Whether a report is of this run: its fingerprint tells options and weights alone, the state that it read also
    when the images were.
    """
    state = report.audit.get("state")
    committed = state.get("committed_at") if isinstance(state, dict) else None
    times = {record.committed_at for record in run.records.values()}
    return report.audit.get("run_fingerprint") == run.manifest.fingerprint and committed in times


def _base(url: str) -> str:
    return url.partition("@")[0].rstrip("/").rpartition("/")[2]


def _places(run: Run) -> Iterator[tuple[bool, list[str]]]:
    """Directories that may hold a report, and whether they lie in the run: those first, then what lies beside it."""
    url = run.directory.url
    with suppress(ClipauditError, OSError):
        yield True, [f"{url}/reports/{name}" for name in sorted(run.directory.storage.names("reports"))]
    if run.directory.storage.local:
        with suppress(OSError):
            yield False, [str(path) for path in sorted(Path(url).resolve().parent.iterdir())[:_BESIDE]]


def _readable(place: str) -> ReportFile | None:
    try:
        return _read(place)
    except (ClipauditError, OSError):  # a stranger's file of that name, or nobody's to read
        return None


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
