"""A report's directory: all files are written into a temporary directory, which is then renamed."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from clipaudit.cues.report.document import File, Report, published_schema
from clipaudit.cues.report.files import write_exports
from clipaudit.cues.report.gate import judge
from clipaudit.cues.report.junit import junit_xml
from clipaudit.cues.report.markdown import markdown
from clipaudit.cues.report.page import Link, render
from clipaudit.cues.report.pictures import Pictures
from clipaudit.cues.report.waivers import Waiver, apply_waivers
from clipaudit.cues.result.result import AuditResult
from clipaudit.errors import UsageError
from clipaudit.run.checksums import SUMS, write_sums
from clipaudit.run.derived import require_writable
from clipaudit.run.directory import RunDirectory
from clipaudit.storage.directory import Storage
from clipaudit.storage.faults import folder_aside
from clipaudit.storage.local import TEMPORARY

PAGE: Final = "index.html"
JSON: Final = "report.json"
"""Written last: a directory that has it is a complete report."""
_MACHINES: Final = (
    File(name=JSON, about="Everything on this page and more, for programs.", rows=None),
    File(name="report.schema.json", about="The JSON Schema of report.json.", rows=None),
    File(name="junit.xml", about="The findings as test results, for build servers.", rows=None),
    File(name="summary.md", about="The findings in Markdown, for a pull request.", rows=None),
    File(name=SUMS, about="The hashes of all these files: `sha256sum -c` verifies them.", rows=None),
)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """How an audit becomes a report."""

    out: str
    """Directory to make, a path or any fsspec URL; an older report there is replaced."""
    fail_on: tuple[str, ...]
    """From `gate.parse_fail_on`."""
    require_evidence: bool = False
    waivers: tuple[Waiver, ...] = ()
    command: str = ""
    """What makes the report again."""
    see_also: tuple[Link, ...] = ()
    """Other pages that belong to this one."""
    today: date | None = None
    """The day that waivers are held against; None for today, UTC."""


def check_out(out: str) -> None:
    """UsageError unless `out` is free, empty or an older report; call it before the work begins."""
    storage = Storage(out)
    if storage.local:
        target = Path(storage.full())
        if target.exists() and not target.is_dir():
            raise UsageError(f"--out {out} is a file: give a directory")
        require_writable(RunDirectory(out), "")
    names = storage.names("")
    if names and JSON not in names:
        raise UsageError(f"--out {out} is not empty and holds no report: give another directory")


def write_report(result: AuditResult, config: ReportConfig, pictures: Pictures | None = None) -> Report:
    """Write the page, JSON, schema, JUnit, Markdown and exports into `config.out`, all at once; return report.json.

    pictures: from `read_pictures`. Raises UsageError when `out` holds something else or cannot be written, StorageFull
    when there is no space left.
    """
    check_out(config.out)
    waivers = apply_waivers(config.waivers, result, config.today or datetime.now(UTC).date())
    gate = judge(result, waivers, fail_on=config.fail_on, require_evidence=config.require_evidence)
    with _directory(config.out) as aside:
        files = (*write_exports(result, aside), *_MACHINES)
        report = Report(audit=result, gate=gate, waivers=waivers, files=files, command=config.command)
        contents = {
            PAGE: render(report, pictures, config.see_also).encode(),
            "junit.xml": junit_xml(report),
            "summary.md": markdown(report).encode(),
            "report.schema.json": published_schema(),
            JSON: _json(report.to_json()),
        }
        for name, data in contents.items():
            (aside / name).write_bytes(data)
        write_sums(aside)
    return report


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


@contextlib.contextmanager
def _directory(out: str) -> Iterator[Path]:
    """A local directory to write into, which becomes `out` when the block ends without an exception."""
    storage = Storage(out)
    if not storage.local:
        with tempfile.TemporaryDirectory(prefix="clipaudit-report-") as folder:
            yield Path(folder)
            _upload(Path(folder), storage)
        return
    target = Path(storage.full())
    with folder_aside(target) as aside:
        yield aside
        old = aside.with_name(f"{aside.name}.old{TEMPORARY}")
        with contextlib.suppress(FileNotFoundError):
            target.rename(old)
        aside.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _upload(folder: Path, storage: Storage) -> None:
    """Object stores cannot rename: report.json is removed first and written last; files of before are removed."""
    storage.make_directories([""])
    storage.remove(JSON)
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: name == JSON)
    for name in storage.names(""):
        if name not in names:
            storage.remove(name)
    for name in names:
        storage.replace(name, (folder / name).read_bytes())
