"""A run's vectors in forms that other tools read without help: plain float lists in Parquet, or one .npy per column."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipaudit.errors import UsageError
from clipaudit.run.directory import RunDirectory
from clipaudit.run.projections import vectors_of
from clipaudit.run.reader import Run
from clipaudit.schema import OK
from clipaudit.storage.directory import storage_errors
from clipaudit.storage.local import TEMPORARY

Format: TypeAlias = Literal["parquet", "npy"]
Precision: TypeAlias = Literal["float16", "float32"]

_BATCH_BYTES = 32 * 2**20


def export(
    run: str | RunDirectory | Run,
    out: str | Path,
    *,
    file_format: str = "parquet",
    heads: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    dtype: Precision = "float32",
    overwrite: bool = False,
) -> list[Path]:
    """Write the ok rows of a run into the local directory `out`; returns the files written.

    `parquet`: `table.parquet`, vectors as fixed-size lists of `dtype`. `npy`: `rows.parquet` with everything but
    vectors, and `<column>.npy`, (n, length) of `dtype`, row i of each belonging to row i of `rows.parquet`.
    `heads` limits the heads (default: all stored); `columns` instead names every column to write. Memory is bounded by
    one batch. The directory appears whole or not at all. UsageError when `out` is there and not empty, unless
    `overwrite`, when a column is unknown, or for another format; StorageFull when there is no space left.
    """
    if file_format not in ("parquet", "npy"):
        raise UsageError(f"the export format must be parquet or npy, not {file_format!r}")
    reader = run if isinstance(run, Run) else Run(run)
    chosen = _chosen_columns(reader, heads, columns)
    target = Path(out)
    _refuse_existing(target, overwrite)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")
    try:
        with storage_errors(str(target)):
            aside.mkdir(parents=True)
            write = _write_parquet if file_format == "parquet" else _write_npy
            write(reader, aside, chosen, np.dtype(dtype))
            if target.exists():
                shutil.rmtree(target)
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return sorted(target.iterdir())


def _chosen_columns(reader: Run, heads: Sequence[str] | None, columns: Sequence[str] | None) -> list[str]:
    asked = columns if columns is not None else heads if heads is not None else ()
    kind = "head" if columns is None else "column"
    known = reader.columns if columns is not None else reader.head_labels
    for name in asked:
        if name not in known:
            stored = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            raise UsageError(f"the run at {reader.directory.url} has no {kind} {name!r}: it has {stored}")
    if columns is not None:
        return list(dict.fromkeys(columns))
    dropped = set() if heads is None else set(reader.head_labels) - set(heads)
    return [name for name in reader.columns if name not in dropped]


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"cannot export to {target}: there is a file of this name; give a directory")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"cannot export to {target}: it is not empty; give another --out, or --overwrite")
    if not (target / "table.parquet").exists() and not (target / "rows.parquet").exists():
        # --overwrite removes the directory: only one that an export made may go
        raise UsageError(f"cannot overwrite {target}: it does not look like an earlier export; remove it yourself")


def _batches(reader: Run, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Ok rows with the chosen columns, `status` always among them."""
    width = sum(reader.spec.vectors.get(name, 0) for name in columns) * 4 + 256
    names = columns if "status" in columns else [*columns, "status"]
    for batch in reader.batches(names, rows=max(64, min(65_536, _BATCH_BYTES // width))):
        kept = pa.array([status == OK for status in batch.column("status").to_pylist()])
        yield batch.filter(kept)


def _write_parquet(reader: Run, directory: Path, columns: Sequence[str], dtype: np.dtype[Any]) -> None:
    vectors = reader.spec.vectors
    stored = reader.schema(columns)
    number = pa.from_numpy_dtype(dtype)
    schema = pa.schema(
        [pa.field(f.name, pa.list_(number, vectors[f.name])) if f.name in vectors else f for f in stored]
    )
    with pq.ParquetWriter(directory / "table.parquet", schema, compression="zstd") as writer:
        for batch in _batches(reader, columns):
            arrays = [
                _list_array(batch.column(name), dtype) if name in vectors else batch.column(name) for name in columns
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _list_array(column: pa.Array, dtype: np.dtype[Any]) -> pa.Array:
    values, _ = vectors_of(column)
    flat = values.astype(dtype, copy=False).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), values.shape[1])


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
            pq.ParquetWriter(directory / "rows.parquet", reader.schema(others), compression="zstd")
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
    """A .npy file with its header written. Rows are appended: a full disk kills a process that writes to a map."""
    handle = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, header)
    return handle
