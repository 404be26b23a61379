"""Types of attribute columns: stored as text, typed as they were in the json; in old runs, by their values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.run.directory import RunDirectory
from clipaudit.run.projections import open_table, stored_types
from clipaudit.run.records import CommitRecord
from clipaudit.schema import TableSpec

ColumnType: TypeAlias = Literal["number", "boolean", "text", "list of numbers", "list of texts"]
"""What a column holds; a list is a row's."""
TEXTS: Final = pa.list_(pa.string())
"""The Arrow type of lists of texts."""

_INTEGER: Final = r"^-?(?:0|[1-9][0-9]*)$"
_NUMBER: Final = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
_BOOLEANS: Final = pa.array(["false", "true"])
_EXACT: Final = 2**53
"""Integers beyond it are not exact as float64."""
_THREADS: Final = 8
_WINDOW: Final = 64
"""Shards between two looks at whether any attribute can still be other than text."""


class TextType:
    """What the values of one text column are, over any number of pieces of it.

    Numbers are spelled as in JSON: `007`, `+1`, `nan` and `1,5` are texts, because as numbers they would not be told
    from others or would not be spelled the same. Integers that int64 cannot hold (identifiers of 20 digits) are texts.
    """

    def __init__(self) -> None:
        self._values = False
        self._booleans = self._numbers = self._integers = True
        self._largest = 0

    @property
    def is_text(self) -> bool:
        """Whether no further value can make it anything else."""
        return self._values and not self._booleans and not self._numbers

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        """Take in a piece of the column, (n,) texts; nulls say nothing."""
        if self.is_text:
            return
        texts = pc.drop_null(pc.unique(column))
        if not len(texts):
            return
        self._values = True
        self._booleans = self._booleans and bool(pc.all(pc.is_in(texts, _BOOLEANS)).as_py())
        self._numbers = self._numbers and _all_match(texts, _NUMBER) and _all_finite(texts)
        if self._numbers:
            integers = texts.filter(pc.match_substring_regex(texts, _INTEGER))
            self._integers = self._integers and len(integers) == len(texts)
            if len(integers):
                # the largest integer is among the longest texts, one of which may have a sign
                lengths = pc.utf8_length(integers)
                longest = integers.filter(pc.greater_equal(lengths, max(pc.max(lengths).as_py() - 1, 16)))
                self._largest = max([self._largest, *(abs(int(text)) for text in longest.to_pylist())])

    @property
    def arrow(self) -> pa.DataType:
        """bool, int64, float64 or string; string for a column without any value."""
        if self._values and self._booleans:
            return pa.bool_()
        if self._values and self._numbers:
            if self._integers and self._largest < 2**63:
                return pa.int64()
            if not self._integers and self._largest <= _EXACT:
                return pa.float64()
        return pa.string()


def text_type(column: pa.Array | pa.ChunkedArray) -> pa.DataType:
    """bool, int64, float64 or string: what the values of a whole column, (n,), are; other types than string stay."""
    if not pa.types.is_string(column.type):
        return column.type
    kind = TextType()
    kind.add(column)
    return kind.arrow


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _all_finite(numbers: pa.Array) -> bool:
    return bool(pc.all(pc.is_finite(pc.cast(numbers, pa.float64()))).as_py())


def attribute_types(
    directory: RunDirectory, records: Iterable[CommitRecord], spec: TableSpec
) -> dict[str, pa.DataType]:
    """The type of every attribute in some shards: bool, int64, float64 or string.

    By what the shards recorded of the json. Where one recorded nothing (version 0.1) by the values: the attributes of
    all rows are read, until none can be anything but text. IntegrityError when a file is missing or damaged.
    """
    records = list(records)
    recorded = recorded_types(records, spec)
    if recorded is not None:
        return recorded
    types = {name: TextType() for name in spec.attributes}

    def read(record: CommitRecord) -> pa.ChunkedArray:
        with open_table(directory, record.projections) as file:
            return file.read(["attributes"], stored_types(spec))["attributes"]

    left = iter(records if types else ())
    with ThreadPoolExecutor(_THREADS) as pool:
        while window := list(itertools.islice(left, _WINDOW)):
            for column in pool.map(read, window):
                for name, kind in types.items():
                    kind.add(pc.struct_field(column, name))
            if all(kind.is_text for kind in types.values()):
                break
    return {name: kind.arrow for name, kind in types.items()}


def recorded_types(records: Iterable[CommitRecord], spec: TableSpec) -> dict[str, pa.DataType] | None:
    """The types of all attributes by what the shards recorded of the json; None when one recorded nothing.

    Text that looks like a number stays text; a column of several kinds is text, but for integers among numbers. Lists
    of texts are stored as json, and are lists where no row has anything else.
    """
    kinds: dict[str, set[str]] = {name: set() for name in spec.attributes}
    for record in records:
        if record.attribute_kinds is None:
            return None
        for name, values in record.attribute_kinds.items():
            kinds.setdefault(name, set()).update(values)
    return {name: type_of_kinds(kinds[name]) for name in spec.attributes}


def type_of_kinds(kinds: set[str]) -> pa.DataType:
    """bool, int64, float64, string or lists of strings: the type of a column by the kinds of its values in json.

    kinds: of `integer`, `long` (beyond 2^53), `number`, `boolean`, `text` and `texts`, as `shards.fields` tells them.
    """
    if kinds == {"boolean"}:
        return pa.bool_()
    if kinds == {"texts"}:
        return TEXTS
    if kinds and kinds <= {"integer", "long"}:
        return pa.int64()
    # integers beyond 2^53 are not exact as float64, so among fractions they are told apart as texts only
    return pa.float64() if kinds and kinds <= {"integer", "number"} else pa.string()


def typed_by_values(records: Iterable[CommitRecord], spec: TableSpec) -> bool:
    """Whether attributes get their types by their values, because a shard of version 0.1 recorded none."""
    return bool(spec.attributes) and recorded_types(records, spec) is None


def column_type(kind: pa.DataType) -> ColumnType:
    """The word for an Arrow type of a plain column."""
    if pa.types.is_list(kind):
        return "list of texts" if pa.types.is_string(kind.value_type) else "list of numbers"
    if pa.types.is_boolean(kind):
        return "boolean"
    return "text" if pa.types.is_string(kind) else "number"


def with_type(column: Any, kind: pa.DataType) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A column of texts, (n,), as another type: numbers and booleans as JSON spells them, lists of texts as its arrays.

    A column that has the type already is returned as it is. Raises ArrowInvalid for a text that cannot be converted.
    """
    if column.type == kind:
        return column
    if not pa.types.is_list(kind):
        return pc.cast(column, kind)
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([with_type(piece, kind) for piece in column.chunks], kind)
    encoded = column.dictionary_encode()
    try:
        lists = [json.loads(text) for text in encoded.dictionary.to_pylist()]
    except ValueError as error:
        raise pa.ArrowInvalid(f"a list of texts cannot be read: {error}") from None
    return pa.array(lists, kind).take(encoded.indices)


def with_types(column: Any, types: Mapping[str, pa.DataType]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A struct column, (n,), with its fields of other types; a row without a struct has nulls.

    Raises ArrowInvalid when a value cannot have its field's type.
    """
    pieces = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    fields = [pa.field(name, kind) for name, kind in types.items()]
    typed = [
        pa.StructArray.from_arrays(
            [with_type(pc.struct_field(piece, name), kind) for name, kind in types.items()],
            fields=fields,
            mask=pc.is_null(piece),
        )
        for piece in pieces
    ]
    return pa.chunked_array(typed, pa.struct(fields)) if isinstance(column, pa.ChunkedArray) else typed[0]
