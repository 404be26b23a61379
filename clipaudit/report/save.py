"""An audit's report with its pictures, from Python: what `clipaudit report` writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clipaudit.audit.result import AuditResult
from clipaudit.report.document import Report
from clipaudit.report.gallery import Pictures, add_heat, read_pictures
from clipaudit.report.gate import parse_fail_on
from clipaudit.report.publish import ReportConfig, write_report
from clipaudit.report.waivers import load_waivers
from clipaudit.run import Run


def _unheard(note: str) -> None:
    """Nothing."""


def save_report(
    result: AuditResult,
    out: str | Path,
    *,
    pictures: bool = True,
    heat: bool = True,
    device: str = "auto",
    fail_on: Sequence[str] = ("confirmed",),
    require_evidence: bool = False,
    waivers: str | Path | None = None,
    note: Callable[[str], None] = _unheard,
) -> Report:
    """Write the page, report.json and the files to act with into the directory `out`; returns what they say.

    pictures, heat: show samples, and where the cues sit in them; both read the shards of the runs that were audited,
    and heat maps run their model on `device`. fail_on: `confirmed`, `model-only`, `data-only`, `candidate`, or
    `never`; with `require_evidence` and the file of `waivers` it decides `Report.gate`. note: told what could not be
    shown.

    Raises UsageError when `out` holds something else, or an option or the waiver file is wrong.
    """
    config = ReportConfig(
        out=str(out), fail_on=parse_fail_on(fail_on), require_evidence=require_evidence, waivers=load_waivers(waivers)
    )
    runs = [Run(url) for url in (result.run, result.test_run) if url is not None]
    return write_report(result, config, illustrated(result, runs, heat, device, note) if pictures else None)


def illustrated(
    result: AuditResult, runs: Sequence[Run], heat: bool, device: str, note: Callable[[str], None] = _unheard
) -> Pictures:
    """Thumbnails and, if wanted and possible, heat maps of the samples that the page shows; `runs` are the audited one
    and, if there is one, the other that was scored."""
    plain = read_pictures(result, runs)
    if not (heat and plain.plain and result.findings):
        return plain
    from clipaudit.report.heat import heat_maps  # loads torch

    maps = heat_maps(runs[0], device, note)
    return plain if maps is None else add_heat(result, plain, maps)
