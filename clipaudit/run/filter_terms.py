"""A parsed filter: comparisons joined by and, or and not, what they read, and which rows they let through.

Logic has three values as in SQL: a comparison with a missing value is neither true nor false, and such a row is left
out unless another part of the filter decides. Arrow's Kleene kernels compute it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import Bools
from clipaudit.errors import UsageError
from clipaudit.run.filter_columns import FilterColumn, value_text
from clipaudit.run.vectors import rows_with

Scalar: TypeAlias = bool | int | float | str
"""What a column is compared with."""
Rows: TypeAlias = "pa.Table | pa.RecordBatch"
Truth: TypeAlias = "pa.BooleanArray | pa.ChunkedArray"
"""(n,) true, false or null for each row."""
Sign: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]

KEYWORDS: Final = frozenset({"and", "or", "not", "in", "is", "null", "like"})
_KERNELS: Final[dict[Sign, Callable[[Any, Any], Any]]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_WORD: Final = re.compile(r"[^\W\d][\w.-]*")


@dataclass(frozen=True)
class _OnOneColumn:
    column: FilterColumn

    @property
    def columns(self) -> tuple[FilterColumn, ...]:
        """The columns that are read."""
        return (self.column,)


@dataclass(frozen=True)
class Relation(_OnOneColumn):
    """`width >= 200`."""

    sign: Sign
    value: Scalar

    @property
    def text(self) -> str:
        """In the language of filters."""
        return f"{_name(self.column)} {self.sign} {_literal(self.value)}"

    def truth(self, rows: Rows) -> Truth:
        """(n,) for each row."""
        values, compared = _comparable(self.column, rows, [self.value])
        return _KERNELS[self.sign](values, pa.scalar(self.value, compared))


@dataclass(frozen=True)
class In(_OnOneColumn):
    """`label in (1, 3)`."""

    values: tuple[Scalar, ...]

    @property
    def text(self) -> str:
        """In the language of filters."""
        return f"{_name(self.column)} in ({', '.join(map(_literal, self.values))})"

    def truth(self, rows: Rows) -> Truth:
        """(n,) for each row."""
        values, compared = _comparable(self.column, rows, self.values)
        if pa.types.is_floating(compared):
            values = pc.add(values, 0.0)  # -0.0, which is_in tells from 0.0, becomes 0.0
        inside = pc.is_in(values, pa.array(self.values, compared))  # false, not null, for a missing value
        return pc.if_else(pc.is_valid(values), inside, pa.scalar(None, pa.bool_()))


@dataclass(frozen=True)
class Has(_OnOneColumn):
    """`label has dog`; of several values `label in (dog, cat)`: a row's list holds one of them."""

    values: tuple[Scalar, ...]

    @property
    def text(self) -> str:
        """In the language of filters."""
        if len(self.values) == 1:
            return f"{_name(self.column)} has {_literal(self.values[0])}"
        return f"{_name(self.column)} in ({', '.join(map(_literal, self.values))})"

    def truth(self, rows: Rows) -> Truth:
        """(n,) for each row; false for an empty list, null for a missing one."""
        wanted = pa.array(self.values, self.column.element)
        lists = self.column.compared_values(self.column.stored_values(rows))
        return _any_element(lists, lambda elements: pc.is_in(elements, wanted))


@dataclass(frozen=True)
class Like(_OnOneColumn):
    """`key like 'a/%'`: `%` is any text, `_` any one character; of a list one element must be like it."""

    pattern: str

    @property
    def text(self) -> str:
        """In the language of filters."""
        return f"{_name(self.column)} like {quoted(self.pattern)}"

    def truth(self, rows: Rows) -> Truth:
        """(n,) for each row."""
        values = self.column.stored_values(rows)
        if self.column.is_list:
            return _any_element(
                self.column.compared_values(values), lambda elements: pc.match_like(elements, self.pattern)
            )
        return pc.match_like(values, self.pattern)


@dataclass(frozen=True)
class IsNull(_OnOneColumn):
    """`place is null`. A list without elements is a value; of labels it says what null does, that there is none."""

    @property
    def text(self) -> str:
        """In the language of filters."""
        return f"{_name(self.column)} is null"

    def truth(self, rows: Rows) -> Truth:
        """(n,) for each row, never null."""
        values = self.column.stored_values(rows)
        if self.column.is_list and self.column.name == "label":
            return pc.equal(pc.fill_null(pc.list_value_length(values), 0), 0)
        return pc.is_null(values)


@dataclass(frozen=True)
class Not:
    """`not label = 3`, `label not in (1, 3)`."""

    term: Term

    @property
    def columns(self) -> tuple[FilterColumn, ...]:
        """The columns that are read."""
        return self.term.columns

    @property
    def text(self) -> str:
        """In the language of filters."""
        return f"not ({self.term.text})"

    def truth(self, rows: Rows) -> Truth:
        """(n,) for each row."""
        return pc.invert(self.term.truth(rows))


