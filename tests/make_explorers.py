"""The explorer over small runs, for tests: an application with its client, and a report of that run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from clipaudit.run.reader import Run

TOKEN = "a-token-of-the-session"


def explorer_app(run: Run, folder: Path, *, write: bool = True, report: str | None = None):
    """The application with the page, tags in `folder/tags.jsonl`."""
    from clipaudit.explorer.server import ExplorerOptions, create_app

    options = ExplorerOptions(report=report, write=write, tags=folder / "tags.jsonl", token=TOKEN)
    return create_app(run.directory.url, device="cpu", explorer=options)


def write_example_report(run: Run, out: Path) -> Path:
    """The example of `tests/audit_examples.py` as a report of `run`."""
    from clipaudit.cues.report.write import ReportConfig, write_report
    from clipaudit.cues.result.result import StateRead
    from tests.audit_examples import example_result

    read = StateRead(generation=0, committed_at=run.state.committed_at)
    result = replace(example_result(), run=run.directory.url, run_fingerprint=run.manifest.fingerprint, state=read)
    write_report(result, ReportConfig(out=str(out), command="clipaudit report", fail_on=("confirmed",)))
    return out


def damage_report(out: Path, change) -> None:
    """Change the plain values of `report.json` in a directory."""
    path = out / "report.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def is_unreachable(npm_says: str) -> bool:
    """Whether npm found no registry, as opposed to a package or a lock file that is wrong."""
    signs = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "EAI_AGAIN", "ETIMEDOUT", "ENETUNREACH", "network")
    return any(sign in npm_says for sign in signs)
