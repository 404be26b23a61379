"""From a report with a labelled column back to the candidate: confirmed, dismissed, or not decided."""

from __future__ import annotations

from typing import Any, Final

from clipaudit.cues.report.words import SHORT
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.errors import IntegrityError
from clipaudit.explorer.label_log import Outcome, StudyVerdict, stamp
from clipaudit.explorer.label_progress import Progress
from clipaudit.explorer.report_file import ReportFile

_OUTCOMES: Final[dict[Verdict, Outcome]] = {
    Verdict.CONFIRMED: "confirmed",
    Verdict.FAILS_WHERE: "confirmed",
    Verdict.MODEL_ONLY: "confirmed",
    # it is in the data, and no answerer hangs on it: no shortcut
    Verdict.DATA_ONLY: "dismissed",
}
"""All others are not decided."""


def study_verdict(progress: Progress, report: ReportFile) -> StudyVerdict:
    """What a report says of the column of a study's answers."""
    column = f"attributes.{progress.study.column}"
    try:
        finding = next((each for each in report.audit["findings"] if each["cue"]["attribute"] == column), None)
        if finding is None:
            return _without_finding(progress, report.storage.url)
        verdict = Verdict(finding["verdict"])
        outcome, sentence = _OUTCOMES.get(verdict, "not decided"), str(finding["sentence"])
        more = _more(progress, finding) if outcome == "not decided" else None
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{report.storage.full('report.json')} is damaged: make the report again") from error
    return _verdict(progress, report.storage.url, outcome, SHORT[verdict], sentence, more, str(finding["id"]))


def _more(progress: Progress, finding: dict[str, Any]) -> int | None:
    """Labels that are missing: as the counts have it, else as the report has it."""
    asked = [need["images"] for need in finding["needs"] if need["images"] is not None]
    return progress.more or (int(asked[0]) if asked else None)


def _without_finding(progress: Progress, place: str) -> StudyVerdict:
    """No finding of the column: the classes have the cue alike, or too few answers tell."""
    d, study = progress.d, progress.study
    if progress.refuted and d is not None:
        sentence = (
            f"{progress.sides[0].class_name} shows {study.word!r} no more often than {progress.sides[1].class_name}:"
            f" the shares differ by {100 * (d.value or 0):+.0f} points ({100 * (d.low or 0):+.0f} to"
            f" {100 * (d.high or 0):+.0f})."
        )
        return _verdict(progress, place, "dismissed", "No tie", sentence, None)
    sentence = f"the labels are too few to say whether the classes differ in {study.word!r}."
    return _verdict(progress, place, "not decided", SHORT[Verdict.INCONCLUSIVE], sentence, progress.more)


def _verdict(
    progress: Progress, place: str, outcome: Outcome, verdict: str, sentence: str, more: int | None, found: str = ""
) -> StudyVerdict:
    return StudyVerdict(
        **stamp(),
        study=progress.study.id,
        labels=len(progress.first),
        report=place,
        outcome=outcome,
        verdict=verdict,
        sentence=sentence,
        more=more,
        found=found,
    )
