"""A report's group weights without the images that people tagged."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Final

import numpy as np
import pyarrow as pa

from clipaudit.errors import IntegrityError
from clipaudit.explorer.problems import NotThereError
from clipaudit.explorer.report_file import REJECTED, ReportFile
from clipaudit.explorer.tag_log import ImagePlace
from clipaudit.run.reader import Run

FILE: Final = "weights.parquet"
_WEIGHT: Final = "weight"


def weights_missing(run: Run, report: ReportFile | None) -> str | None:
    """Why there are no weights, in one sentence with the command that makes them; None where there are some."""
    command = shlex.join(["clipaudit", "report", run.directory.url])
    if report is None:
        return f"Weights come with a report, and there is none yet: `{command} --classes FILE` makes one."
    try:
        named = any(file["name"] == FILE for file in report.document["files"])
    except REJECTED:
        named = False
    if named:
        return None
    return (
        "This report has no weights: they balance classes, which takes one label an image."
        f" `{command} --classes FILE` makes them for a run with labels."
    )


def weights_without(run: Run, report: ReportFile | None, images: Collection[ImagePlace]) -> pa.Table:
    """The report's `weights.parquet`, every weight of these images 0; its metadata has the effective number anew.

    NotThereError with the sentence of `weights_missing`, IntegrityError when the file is damaged.
    """
    missing = weights_missing(run, report)
    table = None if report is None else report.table(FILE)
    if missing is not None or table is None:
        raise NotThereError(missing or f"the report's {FILE} is not there any more: make the report again")
    names = [name for name in table.column_names if name == _WEIGHT or name.startswith(f"{_WEIGHT}.")]
    if not {"shard_id", "index", "key", _WEIGHT} <= set(table.column_names):
        raise IntegrityError(f"{FILE} of the report is damaged, or of another version: make the report again")
    places = zip(*(table[name].to_pylist() for name in ("shard_id", "index", "key")), strict=True)
    tagged = set(images)
    kept = np.array([place not in tagged for place in places], np.bool_)
    for name in names:
        weights = np.where(kept, np.asarray(table[name].to_numpy(), np.float64), 0.0)
        table = table.set_column(table.column_names.index(name), name, pa.array(weights))
    weights = np.asarray(table[_WEIGHT].to_numpy(), np.float64)
    squares = float((weights**2).sum())
    effective = float(weights.sum()) ** 2 / squares if squares else 0.0
    metadata = {**(table.schema.metadata or {}), b"effective_n": f"{effective:.1f}".encode()}
    return table.replace_schema_metadata(metadata)
