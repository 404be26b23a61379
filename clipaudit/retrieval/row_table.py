"""A run's ok rows by number, in memory or memory-mapped: filtered, looked up, taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import Bools, Ints
from clipaudit.errors import UsageError
from clipaudit.run.classes import ClassNames
from clipaudit.run.filter_columns import FilterColumns, table_columns, value_text, with_attribute_types
from clipaudit.run.filters import parse_filter, why_empty
from clipaudit.run.reader import Run
from clipaudit.run.row import ImageId, Row
from clipaudit.schema import Names, SampleLabel, labels_in

_ROW_COLUMNS: Final = frozenset(
    (
        "shard_id",
        "index",
        "key",
        "label",
        "caption",
        "attributes",
        "width",
        "height",
        "phash",
        "image",
        "offset",
        "nbytes",
    )
)
"""What a `Row` is made of; a table may have more."""


class RowTable:
    """Ok rows of a run's shards by number, one line a row. Thread-safe."""

    def __init__(
        self,
        run: Run,
        table: pa.Table,
        starts: Mapping[int, tuple[int, int]],
        source: str,
        types: Mapping[str, pa.DataType] | None,
    ) -> None:
        """table: the columns of a `Row`, attributes in a struct, and any others.

        starts: shard id -> (number of its first row, rows), in the table's order. source: what messages call the table.
        types: of the attributes, which the job stores as text; None where they are to be told by their values.
        """
        self._run, self.starts, self.source = run, dict(starts), source
        self.table: pa.Table = with_attribute_types(table, types)
        """As given, with the types of its attributes."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def filter_columns(self) -> FilterColumns:
        """The columns that filters may name."""
        return table_columns(self.table, self.source, lambda: self._run.class_names)

    @cached_property
    def _names(self) -> ClassNames | None:
        """What labels are called; None also where the file of names cannot be used, for results do without."""
        try:
            return self._run.class_names
        except UsageError:
            return None

    def mask(self, where: Names) -> Bools:
        """(n,) which rows pass a filter, or each of several; UsageError as in `parse_filter`."""
        return parse_filter(where, self.filter_columns).mask(self.table)

    def why_empty(self, where: Names) -> str | None:
        """Which part of a filter no row passes, and what there is; see `clipaudit.run.filters.why_empty`."""
        return why_empty(parse_filter(where, self.filter_columns), self.table)

    def rows(self, numbers: Sequence[int] | Ints) -> list[Row]:
        """The rows with these numbers (m,), in their order."""
        names = [name for name in self.table.column_names if name in _ROW_COLUMNS]
        return [self._row(values) for values in self._taken(numbers, names).to_pylist()]

    def hashes(self, numbers: Sequence[int] | Ints) -> list[int | None]:
        """The perceptual hashes of some rows, (m,) numbers: signed 64-bit integers, None where a row has none."""
        hashes: list[int | None] = self._taken(numbers, ["phash"])["phash"].to_pylist()
        return hashes

    def number(self, shard: int, key: str) -> int:
        """The number of a sample's row; UsageError when there is none."""
        if shard not in self.starts:
            raise UsageError(f"shard {shard} is not among the shards of the index")
        start, ok = self.starts[shard]
        place = int(pc.index(self.table["key"].slice(start, ok), key).as_py())
        if place < 0:
            raise UsageError(
                f"shard {shard} ({self._run.manifest.shards[shard].url}) has no indexed sample with the key {key!r}"
            )
        return start + place

    def numbers(self, images: Sequence[ImageId]) -> list[int | None]:
        """The numbers of the rows of some images, (shard id, position in the shard); None where there is no row."""
        if not len(self) or not images:
            return [None] * len(images)
        keys, order = self._by_place
        wanted = np.array([_place_key(shard, index) for shard, index in images], np.int64)
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        known = keys[places] == wanted
        return [
            number if exists else None for number, exists in zip(order[places].tolist(), known.tolist(), strict=True)
        ]

    @cached_property
    def _by_place(self) -> tuple[Ints, Ints]:
        """(n,) each: the rows' shards and positions as one ascending number, and the rows' numbers in that order."""
        shards = np.asarray(self.table["shard_id"].to_numpy(), np.int64)
        keys = _place_key(shards, np.asarray(self.table["index"].to_numpy(), np.int64))
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def place(self, number: int) -> tuple[int, int]:
        """(shard id, position among the shard's ok rows) of a row; IndexError for a number that no row has."""
        for shard, (start, ok) in self.starts.items():
            if start <= number < start + ok:
                return shard, number - start
        raise IndexError(number)

    def at(self, shard: int, index: int) -> Row | None:
        """The row at a position of a shard, or None where no such row is indexed."""
        start, ok = self.starts.get(shard, (0, 0))
        place = int(pc.index(self.table["index"].slice(start, ok), pa.scalar(index, pa.int32())).as_py())
        return None if place < 0 else self.rows([start + place])[0]

    def _taken(self, numbers: Sequence[int] | Ints, columns: Sequence[str]) -> pa.Table:
        wanted = pa.array(np.asarray(numbers, np.int64))
        return self.table.select(columns).take(wanted)

    def _row(self, values: Mapping[str, Any]) -> Row:
        plain = {name: value for name, value in values.items() if name != "attributes"}
        if isinstance(plain.get("label"), list):
            plain["label"] = tuple(plain["label"])
        attributes = values.get("attributes") or {}
        texts = {name: None if value is None else value_text(value) for name, value in attributes.items()}
        return Row(**plain, class_name=self._class_name(plain.get("label")), attributes=texts)

    def _class_name(self, label: SampleLabel) -> str | None:
        """What a label is called, of several each; None where no name is known."""
        names = [None if self._names is None else self._names.name_of(each) for each in labels_in(label)]
        if not any(names):
            return None
        return ", ".join(name or str(each) for name, each in zip(names, labels_in(label), strict=True))


def _place_key(shard: Any, index: Any) -> Any:  # noqa: ANN401 - a number or (n,) of them
    return (shard << 32) + index  # both are below 2^31
