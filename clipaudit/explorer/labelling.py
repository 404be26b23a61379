"""Cues that people label: studies begun, images given out, answers taken, the column and the verdict made of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import pyarrow as pa

from clipaudit.errors import UsageError
from clipaudit.explorer.label_draw import cue_of, new_study
from clipaudit.explorer.label_log import Answer, LabelEvent, LabelLog, LabelStudy, StudyState, Undo, new_id, stamp
from clipaudit.explorer.label_progress import Progress
from clipaudit.explorer.label_verdict import study_verdict
from clipaudit.explorer.problems import NotThereError
from clipaudit.explorer.reaudit import Reaudit, report_options
from clipaudit.explorer.report_file import find_report
from clipaudit.explorer.workspace import Workspace
from clipaudit.run.column_join import JoinOptions, add_columns
from clipaudit.run.records import now

_AHEAD: Final = 4
"""Images that a page gets at a time, so that the next picture is there before it is asked for."""
_LEASE_SECONDS: Final = 120.0
"""For so long an image that one page got is given to no other."""
_MOST_WRONG: Final = 0.45


class Labelling:
    """The studies of a run. For any number of threads, and of pages that label at the same time."""

    def __init__(self, workspace: Workspace, log: LabelLog) -> None:
        self.workspace, self.log = workspace, log
        self._lock = threading.RLock()
        self._leases: dict[tuple[str, int, int], tuple[str, float]] = {}
        self._audits: dict[str, Reaudit] = {}

    # -- studies -----------------------------------------------------------------------------------------------------

    def studies(self) -> list[dict[str, Any]]:
        """Every study of this run with its verdict, the latest first."""
        states = [state for state in self.log.state().studies.values() if self._is_own(state.study)]
        return [
            {
                **_facts(state.study),
                "answered": len(Progress(state).first),
                "verdict": None if state.verdict is None else asdict(state.verdict),
            }
            for state in reversed(states)
        ]

    def begin(self, finding: str, word: str, author: str, *, anew: bool = False) -> LabelStudy:
        """The latest study of a finding, or a new one; UsageError where the finding cannot be labelled."""
        with self._lock:
            studies = [state.study for state in self.log.state().studies.values() if self._is_own(state.study)]
            earlier = [study for study in studies if study.finding == finding]
            if earlier and not anew:
                return earlier[-1]
            if self.workspace.report is None:
                raise UsageError("there is no report whose candidates could be labelled")
            cue = cue_of(self.workspace.report, finding)
            study = new_study(self.workspace, cue, word, author, seed=len(studies))
            self.log.add(study)
            return study

    def _is_own(self, study: LabelStudy) -> bool:
        run = self.workspace.run
        return study.fingerprint == run.manifest.fingerprint and study.run == run.directory.url

    def state(self, study: str) -> StudyState:
        """A study with its answers; NotThereError where this run has none of that id."""
        state = self.log.state().studies.get(study)
        if state is None or not self._is_own(state.study):
            raise NotThereError(f"there is no labelling {study[:40]!r} of this run")
        return state

    # -- answers -----------------------------------------------------------------------------------------------------

    def answer(self, study: str, place: tuple[int, int], answer: Answer, author: str) -> None:
        """Take an answer; UsageError for an image that was not drawn, or is not what it was when it was."""
        state = self.state(study)
        drawn = next((image for image in state.study.draw if (image.shard, image.index) == place), None)
        if drawn is None or self._key_of(*place) != drawn.key:
            raise UsageError("this image is not one of those that were drawn")
        generation = self.workspace.run.state.generation
        event = LabelEvent(
            id=new_id(),
            time=now(),
            author=author,
            study=study,
            shard=place[0],
            index=place[1],
            key=drawn.key,
            generation=generation,
            answer=answer,
        )
        self.log.add(event)
        with self._lock:
            self._leases.pop((study, *place), None)

    def undo(self, study: str, event: str, author: str) -> None:
        """Take an answer back by its id; UsageError where it does not count any more."""
        if event not in {label.id for label in self.state(study).labels}:
            raise UsageError("there is nothing to undo: that answer is undone already")
        self.log.add(Undo(**stamp(), author=author, undoes=event))

    def _key_of(self, shard: int, index: int) -> str | None:
        number = self.workspace.number(shard, index)
        return None if number is None else str(self.workspace.plain_rows().table["key"][number].as_py())

    def _next(self, progress: Progress, session: str) -> list[dict[str, int]]:
        """Places of the next images, kept for a page for a while; none for who does not label."""
        if not session or self.workspace.run.manifest.fingerprint != progress.study.fingerprint:
            return []
        moment, study = time.monotonic(), progress.study.id
        with self._lock:
            self._leases = {key: lease for key, lease in self._leases.items() if lease[1] > moment}
            taken = frozenset((key[1], key[2]) for key, lease in self._leases.items() if lease[0] != session)
            upcoming = progress.upcoming(_AHEAD, taken)
            for image in upcoming:
                self._leases[study, image.shard, image.index] = (session, moment + _LEASE_SECONDS)
        return [{"shard": image.shard, "index": image.index} for image in upcoming]

    def view(self, study: str, session: str) -> dict[str, Any]:
        """All that the page shows of a study."""
        state = self.state(study)
        progress = Progress(state)
        latest = state.labels[-1] if state.labels else None
        with self._lock:
            audit = self._audits.get(study)
        return {
            "study": _facts(state.study),
            "answered": len(progress.first),
            "unsure": progress.unsure,
            "repeats": progress.repeats,
            "disagreements": progress.disagreements,
            "error": None if progress.error is None else asdict(progress.error),
            "sides": [asdict(side) for side in progress.sides],
            "d": None if progress.d is None else asdict(progress.d),
            "more": progress.more,
            "latest": None
            if latest is None
            else {"id": latest.id, "answer": latest.answer, "shard": latest.shard, "index": latest.index},
            "next": self._next(progress, session),
            "verdict": None if state.verdict is None else asdict(state.verdict),
            "audit": None if audit is None else _audit_facts(audit),
        }

    def table(self, study: str) -> pa.Table:
        """A line a labelled image: shard_id, index, key, class, rows, stratum, probability, weight, answer, author,
        time.

        probability is that of being drawn, labelled images of the stratum by all of its images; weight is 1 over it.
        """
        state = self.state(study)
        progress, strata = Progress(state), state.study.strata
        of_place = {(image.shard, image.index): image.stratum for image in state.study.draw}
        counts = [0] * len(strata)
        for place in progress.first:
            counts[of_place[place]] += 1
        lines = [
            {
                "shard_id": label.shard,
                "index": label.index,
                "key": label.key,
                "class": strata[of_place[place]].class_name,
                "rows": strata[of_place[place]].part,
                "stratum": of_place[place],
                "probability": counts[of_place[place]] / strata[of_place[place]].rows,
                "weight": strata[of_place[place]].rows / counts[of_place[place]],
                "answer": label.answer,
                "author": label.author,
                "time": label.time,
            }
            for place, label in progress.first.items()
        ]
        return pa.Table.from_pylist(lines)

    # -- the column and the verdict ----------------------------------------------------------------------------------

    def finish(self, study: str, author: str) -> None:
        """Make the answers a column of the run, and the report anew with it, in a process of its own.

        UsageError where a report is being made already, the answers say nothing yet, or contradict themselves.
        """
        state = self.state(study)
        progress = Progress(state)
        told = {label.answer for label in progress.first.values()} - {"unsure"}
        if progress.d is None or (len(told) < 2 and not progress.refuted):
            raise UsageError("label images of both sides, with the cue and without it, first")
        if progress.error is not None and float(progress.error.value or 0.0) > _MOST_WRONG:
            raise UsageError("the answers contradict themselves too often: the cue cannot be told from the pictures")
        with self._lock:
            if any(audit.running for audit in self._audits.values()):
                raise UsageError("a report is being made already: wait for it")
            self._add_column(progress, author)
            self._audits[study] = self._audit(study, progress.study)

    def _add_column(self, progress: Progress, author: str) -> None:
        study, folder = progress.study, self.log.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        table = folder / f"labels-{study.column}.jsonl"
        words = {"has": study.word, "lacks": f"no {study.word}"}
        lines = [
            json.dumps({"shard": label.shard, "key": label.key, study.column: words[label.answer]}, ensure_ascii=False)
            for label in progress.first.values()
            if label.answer in words
        ]
        table.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        error = None if progress.error is None else (float(progress.error.value or 0.0), progress.repeats)
        options = JoinOptions(only=(study.column,), replace=True, author=author or None, error=error)
        add_columns(self.workspace.run.directory.url, str(table), options)

    def _audit(self, study: str, facts: LabelStudy) -> Reaudit:
        run = self.workspace.run.directory.url
        options = [] if self.workspace.report is None else report_options(self.workspace.report)
        own = f"--attribute={facts.column}"
        out = f"{run.rstrip('/')}/reports/labelled-{facts.column}"
        arguments = [run, f"--out={out}", *(option for option in options if option != own), own]
        return Reaudit(arguments, lambda done: self._judge(study, out) if done else None)

    def _judge(self, study: str, out: str) -> None:
        """Write the verdict down, and show the new report from now on."""
        run = self.workspace.run
        report = find_report(run, out)
        if report is None:
            raise UsageError(f"{out} holds no report")
        self.log.add(study_verdict(Progress(self.state(study)), report))
        self.workspace.reread(out)

    def audit(self, study: str) -> Reaudit | None:
        """The latest report that is made, or was, since the server was started."""
        with self._lock:
            return self._audits.get(study)

    def close(self) -> None:
        """End reports that are still being made."""
        with self._lock:
            audits = [audit for audit in self._audits.values() if audit.running]
        for audit in audits:
            audit.stop()


def _facts(study: LabelStudy) -> Mapping[str, Any]:
    return {
        "id": study.id,
        "finding": study.finding,
        "cue": study.cue,
        "word": study.word,
        "column": study.column,
        "delta": study.delta,
        "images": len(study.draw),
        "author": study.author,
        "time": study.time,
    }


def _audit_facts(audit: Reaudit) -> dict[str, Any]:
    return {
        "running": audit.running,
        "seconds": audit.seconds,
        "failure": audit.failure,
        "command": audit.command,
    }
