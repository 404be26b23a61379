"""Exports as tables: Parquet with plain lists, .npy arrays with their rows, CSV."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from clipaudit.run.derived import finite
from clipaudit.run.export_rows import ExportRows
from clipaudit.run.frames import list_array
from clipaudit.run.projections import vectors_of

ROWS: Final = "rows.parquet"


def write_parquet(rows: ExportRows, directory: Path, dtype: np.dtype[Any]) -> None:
    """`table.parquet`: vectors as fixed-size lists of `dtype`, columns in their order."""
    plain, number = rows.schema(), pa.from_numpy_dtype(dtype)
    schema = pa.schema(
        [
            pa.field(column.name, pa.list_(number, rows.vectors[column.source]))
            if column.source in rows.vectors
            else plain.field(column.name)
            for column in rows.columns
        ]
    )
    with pq.ParquetWriter(directory / "table.parquet", schema, compression="zstd") as writer:
        for table, stored in rows.batches():
            arrays = [
                list_array(stored[column.source], dtype) if column.source in rows.vectors else table[column.name]
                for column in rows.columns
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def write_npy(rows: ExportRows, directory: Path, dtype: np.dtype[Any]) -> None:
    """`rows.parquet` with everything but vectors, and (n, length) `<column>.npy` for each vector column."""
    write_arrays(rows, directory, dtype, rows_file=ROWS)


def write_arrays(rows: ExportRows, directory: Path, dtype: np.dtype[Any], rows_file: str | None) -> None:
    """One (n, length) .npy file for each vector column, in the order of the rows; `rows_file` gets the plain columns.

    AssertionError when there are more or fewer rows than were counted.
    """
    expected, done = rows.count(), 0
    with ExitStack() as stack:
        sinks = {
            name: stack.enter_context(_begin_npy(directory / f"{name}.npy", (expected, length), dtype))
            for name, length in rows.vectors.items()
        }
        writer = None
        if rows_file is not None:
            writer = stack.enter_context(pq.ParquetWriter(directory / rows_file, rows.schema(), compression="zstd"))
        for table, stored in rows.batches():
            if writer is not None:
                writer.write_table(table)
            for name, sink in sinks.items():
                sink.write(np.ascontiguousarray(vectors_of(stored[name])[0], dtype).data)
            done += stored.num_rows
    if done != expected:
        raise AssertionError(f"exported {done} rows where the run's records count {expected}")


def write_csv(rows: ExportRows, directory: Path, dtype: np.dtype[Any]) -> None:
    """`table.csv`, UTF-8 with a header; a missing value is empty, a list is JSON: `["cat", "dog"]`."""
    with pa.csv.CSVWriter(directory / "table.csv", lists_as_json(rows.schema().empty_table()).schema) as writer:
        for table, _ in rows.batches():
            writer.write_table(lists_as_json(table))


def write_json_lines(rows: ExportRows, directory: Path, dtype: np.dtype[Any]) -> None:
    """`table.jsonl`: an object a row, UTF-8; a missing value is null. No vectors."""
    with (directory / "table.jsonl").open("w", encoding="utf-8") as file:
        for table, _ in rows.batches():
            for row in table.to_pylist():
                file.write(json.dumps(finite(row), ensure_ascii=False) + "\n")


def lists_as_json(table: pa.Table) -> pa.Table:
    """A table whose lists are JSON texts, because CSV has none."""
    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            values = table.column(place).to_pylist()
            texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    return table


def _begin_npy(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> BinaryIO:
    """A .npy file with its header written, to which rows are appended.

    Not a memory map: writing to one when the disk is full ends the process with SIGBUS instead of an error.
    """
    handle = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, header)
    return handle
