"""A run's rows as pandas or polars frames."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from clipaudit.errors import UsageError
from clipaudit.run.projections import vectors_of


def flat_table(table: pa.Table, vectors: Sequence[str]) -> pa.Table:
    """A run's table with `attributes` as columns `attributes.NAME`, and vectors as lists.

    vectors: columns of `table` that become fixed-size lists of float32; null where the row has none.
    """
    arrays, names = [], []
    for name in table.column_names:
        column = table[name]
        if name in vectors:
            # chunk by chunk: polars refuses slices of fixed-size lists, which other chunks would make of them
            lists = [list_array(chunk, np.dtype(np.float32)) for chunk in column.chunks]
            kind = pa.list_(pa.float32(), column.type.byte_width // 2)
            arrays.append(pa.chunked_array(lists, kind))
            names.append(name)
        elif pa.types.is_struct(column.type):
            arrays += column.flatten()
            names += [f"{name}.{field.name}" for field in column.type]
        else:
            arrays.append(column)
            names.append(name)
    return pa.Table.from_arrays(arrays, names)


def list_array(column: pa.Array, dtype: np.dtype[Any]) -> pa.Array:
    """A vector column, (n,) binary float16, as an (n,) array of fixed-size lists of `dtype`; nulls stay nulls."""
    values, valid = vectors_of(column)
    flat = pa.array(values.astype(dtype, copy=False).reshape(-1))
    missing = None if valid.all() else pa.array(~valid)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=missing)


def pandas_frame(table: pa.Table) -> Any:  # noqa: ANN401 - pandas may not be installed
    """A flat table as a `pandas.DataFrame`; UsageError when pandas is not installed."""
    _require("pandas")
    return table.to_pandas()


def polars_frame(table: pa.Table) -> Any:  # noqa: ANN401 - polars may not be installed
    """A flat table as a `polars.DataFrame`; UsageError when polars is not installed."""
    return _require("polars").from_arrow(table)


def _require(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UsageError(f"{package} is not installed: pip install {package}") from error
