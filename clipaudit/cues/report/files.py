"""The files to act with: weights, a balanced subset, what to collect, groups, spuriosity, heads and a review list."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from clipaudit.cues.report.document import File
from clipaudit.cues.result.result import AuditResult
from clipaudit.pages.text import one_line
from clipaudit.storage.faults import storage_errors

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_BATCH_ROWS: Final = 65_536

ABOUT: Final = {
    "weights.parquet": "Sampling weights that make every class and cue combination count the same in training.",
    "balanced_subset.txt": "Images in which class and columns (all together) are balanced, one SHARD/KEY a line.",
    "collect.csv": "Which class and cue combinations to fill, and with how many images.",
    "groups.parquet": "Every image with its class and attributes, for group-aware training and evaluation.",
    "spuriosity.parquet": "The images of each finding's class by how much of the cue they show (rank 1 has most).",
    "answers.parquet": "What each answerer says of each scored image, and what CLIP says with a cue taken out.",
    "heads.json": "The attention heads behind each finding, to ablate or to query.",
    "slices.csv": "The images of each error slice, those with most of it first, and what they were answered.",
    "review.csv": "Images worth a look by a person, with the reason.",
}
"""What each file is for."""
_UNLABELLED: Final = {"groups.parquet": "Every image with the class that it counts as, to choose images to label from."}
"""The same where classes are no labels."""
_TABLES: Final = {
    "weights.parquet": "weights",
    "balanced_subset.txt": "balanced",
    "collect.csv": "collect",
    "groups.parquet": "groups",
    "spuriosity.parquet": "spuriosity",
    "answers.parquet": "answers",
    "slices.csv": "slices",
    "review.csv": "review",
}


def write_exports(result: AuditResult, directory: Path) -> tuple[File, ...]:
    """Write every file there is something for into an existing directory; returns what was written."""
    writers: dict[str, Callable[[pa.Table, Path], None]] = {
        ".parquet": _write_parquet,
        ".csv": _write_csv,
        ".txt": _write_keys,
    }
    from clipaudit.cues.row_tables import heads

    written = []
    abouts = ABOUT if result.settings.classes_from == "label" else ABOUT | _UNLABELLED
    for name, about in abouts.items():
        path = directory / name
        table = result.rows.get(_TABLES.get(name, ""))
        with storage_errors(str(path)):
            if name == "heads.json":
                _write_json(heads(result), path)
            elif table is None:
                continue
            else:
                writers[path.suffix](table, path)
        written.append(File(name=name, about=about, rows=None if table is None else table.num_rows))
    return tuple(written)


def effective_images(result: AuditResult) -> float | None:
    """How many equally weighted images the weights are worth; None without weights."""
    table = result.rows.get("weights")
    stored = None if table is None else (table.schema.metadata or {}).get(b"effective_n")
    try:
        return None if stored is None else float(stored)
    except ValueError:
        return None


def safe_cell(value: object) -> object:
    """A text that a spreadsheet would run as a formula, with an apostrophe before it; everything else as it is."""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return "'" + value
    return value


def csv_text(table: pa.Table) -> str:
    """A table as CSV (RFC 4180) whose cells no spreadsheet runs."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow([safe_cell(name) for name in table.column_names])
    writer.writerows([safe_cell(value) for value in row] for row in _rows(table))
    return buffer.getvalue()


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches(_BATCH_ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def _write_csv(table: pa.Table, path: Path) -> None:
    path.write_text(csv_text(table), encoding="utf-8", newline="")


def _write_json(value: object, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def _write_keys(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        for shard, key in _rows(table.select(["shard_id", "key"])):
            handle.write(f"{shard:06d}/{one_line(key)}\n")
