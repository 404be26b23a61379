"""`Vectors`: one vector column of a run's ok rows with some of their other columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import ArrayHolder, Floats


@dataclass(frozen=True, kw_only=True, repr=False)
class Vectors(ArrayHolder):
    """One vector column of the ok rows, with some of their other columns; rows in shard and then index order."""

    name: str
    values: Floats
    """(n, length), float16 unless another dtype was asked for."""
    shard_id: npt.NDArray[np.int32]
    """(n,) with `index` the identity of each row."""
    index: npt.NDArray[np.int32]
    """(n,) position of the sample in its shard."""
    columns: dict[str, npt.NDArray[Any]]
    """The other columns that were asked for, (n,) each. Numbers are int64 or float64 (NaN where a row has none), true
    and false are bools; texts, and booleans of which some rows have none, are Python objects."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self.columns[column]


def plain_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a table by its name, `label` or `attributes.place`."""
    outer, _, inner = name.partition(".")
    return pc.struct_field(table[outer], inner) if inner else table[outer]


def as_numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A plain column as numpy, (n,); see `Vectors.columns`."""
    if pa.types.is_struct(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return np.asarray(column.to_numpy())