@dataclass(frozen=True)
class Joined:
    """Terms of which all (`and`) or any (`or`) must hold."""

    word: Literal["and", "or"]
    terms: tuple[Term, ...]

    @property
    def columns(self) -> tuple[FilterColumn, ...]:
        """The columns that are read."""
        return tuple(dict.fromkeys(column for term in self.terms for column in term.columns))

    @property
    def text(self) -> str:
        """In the language of filters."""
        parts = [f"({term.text})" if isinstance(term, Joined) else term.text for term in self.terms]
        return f" {self.word} ".join(parts)

    def truth(self, rows: Rows) -> Truth:
        """(n,) for each row."""
        kernel = pc.and_kleene if self.word == "and" else pc.or_kleene
        return functools.reduce(kernel, (term.truth(rows) for term in self.terms))


Term: TypeAlias = Relation | In | Has | Like | IsNull | Not | Joined


@dataclass(frozen=True)
class Filter:
    """Terms that must all hold; without any, every row is let through."""

    terms: tuple[Term, ...]

    @property
    def columns(self) -> tuple[FilterColumn, ...]:
        """The columns that are read, each once."""
        return tuple(dict.fromkeys(column for term in self.terms for column in term.columns))

    @property
    def texts(self) -> tuple[str, ...]:
        """Each term in the language, columns by their full names: the same filter however it was written."""
        return tuple(f"({term.text})" if isinstance(term, Joined) else term.text for term in self.terms)

    @property
    def equalities(self) -> dict[str, Scalar]:
        """Full name of a column -> the only value that the filter lets through; lists may hold others beside one."""
        return {term.column.name: term.value for term in self.terms if isinstance(term, Relation) and term.sign == "="}

    @property
    def only_label(self) -> int | str | None:
        """The label whose rows are exactly those that the filter lets through; None where it is anything else."""
        match self.terms:
            case (Relation(column, "=", value) | Has(column, (value,)),) if column.name == "label":
                return value if isinstance(value, int | str) else None
            case _:
                return None

    def mask(self, rows: Rows) -> Bools:
        """(n,) which rows of a table that has the `columns` are let through; UsageError where Arrow cannot tell."""
        if not self.terms:
            return np.ones(rows.num_rows, np.bool_)
        try:
            truth = functools.reduce(pc.and_kleene, (term.truth(rows) for term in self.terms))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:  # texts that are no longer what they were
            texts = " and ".join(self.texts)
            raise UsageError(f"the filter {texts!r} cannot be used: {str(error).splitlines()[0]}") from error
        return np.asarray(truth.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def joined(word: Literal["and", "or"], terms: Sequence[Term]) -> Term:
    """One term of several; what is joined by the same word already is not nested."""
    flat: list[Term] = []
    for term in terms:
        flat += term.terms if isinstance(term, Joined) and term.word == word else [term]
    return Joined(word, tuple(flat)) if len(flat) > 1 else flat[0]


def _comparable(column: FilterColumn, rows: Rows, given: Sequence[Scalar]) -> tuple[Any, pa.DataType]:
    """The column's values and the type to compare in: whole numbers as float64 where one given value is a fraction."""
    values = column.compared_values(column.stored_values(rows))
    if pa.types.is_integer(column.compared) and any(isinstance(value, float) for value in given):
        # 8.5 lies between two whole numbers: integers are rounded to float64 beyond 2^53 alone
        return pc.cast(values, pa.float64(), safe=False), pa.float64()
    if pa.types.is_floating(column.compared):
        return values, pa.float64()
    return values, column.compared


def _any_element(lists: Any, test: Callable[[Any], Any]) -> Truth:  # noqa: ANN401 - pyarrow has no types
    """(n,) whether some element of each row's list passes; null for a missing list. `test` is given all elements."""
    pieces = lists.chunks if isinstance(lists, pa.ChunkedArray) else [lists]
    truth = [
        pa.array(rows_with(piece, test(pc.list_flatten(piece))), mask=np.asarray(piece.is_null())) for piece in pieces
    ]
    return pa.chunked_array(truth, pa.bool_()) if isinstance(lists, pa.ChunkedArray) else truth[0]


def _name(column: FilterColumn) -> str:
    plain = _WORD.fullmatch(column.name) is not None and column.name.lower() not in KEYWORDS
    return column.name if plain else f"`{column.name}`"


def _literal(value: Scalar) -> str:
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and value.lower() not in KEYWORDS else quoted(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return value_text(value)


def quoted(text: str) -> str:
    """A text as it stands in a filter."""
    return "'" + text.replace("'", "''") + "'"
