"""A small language to choose rows: `label = 3 and (place = 'water' or split in ('train', 'test'))`.

It is parsed here and becomes a pyarrow expression over known columns: nothing is evaluated as Python, and no SQL engine
(whose functions could read files) sees what a user typed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from clipaudit.arrays import Bools
from clipaudit.errors import UsageError

_MOST_CHARACTERS: Final = 2000
_MOST_NESTED: Final = 32
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")|(?P<number>[+-]?\d+(?:\.\d+)?(?![\w.]))"
    r"|(?P<word>[^\W\d][\w.-]*|`[^`]+`)|(?P<sign><=|>=|!=|<>|==|[=<>(),]))"
)
_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "is", "null", "like"})
_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "=": pc.Expression.__eq__,
    "==": pc.Expression.__eq__,
    "!=": pc.Expression.__ne__,
    "<>": pc.Expression.__ne__,
    "<": pc.Expression.__lt__,
    "<=": pc.Expression.__le__,
    ">": pc.Expression.__gt__,
    ">=": pc.Expression.__ge__,
}
_HIDDEN: Final = ("offset", "nbytes", "phash")


def parse_filter(text: str, schema: pa.Schema) -> pc.Expression:
    """A filter as an expression over a table's columns; UsageError says in one sentence what is wrong with it.

    Comparisons `= != < <= > >=`, `in (...)`, `like 'a%'`, `is null`, joined by `and`, `or`, `not` and brackets. Names
    are columns (`label`, `key`, `width`) or attributes (`place`, `attributes.place`); odd ones stand in backticks.
    """
    if len(text) > _MOST_CHARACTERS:
        raise UsageError(f"the filter has {len(text)} characters, more than {_MOST_CHARACTERS}")
    return _Parser(text, schema).parse()


def mask(text: str, table: pa.Table) -> Bools:
    """(n,) which rows of a table a filter lets through; UsageError as in `parse_filter`."""
    try:
        expression = parse_filter(text, table.schema)
        found = ds.dataset(table).scanner(columns={"kept": expression}).to_table()["kept"]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OverflowError) as error:
        raise UsageError(f"the filter {text!r} cannot be used on this run: {str(error).splitlines()[0]}") from error
    # a row without the value is neither equal nor unequal to anything, as in SQL
    return np.asarray(found.fill_null(False).to_numpy(), np.bool_)


class _Parser:
    """Recursive descent: or < and < not < comparison."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text, self._columns = text, _columns(schema)
        self._tokens = self._split()
        self._at = 0
        self._depth = 0

    def parse(self) -> pc.Expression:
        if not self._tokens:
            raise UsageError("the filter is empty")
        found = self._or()
        if self._at < len(self._tokens):
            raise self._wrong("and or or")
        return found

    def _split(self) -> list[tuple[str, str]]:
        tokens, position, text = [], 0, self._text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise UsageError(f"the filter {self._text!r} is not understood at {text[position:].strip()[:20]!r}")
            kind, value = str(match.lastgroup), str(match[str(match.lastgroup)])
            if kind == "word" and value.lower() in _KEYWORDS:
                kind, value = "keyword", value.lower()
            tokens.append((kind, value))
            position = match.end()
        return tokens

    def _peek(self, *values: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at] in [
            (kind, value) for value in values for kind in ("keyword", "sign")
        ]

    def _take(self, *values: str) -> bool:
        taken = self._peek(*values)
        self._at += taken
        return taken

    def _expect(self, value: str) -> None:
        if not self._take(value):
            raise self._wrong(repr(value))

    def _wrong(self, expected: str) -> UsageError:
        found = repr(self._tokens[self._at][1]) if self._at < len(self._tokens) else "its end"
        return UsageError(f"the filter {self._text!r} is not understood: {expected} is expected before {found}")

    def _or(self) -> pc.Expression:
        self._depth += 1
        if self._depth > _MOST_NESTED:
            raise UsageError(f"the filter is nested more than {_MOST_NESTED} deep")
        found = self._and()
        while self._take("or"):
            found = found | self._and()
        self._depth -= 1
        return found

    def _and(self) -> pc.Expression:
        found = self._not()
        while self._take("and"):
            found = found & self._not()
        return found

    def _not(self) -> pc.Expression:
        turned = False
        while self._take("not"):
            turned = not turned
        if self._take("("):
            found = self._or()
            self._expect(")")
        else:
            found = self._comparison()
        return ~found if turned else found

    def _comparison(self) -> pc.Expression:
        name, column, kind = self._column()
        if self._take("is"):
            turned = self._take("not")
            self._expect("null")
            return ~column.is_null() if turned else column.is_null()
        turned = self._take("not")
        if self._take("in"):
            found = column.isin(pa.array(self._list(name, kind), kind))
            return (~found & ~column.is_null()) if turned else found
        if self._take("like"):
            if not pa.types.is_string(kind):
                raise UsageError(f"the filter's {name} holds numbers, and like compares texts")
            found = pc.match_like(column, str(self._value(name, kind)))
            return ~found if turned else found
        sign = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if turned or sign[0] != "sign" or sign[1] not in _COMPARE:
            raise self._wrong("a comparison such as = or in")
        self._at += 1
        return _COMPARE[sign[1]](column, pa.scalar(self._value(name, kind), kind))

    def _column(self) -> tuple[str, pc.Expression, pa.DataType]:
        kind, value = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind != "word":
            raise self._wrong("a column")
        name = value.strip("`")
        if name not in self._columns:
            close = difflib.get_close_matches(name, self._columns, n=1, cutoff=0.6)
            known = ", ".join(dict.fromkeys(self._columns))
            raise UsageError(
                f"the filter's column {name!r} is not in the run"
                + (f": did you mean {close[0]}?" if close else f": there is {known}")
            )
        self._at += 1
        path, found = self._columns[name]
        return name, pc.field(*path), found

    def _list(self, name: str, kind: pa.DataType) -> list[Any]:
        self._expect("(")
        values = [self._value(name, kind)]
        while self._take(","):
            values.append(self._value(name, kind))
        self._expect(")")
        return values

    def _value(self, name: str, kind: pa.DataType) -> int | float | str:
        """The next literal, as the column stores such: a number for numbers, a text (or a bare word) for texts."""
        found, value = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if found not in ("text", "number", "word"):
            raise self._wrong("a value")
        self._at += 1
        if found == "text":
            value = value[1:-1].replace(value[0] * 2, value[0])
        if pa.types.is_string(kind):
            return value.strip("`") if found == "word" else value
        if re.fullmatch(r"[+-]?\d{1,18}", value) is None:
            raise UsageError(f"the filter's {name} holds whole numbers, and {value!r} is none")
        return int(value)


def _columns(schema: pa.Schema) -> dict[str, tuple[tuple[str, ...], pa.DataType]]:
    """Name in filters -> (path, type): every plain column, and attributes with and without their prefix."""
    found: dict[str, tuple[tuple[str, ...], pa.DataType]] = {}
    for column in schema:
        if pa.types.is_struct(column.type):
            for part in column.type:
                found[f"{column.name}.{part.name}"] = ((column.name, part.name), part.type)
        elif column.name not in _HIDDEN:
            found[column.name] = ((column.name,), column.type)
    for name, value in list(found.items()):
        found.setdefault(name.rpartition(".")[2] if len(value[0]) > 1 else name, value)
    return found
