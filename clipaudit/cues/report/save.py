"""An audit's report with its pictures, from Python: what `clipaudit report` writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clipaudit.cues.report.document import Report
from clipaudit.cues.report.gate import parse_fail_on
from clipaudit.cues.report.pictures import Pictures, add_heat, read_pictures
from clipaudit.cues.report.waivers import load_waivers
from clipaudit.cues.report.write import ReportConfig, write_report
from clipaudit.cues.result.off_object import not_measured, with_off_object
from clipaudit.cues.result.result import AuditResult
from clipaudit.errors import UsageError
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.run.reader import Run
from clipaudit.schema import Names, as_names

if TYPE_CHECKING:
    from clipaudit.cues.report.heat import HeatMaps

MASKS: Final = "seg.png"
"""Extension of masks beside images."""


def _silent(note: str) -> None:
    """Report nothing."""


def save_report(
    result: AuditResult,
    out: str | Path,
    *,
    pictures: bool = True,
    heat: bool = True,
    masks: str | None = MASKS,
    device: str = "auto",
    fail_on: Names = ("confirmed",),
    require_evidence: bool = False,
    waivers: str | Path | None = None,
    note: Callable[[str], None] = _silent,
) -> Report:
    """Write the page, report.json and the files to act with into the directory `out`; return what is in report.json.

    pictures, heat: show samples, and heat maps of the cues over them; both read the shards of the runs that were
    audited, and heat maps run their model on `device`. masks: extension of the members that mark the object, to measure
    how much of a cue lies off it; without masks the model guesses. fail_on: `confirmed`, `model-only`, `data-only`,
    `candidate`, or `never`; with `require_evidence` and the file of `waivers` it decides `Report.gate`. note: told what
    could not be shown.

    Raises UsageError when `out` holds something else, or an option or the waiver file is wrong.

    >>> result = audit_cues("demo-out/birds-run", AuditOptions(permutations=0, random_sets=200))
    >>> report = save_report(result, "report", heat=False)
    >>> report.gate.outcome in ("passed", "failed", "inconclusive", "invalid")
    True
    """
    config = ReportConfig(
        out=str(out),
        fail_on=parse_fail_on(as_names(fail_on)),
        require_evidence=require_evidence,
        waivers=load_waivers(waivers),
    )
    runs = [Run(url) for url in (result.run, result.test_run) if url is not None]
    illustrated_result, shown_pictures = illustrated(result, runs, heat, device, note, pictures=pictures, masks=masks)
    return write_report(illustrated_result, config, shown_pictures)


def illustrated(
    result: AuditResult,
    runs: Sequence[Run],
    heat: bool,
    device: str,
    note: Callable[[str], None] = _silent,
    *,
    pictures: bool = True,
    masks: str | None = MASKS,
) -> tuple[AuditResult, Pictures | None]:
    """The audit with the evidence that its images give, and the pictures of the samples that the page shows.

    runs: the audited one and, if there is one, the other that was scored. heat: with heat maps, where the model can be
    loaded on `device`. The evidence is each finding's item `off the object`, or why it was not measured.
    """
    page_pictures = read_pictures(result, runs) if pictures else None
    if not result.findings:
        return result, page_pictures
    reason = "the report was made without heat maps"
    if heat and page_pictures is not None:
        maps, reason = _maps(runs, page_pictures, device, note)
        if maps is not None:
            from clipaudit.cues.report.off_object_shares import OffObjects  # loads torch

            return with_off_object(result, OffObjects(result, maps, masks)), add_heat(result, page_pictures, maps)
    return with_off_object(result, lambda _: not_measured(reason)), page_pictures


def _maps(
    runs: Sequence[Run], pictures: Pictures, device: str, note: Callable[[str], None]
) -> tuple[HeatMaps | None, str]:
    """What draws heat maps, or None and the reason; `note` is told it when the model cannot be loaded."""
    if not pictures.plain:
        return None, "no image of the findings can be read from the shards"
    from clipaudit.cues.report.heat import HeatMaps  # loads torch

    try:
        return HeatMaps(runs[0], RunTexts(runs[0], device), device=device, others=runs[1:]), ""
    except UsageError as error:
        note(f"no heat maps: {error}")
        return None, str(error)
