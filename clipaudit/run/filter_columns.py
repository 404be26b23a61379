"""Columns as filters see them: each holds numbers, booleans or texts, and can say which values it has."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import UsageError
from clipaudit.run.classes import ClassNames
from clipaudit.run.column_types import TEXTS, text_type, with_type
from clipaudit.run.vectors import element_type
from clipaudit.schema import OK

Kind: TypeAlias = Literal["whole", "number", "boolean", "text"]

_KIND_WORDS: Final[dict[Kind, str]] = {
    "whole": "whole numbers",
    "number": "numbers",
    "boolean": "true and false",
    "text": "texts",
}
_HIDDEN: Final = frozenset({"status", "offset", "nbytes", "phash"})
"""Columns of the table that no filter may name: the first is `ok` in every row that is filtered."""
_TYPES: Final = b"clipaudit.attribute_types"
_LIST: Final = "list of texts"
_LISTED_VALUES: Final = 8
_LISTED_CHARACTERS: Final = 60


@dataclass(frozen=True)
class FilterColumn:
    """One column that filters may name."""

    name: str
    """In full: `label`, or `attributes.place`."""
    path: tuple[str, ...]
    """Name of the table's column, and of the field in it."""
    stored: pa.DataType
    compared: pa.DataType
    """What the values are compared as; another type than `stored` where a column of texts holds numbers or booleans."""

    @property
    def is_list(self) -> bool:
        """Whether a row has a list of values."""
        return bool(pa.types.is_list(self.compared))

    @property
    def element(self) -> pa.DataType:
        """What single values are compared as: of lists their elements."""
        return element_type(self.compared)

    @property
    def kind(self) -> Kind:
        """What the values are, or the elements of lists."""
        if pa.types.is_boolean(self.element):
            return "boolean"
        if pa.types.is_string(self.element):
            return "text"
        return "whole" if pa.types.is_integer(element_type(self.stored)) else "number"

    def stored_values(self, table: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
        """(n,) the column of a table as it is stored."""
        column = table[self.path[0]]
        return pc.struct_field(column, list(self.path[1:])) if len(self.path) > 1 else column

    def compared_values(self, stored: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """(n,) stored values as the type `compared`; null stays null."""
        return with_type(stored, self.compared)

    def single_values(self, table: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
        """(m,) the compared values of a table without null, of lists each element."""
        values = self.compared_values(self.stored_values(table))
        return (pc.list_flatten(values) if self.is_list else values).drop_null()


Types: TypeAlias = Callable[[], Mapping[str, pa.DataType]]
"""What gives the types of the attributes, by name; asked when a filter names one."""
Classes: TypeAlias = Callable[[], ClassNames | None]
"""What gives the names of the labels, where there are any."""
Batches: TypeAlias = Callable[[list[str]], Iterable[pa.RecordBatch]]
"""What gives some columns of all rows, with `status` where rows that are not `ok` are among them."""


class FilterColumns:
    """The columns of a table or of a run, by the names that filters have for them."""

    def __init__(
        self,
        schema: pa.Schema,
        types: Types,
        batches: Batches,
        source: str = "the run",
        classes: Classes = lambda: None,
    ) -> None:
        """Of a table with this schema; `batches` are read for messages alone, and `source` stands in them.

        classes: what gives the names of the labels; asked when a filter compares the label with a name.
        """
        self.source = source
        self._classes = classes
        self._types, self._batches = types, batches
        self._status = ["status"] if "status" in schema.names else []
        self._columns = _columns(schema)

    def find(self, name: str) -> FilterColumn:
        """The column of a name, with or without `attributes.`; UsageError names the nearest, or all that there are."""
        if name not in self._columns:
            raise UsageError(f"the filter's column {name!r} is not in {self.source}{self._instead(name)}")
        column = self._columns[name]
        if len(column.path) == 1 or not pa.types.is_string(column.stored):
            return column
        return replace(column, compared=self._types()[column.path[1]])

    def label_named(self, column: FilterColumn, name: str) -> int | str | None:
        """The label of the class of this name; None for another column, a name of no class, and a label's own text."""
        classes = self._classes() if column.name == "label" else None
        label = None if classes is None else classes.label_of(name)
        stored = int if column.kind == "whole" else str
        known = classes is not None and stored is str and name in classes.labels
        return label if isinstance(label, stored) and not known else None

    def classes_instead(self, column: FilterColumn, name: str) -> str:
        """`, and the classes are cat, dog`, for messages; empty where labels have no names."""
        classes = self._classes() if column.name == "label" else None
        if classes is None:
            return ""
        nearest = difflib.get_close_matches(name.casefold(), [known.casefold() for known in classes.names], n=1)
        meant = f"; did you mean {nearest[0]}?" if nearest else ""
        return f"; the classes are {listed_values(classes.names)}{meant}"

    def holds(self, column: FilterColumn) -> str:
        """`attributes.light holds numbers from 0 to 195`, for messages."""
        values = self._distinct(column)
        name = f"{column.name} holds {'lists of ' if column.is_list else ''}"
        if column.kind == "boolean":
            return f"{name}true and false"
        if not len(values):
            return f"{name}{_KIND_WORDS[column.kind]}"
        if column.kind == "text":
            return f"{name}texts such as {listed_values(values.to_pylist())}"
        return f"{name}{_KIND_WORDS[column.kind]} from {number_range(values)}"

    def _distinct(self, column: FilterColumn) -> pa.Array:
        """The values that a column has in ok rows, or elements of its lists, each once, without null, as compared."""
        values = [pa.array([], column.element)]
        for batch in self._batches([*self._status, column.path[0]]):
            rows = batch.filter(pc.equal(batch["status"], OK)) if self._status else batch
            values.append(pc.unique(column.single_values(rows)))
        return pc.unique(pa.concat_arrays(values))

    def _instead(self, name: str) -> str:
        by_lower = {known.lower(): known for known in self._columns}
        nearest = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
        if nearest:
            return f": did you mean {by_lower[nearest[0]]}?"
        return f": there is {', '.join(self._columns) or 'none'}"


def table_columns(table: pa.Table, source: str = "the run", classes: Classes = lambda: None) -> FilterColumns:
    """The columns of a table in memory; attributes that are texts are typed by their values. `classes` as above."""

    @cache
    def types() -> dict[str, pa.DataType]:
        fields = table.schema.field("attributes").type
        known = _types_in(table.schema)
        return {
            field.name: known.get(field.name) or text_type(pc.struct_field(table["attributes"], field.name))
            for field in fields
        }

    return FilterColumns(table.schema, types, lambda names: table.select(names).to_batches(), source, classes)


def with_attribute_types(table: pa.Table, types: Mapping[str, pa.DataType] | None) -> pa.Table:
    """A table that tells `table_columns` what its attributes, stored as text, are; None: they are typed by values."""
    if types is None:
        return table
    return table.replace_schema_metadata({_TYPES: json.dumps({name: _alias(kind) for name, kind in types.items()})})


def _types_in(schema: pa.Schema) -> dict[str, pa.DataType]:
    stored = (schema.metadata or {}).get(_TYPES, b"{}")
    return {name: TEXTS if kind == _LIST else pa.type_for_alias(kind) for name, kind in json.loads(stored).items()}


def _alias(kind: pa.DataType) -> str:
    return _LIST if pa.types.is_list(kind) else str(kind)


def listed_values(values: Sequence[Any]) -> str:
    """`land, water, ...`: at most eight of them, as filters write them."""
    more = ", ..." if len(values) > _LISTED_VALUES else ""
    return ", ".join(_short(value_text(value)) for value in values[:_LISTED_VALUES]) + more


def number_range(values: pa.Array | pa.ChunkedArray) -> str:
    """`0 to 195`: the least and the greatest of some numbers."""
    ends = pc.min_max(values)
    return f"{value_text(ends['min'].as_py())} to {value_text(ends['max'].as_py())}"


def value_text(value: Any) -> str:  # noqa: ANN401 - whatever a column holds
    """A value as it is shown: `true`, `3`, `0.25`, `water`; a list as `red, wet`."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _LISTED_CHARACTERS else f"{text[: _LISTED_CHARACTERS - 3]}..."


def _columns(schema: pa.Schema) -> dict[str, FilterColumn]:
    """Name in filters -> column: every plain column, and attributes with and without their prefix."""
    columns: dict[str, FilterColumn] = {}
    for outer in schema:
        if pa.types.is_struct(outer.type):
            for inner in outer.type:
                name, path = f"{outer.name}.{inner.name}", (outer.name, inner.name)
                columns[name] = FilterColumn(name, path, inner.type, inner.type)
        elif outer.name not in _HIDDEN:
            columns[outer.name] = FilterColumn(outer.name, (outer.name,), outer.type, outer.type)
    columns = {name: column for name, column in columns.items() if _comparable(column.stored)}
    for column in list(columns.values()):  # where both have a name, it is the table's own column
        columns.setdefault(column.path[-1], column)
    return columns


def _comparable(column: pa.DataType) -> bool:
    stored = element_type(column)
    return bool(
        pa.types.is_string(stored)
        or pa.types.is_boolean(stored)
        or pa.types.is_integer(stored)
        or pa.types.is_floating(stored)
    )
