"""The cells of one column of a table, collected row by row, and the type that all of them have."""

from __future__ import annotations

import json
from typing import Final, Literal, TypeAlias, cast

import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import UsageError
from clipaudit.run.column_types import TextType, type_of_kinds, with_type
from clipaudit.shards.field_values import BadValue, Json, attribute_value

Kind: TypeAlias = Literal["number", "integer", "boolean", "text", "texts"]

_PIECE: Final = 65_536
_KINDS: Final[dict[str, Kind]] = {"bool": "boolean", "int64": "integer", "double": "number", "string": "text"}
_BOOLEANS: Final = frozenset({"true", "false"})


class ColumnCells:
    """The values of one column, as texts, and what they are.

    Values of JSONL and Parquet keep their kinds. Those of CSV and TSV are texts, and typed by all of them together:
    numbers and booleans (`True` is one, too) as JSON spells them, so that `007` is a text; lists where every cell is a
    JSON array of texts; empty cells are null.
    """

    def __init__(self, name: str, *, typed: bool) -> None:
        """name: of the column, for messages; typed: whether the values have kinds of their own."""
        self._name, self._typed = name, typed
        self._kinds: set[str] = set()
        self._pending: list[str | None] = []
        self._pieces: list[pa.Array] = []

    def add(self, value: object, row: str) -> None:
        """Take in a cell; `row` names it in messages. UsageError for a value that no column can hold."""
        text: str | None = None
        try:
            text, kind = attribute_value(cast(Json, value))
        except BadValue as error:
            raise UsageError(
                f"{self._name} cannot be added: of {row} {error}; a column holds numbers, booleans, texts or lists of"
                " texts: leave it out with --only"
            ) from None
        if text and self._typed:
            self._kinds.add(kind)
        self._pending.append(text or None)
        if len(self._pending) == _PIECE:
            self._flush()

    def kind(self) -> Kind:
        """What the column holds, once all cells are in. UsageError for lists among other values."""
        self._flush()
        kind = type_of_kinds(self._kinds) if self._typed else self._kind_of_texts()
        if pa.types.is_list(kind):
            return "texts"
        if "texts" in self._kinds:
            others = ", ".join(sorted(self._kinds - {"texts"}))
            raise UsageError(
                f"{self._name} cannot be added: it holds lists of texts in some rows and {others} in others"
            )
        return _KINDS[str(kind)]

    def values(self, kind: pa.DataType) -> pa.ChunkedArray:
        """(n,) the cells with the column's type."""
        return with_type(pa.chunked_array(self._pieces, pa.string()), kind)

    def _flush(self) -> None:
        if self._pending:
            self._pieces.append(pa.array(self._pending, pa.string()))
            self._pending = []

    def _kind_of_texts(self) -> pa.DataType:
        texts = pa.chunked_array(self._pieces, pa.string())
        distinct = texts.unique().drop_null()
        if len(distinct) and all(_is_list(text) for text in distinct.to_pylist()):
            return type_of_kinds({"texts"})
        if len(distinct) <= 2 * len(_BOOLEANS) and {text.lower() for text in distinct.to_pylist()} <= _BOOLEANS:
            # data frames write True and False
            self._pieces = [pc.utf8_lower(piece) for piece in self._pieces]
        kind = TextType()
        for piece in self._pieces:
            kind.add(piece)
        return kind.arrow


def _is_list(text: str) -> bool:
    if not (text.startswith("[") and text.endswith("]")):
        return False
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
