"""`Vectors`: one vector column of a run's ok rows with some of their other columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import ArrayHolder, Bools, Floats
from clipaudit.schema import Label


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
    and false are bools; texts, and booleans of which some rows have none, are Python objects, lists are tuples."""

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
    if pa.types.is_struct(column.type) or pa.types.is_list(column.type):
        return as_objects(column)
    return np.asarray(column.to_numpy())


def as_objects(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """A plain column as Python objects, (n,); lists are tuples, so that they can be compared and counted."""
    values = column.to_pylist()
    objects = np.empty(len(values), object)
    if pa.types.is_list(column.type):
        for row, value in enumerate(values):  # numpy would make a second axis of lists of one length
            objects[row] = None if value is None else tuple(value)
    else:
        objects[:] = values
    return objects


def has_label(column: pa.Array, label: Label) -> Bools:
    """(n,) which rows of a column of labels, or of lists of labels, have one label; None: which have null."""
    if label is None:
        return np.asarray(pc.is_null(column).to_numpy(zero_copy_only=False), np.bool_)
    if isinstance(label, str) != pa.types.is_string(element_type(column.type)):
        return np.zeros(len(column), np.bool_)
    if pa.types.is_list(column.type):
        return rows_with(column, pc.equal(pc.list_flatten(column), label))
    return np.asarray(pc.equal(column, label).fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def rows_with(lists: pa.Array, chosen: pa.Array) -> Bools:
    """(n,) which of n lists have a chosen element; `chosen` is a truth value for each element of all lists in order."""
    rows = np.zeros(len(lists), np.bool_)
    mask = np.asarray(chosen.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)
    rows[np.asarray(pc.list_parent_indices(lists).to_numpy())[mask]] = True
    return rows


def element_type(kind: pa.DataType) -> pa.DataType:
    """Of a column of lists the type of their elements, else its own."""
    return kind.value_type if pa.types.is_list(kind) else kind
