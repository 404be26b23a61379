"""Labelling a cue over HTTP: studies, answers, undo, the column, and the verdict of the report that is made with it."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from clipaudit.cues.report.files import csv_text
from clipaudit.explorer.downloads import download
from clipaudit.explorer.event_log import MAX_PLACE
from clipaudit.explorer.label_log import Answer
from clipaudit.explorer.labelling import Labelling
from clipaudit.explorer.problems import PROBLEMS
from clipaudit.explorer.tag_log import MAX_AUTHOR
from clipaudit.explorer.write_access import WriteAccess

StudyId: TypeAlias = Annotated[str, Path(max_length=40)]
Session: TypeAlias = Annotated[str, Field(max_length=40)]
Author: TypeAlias = Annotated[str, Field(max_length=MAX_AUTHOR)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewStudy(_Strict):
    """A candidate to be labelled."""

    finding: str = Field(max_length=100, description="Id of a finding that rests on a text.")
    word: str = Field(default="", max_length=60, description="What images with the cue are called.")
    author: Author = ""
    anew: bool = Field(default=False, description="Begin again where the finding has answers already.")
    session: Session = ""


class NewAnswer(_Strict):
    """Whether an image has the cue."""

    shard: int = Field(ge=0, le=MAX_PLACE)
    index: int = Field(ge=0, le=MAX_PLACE)
    answer: Answer
    author: Author = ""
    session: Session = ""


class Undone(_Strict):
    """An answer that is taken back."""

    event: str = Field(max_length=40)
    author: Author = ""
    session: Session = ""


class EndOfLabels(_Strict):
    """That the labels are enough."""

    author: Author = ""
    session: Session = ""


def add_labels(router: APIRouter, labelling: Labelling, writing: WriteAccess) -> None:
    """Studies and answers; `writing` refuses a request that may not write."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (403, 404, 409, 422)}
    writes = [Depends(writing)]

    @router.get("/labels", responses=problems)
    def studies() -> list[dict[str, Any]]:
        """Every cue that was labelled, with its verdict."""
        return labelling.studies()

    @router.post("/labels", responses=problems, dependencies=writes)
    def begin(asked: Annotated[NewStudy, Body()]) -> dict[str, Any]:
        """Begin to label a candidate, or go on; draws the images."""
        study = labelling.begin(asked.finding, asked.word, asked.author, anew=asked.anew)
        return labelling.view(study.id, asked.session)

    @router.get("/labels/{study}", responses=problems)
    def study(study: StudyId, session: Annotated[str, Query(max_length=40)] = "") -> dict[str, Any]:
        """A cue's answers so far: shares with intervals, slips, how many are missing, and the next images."""
        return labelling.view(study, session)

    @router.get("/labels/{study}/labels.csv", response_class=Response, responses=problems)
    def table(study: StudyId) -> Response:
        """A line a labelled image with its answer, stratum and probability to be drawn."""
        return download(csv_text(labelling.table(study)), "labels.csv", "text/csv")

    @router.post("/labels/{study}/answers", responses=problems, dependencies=writes)
    def answer(study: StudyId, asked: Annotated[NewAnswer, Body()]) -> dict[str, Any]:
        """Say whether an image has the cue."""
        labelling.answer(study, (asked.shard, asked.index), asked.answer, asked.author)
        return labelling.view(study, asked.session)

    @router.post("/labels/{study}/undo", responses=problems, dependencies=writes)
    def undo(study: StudyId, asked: Annotated[Undone, Body()]) -> dict[str, Any]:
        """Take an answer back."""
        labelling.undo(study, asked.event, asked.author)
        return labelling.view(study, asked.session)

    @router.post("/labels/{study}/finish", responses=problems, dependencies=writes)
    def finish(study: StudyId, asked: Annotated[EndOfLabels, Body()]) -> dict[str, Any]:
        """Make the answers a column of the run, and the report anew with it."""
        labelling.finish(study, asked.author)
        return labelling.view(study, asked.session)
