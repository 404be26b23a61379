"""A run's vectors in forms that other tools read without help; a new form is a writer and a line in FORMATS."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipaudit.errors import UsageError
from clipaudit.run.frames import list_array
from clipaudit.run.projections import vectors_of
from clipaudit.run.reader import Run, RunPlace, opened
from clipaudit.schema import OK, Names, as_names
from clipaudit.storage.directory import storage_errors
from clipaudit.storage.local import TEMPORARY

Dtype: TypeAlias = Literal["float16", "float32"]
Writer: TypeAlias = Callable[[Run, Path, Sequence[str], np.dtype[Any]], None]
"""Writes columns of a run's ok rows into a new directory, vectors in the given dtype."""

_BATCH_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """One form of export."""

    write: Writer
    table: str
    """File that every export in this form has: by it `overwrite` knows an earlier export."""


def export(
    run: RunPlace,
    out: str | Path,
    *,
    file_format: str = "parquet",
    heads: Names | None = None,
    columns: Names | None = None,
    dtype: Dtype = "float32",
    overwrite: bool = False,
) -> list[Path]:
    """Write the ok rows of a run into the local directory `out`; returns the files written.

    file_format: a name of FORMATS. `parquet`: `table.parquet`, vectors as fixed-size lists of `dtype`. `npy`:
        `rows.parquet` with everything but vectors, and `<column>.npy`, (n, length) of `dtype`, row i of each belonging
        to row i of `rows.parquet`. Attributes have the types of `Run.column_types`.
    heads: limits the heads; default: all stored.
    columns: every column to write, instead.

    Memory is bounded by one batch. The directory appears whole or not at all. UsageError when `out` exists and is not
    empty, unless `overwrite`, when a column is unknown, or for another format; StorageFull when there is no space left.

    >>> [path.name for path in export("demo-out/birds-run", "vectors", file_format="npy", heads="L05H00")]
    ['L05H00.npy', 'embedding.npy', 'rows.parquet']
    """
    if file_format not in FORMATS:
        raise UsageError(f"the export format must be {' or '.join(FORMATS)}, not {file_format!r}")
    reader = opened(run)
    chosen = _chosen_columns(reader, heads, columns)
    target = Path(out)
    _refuse_existing(target, overwrite)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")
    try:
        with storage_errors(str(target)):
            aside.mkdir(parents=True)
            FORMATS[file_format].write(reader, aside, chosen, np.dtype(dtype))
            if target.exists():
                shutil.rmtree(target)
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return sorted(target.iterdir())


def _chosen_columns(reader: Run, heads: Names | None, columns: Names | None) -> list[str]:
    asked = as_names(columns if columns is not None else heads if heads is not None else ())
    kind, known = ("head", reader.head_labels) if columns is None else ("column", reader.columns)
    for name in asked:
        if name not in known:
            stored = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            raise UsageError(f"the run at {reader.directory.url} has no {kind} {name!r}: it has {stored}")
    if columns is not None:
        return list(dict.fromkeys(asked))
    dropped = set() if heads is None else set(reader.head_labels) - set(asked)
    return [name for name in reader.columns if name not in dropped]


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


def _batches(reader: Run, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Ok rows with the chosen columns, `status` always among them; attributes with their types."""
    width = sum(reader.spec.vectors.get(name, 0) for name in columns) * 4 + 256
    names = columns if "status" in columns else [*columns, "status"]
    for batch in reader.batches(names, rows=max(64, min(65_536, _BATCH_BYTES // width))):
        yield reader.typed(batch.filter(pc.equal(batch.column("status"), OK)))


def _schema(reader: Run, columns: Sequence[str]) -> pa.Schema:
    """Of the plain columns as `_batches` gives them."""
    return reader.typed(reader.schema(columns).empty_table()).schema


def _write_parquet(reader: Run, directory: Path, columns: Sequence[str], dtype: np.dtype[Any]) -> None:
    vectors = reader.spec.vectors
    number = pa.from_numpy_dtype(dtype)
    fields = [
        pa.field(f.name, pa.list_(number, vectors[f.name])) if f.name in vectors else f
        for f in _schema(reader, columns)
    ]
    schema = pa.schema(fields)
    with pq.ParquetWriter(directory / "table.parquet", schema, compression="zstd") as writer:
        for batch in _batches(reader, columns):
            arrays = [
                list_array(batch.column(name), dtype) if name in vectors else batch.column(name) for name in columns
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _write_npy(reader: Run, directory: Path, columns: Sequence[str], dtype: np.dtype[Any]) -> None:
    vectors = {name: reader.spec.vectors[name] for name in columns if name in reader.spec.vectors}
    others = [name for name in columns if name not in vectors] or ["shard_id", "index", "key"]
    asked = [*others, *vectors]
    done = 0
    with ExitStack() as stack:
        sinks = {
            name: stack.enter_context(_begin_npy(directory / f"{name}.npy", (len(reader), dim), dtype))
            for name, dim in vectors.items()
        }
        rows = stack.enter_context(
            pq.ParquetWriter(directory / "rows.parquet", _schema(reader, others), compression="zstd")
        )
        for batch in _batches(reader, asked):
            rows.write_table(pa.Table.from_batches([batch.select(others)]))
            for name, sink in sinks.items():
                values, _ = vectors_of(batch.column(name))
                sink.write(np.ascontiguousarray(values, dtype).data)
            done += len(batch)
    if done != len(reader):
        raise AssertionError(f"exported {done} rows where the commit records count {len(reader)}")


def _begin_npy(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> BinaryIO:
    """A .npy file with its header written, to which rows are appended.

    Not a memory map: writing to one when the disk is full ends the process with SIGBUS instead of an error.
    """
    handle = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, header)
    return handle


FORMATS: Final[Mapping[str, ExportFormat]] = MappingProxyType(
    {
        "parquet": ExportFormat(write=_write_parquet, table="table.parquet"),
        "npy": ExportFormat(write=_write_npy, table="rows.parquet"),
    }
)
"""The forms by name."""
