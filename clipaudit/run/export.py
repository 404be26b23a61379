"""A run's rows in forms that other tools read without help; a new form is a writer and a line in FORMATS."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from clipaudit.errors import UsageError
from clipaudit.run.export_images import write_fiftyone, write_images
from clipaudit.run.export_rows import ExportRows
from clipaudit.run.export_tables import ROWS, write_csv, write_npy, write_parquet
from clipaudit.run.reader import Run, RunPlace, opened
from clipaudit.schema import Names, as_names
from clipaudit.storage.faults import folder_aside

Dtype: TypeAlias = Literal["float16", "float32"]
Writer: TypeAlias = Callable[[ExportRows, Path, np.dtype[Any]], None]
"""Writes rows into a new directory, vectors in the given dtype."""


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """One form of export."""

    write: Writer
    table: str
    """File that every export in this form has: by it `overwrite` knows an earlier export."""
    heads: Literal["all", "embedding", "none"]
    """Vector columns where none are named; `none`: the form has no vectors at all."""
    shards: bool = False
    """Whether the image files are read from the shards."""


def _silent(note: str) -> None:
    """Nothing."""


def export(
    run: RunPlace,
    out: str | Path,
    *,
    file_format: str = "parquet",
    heads: Names | None = None,
    columns: Names | None = None,
    where: Names = (),
    dtype: Dtype = "float32",
    overwrite: bool = False,
    note: Callable[[str], None] = _silent,
) -> list[Path]:
    """Write the ok rows of a run into the local directory `out`; returns the files and directories in it.

    file_format: a name of FORMATS. `parquet`: `table.parquet`, vectors as fixed-size lists of `dtype`. `csv`:
        `table.csv`, without vectors. `npy`: `rows.parquet` with everything but vectors, and `<column>.npy`, (n, length)
        of `dtype`, row i of each belonging to row i of `rows.parquet`. `images`: the image files by class, with
        `images.csv`. `fiftyone`: the image files, `samples.json` and `embedding.npy`.
    heads: limits the heads; default: all stored, of `fiftyone` none.
    columns: every column to write, instead.
    where: filters that rows must pass, such as `place = water`.
    note: told what could not be done, one sentence each.

    Every row has its shard's URL (`shard`), the image's name in it (`member`, null where the shard cannot be read), the
    name of its class where there are names (`class_name`), and each attribute as a column of its own with the type of
    `Run.column_types`. Memory is bounded by one batch. The directory appears whole or not at all. UsageError when `out`
    exists and is not empty, unless `overwrite`, when a column is unknown, no row passes, an image cannot be read, or
    for another format; StorageFull when there is no space left.

    >>> [path.name for path in export("demo-out/birds-run", "vectors", file_format="npy", heads="L05H00")]
    ['L05H00.npy', 'embedding.npy', 'rows.parquet']
    """
    if file_format not in FORMATS:
        known = list(FORMATS)
        raise UsageError(f"--format must be {', '.join(known[:-1])} or {known[-1]}, not {file_format!r}")
    form, reader, target = FORMATS[file_format], opened(run), Path(out)
    _refuse_existing(target, overwrite)
    rows = ExportRows(
        reader,
        heads=_heads(form, file_format, heads),
        columns=_columns(reader, form, file_format, columns),
        where=where,
        on_note=note,
    )
    with folder_aside(target) as aside:
        form.write(rows, aside, np.dtype(dtype))
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
    return sorted(target.iterdir())


def _heads(form: ExportFormat, name: str, heads: Names | None) -> tuple[str, ...] | None:
    if heads is not None and form.heads == "none":
        raise UsageError(f"--format {name} holds no vectors: leave out --heads, or take parquet or npy")
    return (None if form.heads == "all" else ()) if heads is None else as_names(heads)


def _columns(run: Run, form: ExportFormat, name: str, columns: Names | None) -> tuple[str, ...] | None:
    """The columns of a form that has not all of them, where the user names none."""
    if columns is None:
        return None
    vectors = [column for column in as_names(columns) if column in run.spec.vectors]
    if vectors and form.heads == "none":
        raise UsageError(f"--format {name} holds no vectors, and {vectors[0]} is one: take parquet or npy")
    return as_names(columns)


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"cannot export to {target}: there is a file of this name; give a directory")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"cannot export to {target}: it is not empty; give another --out, or --overwrite")
    if not any((target / form.table).exists() for form in FORMATS.values()):
        # --overwrite removes the directory: only one that an export made may go
        raise UsageError(f"cannot overwrite {target}: it does not look like an earlier export; remove it yourself")


FORMATS: Final[Mapping[str, ExportFormat]] = MappingProxyType(
    {
        "parquet": ExportFormat(write=write_parquet, table="table.parquet", heads="all"),
        "csv": ExportFormat(write=write_csv, table="table.csv", heads="none"),
        "npy": ExportFormat(write=write_npy, table=ROWS, heads="all"),
        "fiftyone": ExportFormat(write=write_fiftyone, table="samples.json", heads="embedding", shards=True),
        "images": ExportFormat(write=write_images, table="images.csv", heads="none", shards=True),
    }
)
"""The forms by name."""
