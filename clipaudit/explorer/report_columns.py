"""Columns of a run's rows that a report knows: what images were used for, cues' scores, answers, mistakes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from clipaudit.cues.answer_table import WITHOUT
from clipaudit.errors import IntegrityError
from clipaudit.explorer.report_file import REJECTED, ReportFile
from clipaudit.retrieval.row_table import RowTable

DOUBT: Final = "label.doubt"
"""Place of an image among those whose label is contradicted, 1 the most doubtful."""
_IDENTITY: Final = ("shard_id", "index", "key", "class")


class ReportColumns:
    """The columns of one report; IntegrityError from every method where it is of another form than this version's."""

    def __init__(self, report: ReportFile) -> None:
        self.report = report

    def columns(self, rows: RowTable) -> dict[str, pa.Array]:
        """Columns (n,) of a run's rows by name.

        `audit.rows` says what an image was used for; `cue.NAME` is its score along a finding's cue, for the images of
        the finding's class; `clip.report`, `rehearsed.predicted`, `given.NAME.predicted` are answers and `*.right`
        whether they are the class; `clip.without.CUE.right` the same of CLIP with a cue taken out; `slice.NAME` is
        `wrong` or `right` for images of an error slice; `label.doubt` numbers contradicted labels.
        """
        try:
            return {**self._used(rows), **self._scores(rows), **self._answers(rows), **self._mistakes(rows)}
        except (*REJECTED, pa.ArrowException) as error:
            raise self._damaged() from error

    def cues(self) -> dict[str, str]:
        """Finding's id -> the column of its cue's scores, `cue.water`; numbered where cues have one name."""
        try:
            return _names((str(each["id"]), f"cue.{_word(each['cue']['name'])}") for each in self._audit["findings"])
        except REJECTED as error:
            raise self._damaged() from error

    def slices(self) -> dict[str, str]:
        """Slice's id -> its column, `slice.land`; numbered where slices have one name."""
        try:
            errors = self._audit.get("errors") or []
            slices = [each for answerer in errors for each in answerer["slices"]]
            return _names((str(each["id"]), f"slice.{_word(each['value'] or each['name'])}") for each in slices)
        except REJECTED as error:
            raise self._damaged() from error

    def answerers(self) -> dict[str, str]:
        """Column that says whether an answer is right -> whose answer it is, in words, of those that the report has."""
        table = self.report.table("answers.parquet")
        names = [] if table is None else [name for name in table.column_names if name not in _IDENTITY]
        words = {self._right(name): self._whose(name) for name in names}
        return {name: about for name, about in words.items() if about}

    # -- tables ------------------------------------------------------------------------------------------------------

    @property
    def _audit(self) -> dict[str, Any]:
        return self.report.audit

    def _damaged(self) -> IntegrityError:
        return IntegrityError(f"{self.report.storage.url} is damaged, or of another version: make the report again")

    def _used(self, rows: RowTable) -> dict[str, pa.Array]:
        groups = self.report.table("groups.parquet")
        if groups is None or "rows" not in groups.column_names:
            return {}
        return {"audit.rows": _placed(rows, groups, groups["rows"], pa.string())}

    def _scores(self, rows: RowTable) -> dict[str, pa.Array]:
        scores = self.report.table("spuriosity.parquet")
        columns = {}
        if scores is not None and {"finding", "score"} <= set(scores.column_names):
            for finding, name in self.cues().items():
                chosen = scores.filter(pc.equal(scores["finding"], finding))
                if len(chosen):
                    columns[name] = _placed(rows, chosen, chosen["score"], pa.float64())
        return columns

    def _answers(self, rows: RowTable) -> dict[str, pa.Array]:
        table = self.report.table("answers.parquet")
        columns: dict[str, pa.Array] = {}
        if table is None:
            return columns
        for name in table.column_names:
            if name in _IDENTITY or not self._whose(name):
                continue
            right = self._right(name)
            columns[right] = _placed(rows, table, pc.equal(table[name], table["class"]), pa.bool_())
            columns[right.removesuffix("right") + "predicted"] = _placed(rows, table, table[name], pa.string())
        return columns

    def _right(self, answerer: str) -> str:
        """`report.clip.right`: the page's own `clip.right` is of every image, this of those that the report scored."""
        if answerer.startswith(WITHOUT):
            cue = self.cues().get(answerer.removeprefix(WITHOUT), "cue.unknown").removeprefix("cue.")
            return f"clip.without.{cue}.right"
        return f"{'report.clip' if answerer == 'clip' else _plain(answerer)}.right"

    def _whose(self, answerer: str) -> str:
        if answerer.startswith(WITHOUT):
            finding = answerer.removeprefix(WITHOUT)
            cue = next((each["cue"]["name"] for each in self._audit["findings"] if each["id"] == finding), None)
            return "" if cue is None else f"CLIP without “{cue}”"
        if answerer == "clip":
            return "CLIP"
        return "a model trained here" if answerer == "rehearsed" else f"“{answerer.partition(':')[2] or answerer}”"

    def _mistakes(self, rows: RowTable) -> dict[str, pa.Array]:
        columns: dict[str, pa.Array] = {}
        table = self._csv("slices.csv")
        if table is not None and {"slice", "wrong", "shard_id", "index"} <= set(table.column_names):
            for slice_id, name in self.slices().items():
                chosen = table.filter(pc.equal(table["slice"], slice_id))
                words = pc.if_else(pc.equal(pc.utf8_lower(chosen["wrong"]), "true"), "wrong", "right")
                columns[name] = _placed(rows, chosen, words, pa.string())
        review = self._csv("review.csv")
        if review is not None and {"finding", "shard_id", "index"} <= set(review.column_names):
            doubtful = review.filter(pc.equal(review["finding"], "label"))
            if len(doubtful):
                columns[DOUBT] = _placed(rows, doubtful, pa.array(np.arange(1, len(doubtful) + 1)), pa.int64())
        return columns

    def _csv(self, name: str) -> pa.Table | None:
        """A CSV file of the report, shards and positions as numbers and all else as text; None where there is none."""
        try:
            data = self.report.storage.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        header = data.partition(b"\n")[0].decode("utf-8", errors="replace").strip().split(",")
        types = {each: pa.int64() if each in ("shard_id", "index") else pa.string() for each in header}
        return pa_csv.read_csv(
            io.BytesIO(data),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )


def _word(text: object) -> str:
    return re.sub(r"\W+", "_", str(text)).strip("_")[:40] or "cue"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name.replace(":", "."))


def _names(wanted: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names that are each given once, by id."""
    names: dict[str, str] = {}
    for each, plain in wanted:
        name, number = plain, 1
        while name in names.values():
            number += 1
            name = f"{plain}_{number}"
        names[each] = name
    return names


def _placed(rows: RowTable, table: pa.Table, values: Any, kind: pa.DataType) -> pa.Array:  # noqa: ANN401 - pyarrow
    """(n,) values of a report's table at the rows of a run, null elsewhere."""
    placed: list[Any] = [None] * len(rows)
    shards, indices = table["shard_id"].to_pylist(), table["index"].to_pylist()
    numbers = rows.numbers(list(zip(shards, indices, strict=True)))
    for number, value in zip(numbers, values.to_pylist(), strict=True):
        if number is not None:
            placed[number] = value
    return pa.array(placed, kind)
