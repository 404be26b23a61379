"""The filter language of every `--where`: `label = 3 and (light < 9 or split in ('train', 'test'))`.

    condition  = factor-and-factor {"or" ...};  factor = {"not"} ("(" condition ")" | comparison)
    comparison = column sign value | column ["not"] "in" "(" value {"," value} ")"
               | column ["not"] "like" value | column "is" ["not"] "null" | column ["not"] "has" value
    sign       = "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">="

Of a column of lists `=`, `has`, `in` and `like` ask whether one of a row's elements is so, `!=` whether none is.

A value is a number, a word, or a text in quotes that are doubled inside it. A column that is no word stands in
backticks. A filter is parsed here and evaluated by Arrow's kernels: nothing is evaluated as Python, and no SQL engine
(whose functions could read files) sees what a user typed.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import UsageError
from clipaudit.run.filter_columns import (
    FilterColumn,
    FilterColumns,
    listed_values,
    number_range,
    value_text,
)
from clipaudit.run.filter_terms import (
    KEYWORDS,
    Filter,
    Has,
    In,
    IsNull,
    Joined,
    Like,
    Not,
    Relation,
    Scalar,
    Sign,
    Term,
    joined,
    quoted,
)
from clipaudit.run.vectors import element_type
from clipaudit.schema import Names, as_names

_MAX_CHARACTERS: Final = 2000
_MAX_DEPTH: Final = 32
_LISTED_VALUES: Final = 8
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
    rf"|(?P<number>{_NUMBER.pattern}(?![\w.-]))"
    r"|(?P<word>\w[\w.-]*)|(?P<name>`[^`]+`)|(?P<sign><=|>=|!=|<>|==|[=<>(),]))"
)
_SIGNS: Final[dict[str, Sign]] = {
    "=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip
_SHORTHAND: Final = re.compile(r"\s*(?P<name>[^\W\d][\w.-]*|`[^`]+`)\s*=(?!=)\s*(?P<value>\S.*?)\s*", re.DOTALL)
_NO_SHORTHAND: Final = re.compile(
    rf"[<>!(),;`]|(?<!\w)['\"]|['\"](?!\w)|\b(?:{'|'.join(sorted(KEYWORDS))})\b", re.IGNORECASE
)
"""What no value of `NAME=VALUE` without quotes may hold: it is meant as more of the language."""


class _SyntaxError(UsageError):
    """A filter that the grammar does not have."""


def parse_filter(where: Names, columns: FilterColumns) -> Filter:
    """One filter, or several that must all hold; UsageError says in one sentence what is wrong.

    A filter that is nothing but `NAME=VALUE` needs no quotes round a text of several words: `place=sea side`. Numbers
    are compared as numbers, texts as texts and booleans in any case; a value of another kind is refused. `label` may be
    compared with the name of a class.
    """
    filters = as_names(where)
    length = sum(map(len, filters))
    if length > _MAX_CHARACTERS:
        raise UsageError(f"the filter has {length} characters, more than {_MAX_CHARACTERS}")
    parsed = [_filter(text, columns) for text in filters]
    wanted: dict[str, Scalar] = {}
    for condition in parsed:
        for name, value in condition.equalities.items():
            if wanted.setdefault(name, value) != value:
                values = f"{value_text(wanted[name])} and {value_text(value)}"
                raise UsageError(f"{name} is asked for twice: {values}; for rows with either: {name} in (..., ...)")
    return Filter(tuple(dict.fromkeys(term for condition in parsed for term in condition.terms)))


def why_empty(condition: Filter, table: pa.Table) -> str | None:
    """The first term that no row of a table satisfies, and what there is: `place = moon: there is land, water`.

    None where each term has rows and only all of them together have none.
    """
    for term in condition.terms:
        if not Filter((term,)).mask(table).any():
            return f"{term.text}: {_instead(term, table)}"
    return None


def is_filter(text: str) -> bool:
    """Whether a text must be a filter, and cannot be the name of a run: it has a sign, or a word such as `in`."""
    return re.search(r"[=<>]|\s(?:in|is|like|not|has)\s", text, re.IGNORECASE) is not None


def equal_to(column: str, value: str) -> str:
    """The filter `column = 'value'`, whatever the value holds."""
    return f"{column} = {quoted(value)}"


def _instead(term: Term, table: pa.Table) -> str:
    """Which values the term's column has; of texts also the nearest."""
    column = term.columns[0]
    values = column.single_values(table)
    if not len(values):
        return f"{column.name} has no value in any row"
    counted = pc.value_counts(values)
    counts = counted.field("counts").to_pylist()
    distinct = counted.field("values").to_pylist()
    if column.kind in ("whole", "number") and len(distinct) > _LISTED_VALUES:
        return f"{column.name} is {number_range(values)}"
    by_count = [distinct[n] for n in sorted(range(len(counts)), key=lambda n: -counts[n])]
    nearest = ""
    asked = term.value if isinstance(term, Relation) else term.values[0] if isinstance(term, Has) else None
    if isinstance(asked, str):
        by_lower = {str(value).lower(): value for value in by_count}
        close = difflib.get_close_matches(asked.lower(), by_lower, n=1, cutoff=0.6)
        nearest = f"; did you mean {by_lower[close[0]]}?" if close else ""
    return f"there is {listed_values(by_count)}{nearest}"


def _filter(text: str, columns: FilterColumns) -> Filter:
    """One filter, split into the terms that must all hold."""
    term = _parse(text, columns)
    return Filter(term.terms if isinstance(term, Joined) and term.word == "and" else (term,))


def _parse(text: str, columns: FilterColumns) -> Term:
    try:
        return _Parser(text, columns).parse()
    except UsageError as error:
        match = _SHORTHAND.fullmatch(text)
        if match is None or _NO_SHORTHAND.search(match["value"]):
            raise
        column = columns.find(match["name"].strip("`"))
        label = columns.label_named(column, match["value"])
        if label is not None:
            return _related(column, "=", label)
        if column.kind != "text" or not isinstance(error, _SyntaxError):
            raise
        return _related(column, "=", match["value"])


class _Parser:
    """Recursive descent: or < and < not < comparison."""

    def __init__(self, text: str, columns: FilterColumns) -> None:
        self._text, self._columns = text, columns
        self._tokens = self._split()
        self._at = 0
        self._depth = 0

    def parse(self) -> Term:
        """The whole text as one term."""
        if not self._tokens:
            raise UsageError("the filter is empty")
        term = self._any()
        if self._at < len(self._tokens):
            raise self._unexpected("and or or")
        return term

    # -- tokens ------------------------------------------------------------------------------------------------------

    def _split(self) -> list[tuple[str, str]]:
        """(kind, text) of each token; keywords are words, for a value may be one."""
        tokens, position, text = [], 0, self._text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _SyntaxError(f"the filter {self._text!r} is not understood at {text[position:].strip()[:20]!r}")
            kind = str(match.lastgroup)
            tokens.append((kind, str(match[kind])))
            position = match.end()
        return tokens

    def _next(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("", "")

    def _take(self, expected: str) -> bool:
        """Go on past a keyword or sign, if it comes next."""
        kind, text = self._next()
        taken = kind in ("word", "sign") and text.lower() == expected
        self._at += taken
        return taken

    def _expect(self, expected: str) -> None:
        if not self._take(expected):
            raise self._unexpected(repr(expected))

    def _unexpected(self, expected: str) -> UsageError:
        kind, text = self._next()
        place = repr(text) if kind else "its end"
        hint = " (texts of several words stand in quotes)" if kind in ("word", "number") else ""
        return _SyntaxError(f"the filter {self._text!r} is not understood: {expected} is expected before {place}{hint}")

    # -- grammar -----------------------------------------------------------------------------------------------------

    def _any(self) -> Term:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UsageError(f"the filter is nested more than {_MAX_DEPTH} deep")
        terms = [self._all()]
        while self._take("or"):
            terms.append(self._all())
        self._depth -= 1
        return joined("or", terms)

    def _all(self) -> Term:
        terms = [self._factor()]
        while self._take("and"):
            terms.append(self._factor())
        return joined("and", terms)

    def _factor(self) -> Term:
        negated = False
        while self._take("not"):
            negated = not negated
        if self._take("("):
            term = self._any()
            self._expect(")")
        else:
            term = self._comparison()
        return Not(term) if negated else term

    def _comparison(self) -> Term:
        column = self._column()
        if self._take("is"):
            negated = self._take("not")
            self._expect("null")
            return Not(IsNull(column)) if negated else IsNull(column)
        negated = self._take("not")
        term: Term | None = None
        if self._take("in"):
            values = self._values(column)
            term = Has(column, values) if column.is_list else In(column, values)
        elif self._take("has"):
            term = self._has(column)
        elif self._take("like"):
            term = self._like(column)
        if term is not None:
            return Not(term) if negated else term
        kind, text = self._next()
        if negated or kind != "sign" or text not in _SIGNS:
            raise self._unexpected("a comparison, such as = water or in (1, 2),")
        self._at += 1
        return self._compared(column, _SIGNS[text])

    def _column(self) -> FilterColumn:
        kind, text = self._next()
        if kind not in ("word", "name") or (kind == "word" and text.lower() in KEYWORDS):
            raise self._unexpected("a column")
        column = self._columns.find(text.strip("`"))
        self._at += 1
        return column

    def _has(self, column: FilterColumn) -> Term:
        if not column.is_list:
            raise UsageError(f"{self._columns.holds(column)}, and has asks lists: write {column.name} = VALUE")
        return Has(column, (self._value(column, "="),))

    def _like(self, column: FilterColumn) -> Term:
        if not pa.types.is_string(element_type(column.stored)):
            raise UsageError(f"{self._columns.holds(column)}, and like compares texts")
        return Like(column, self._token()[1])

    def _values(self, column: FilterColumn) -> tuple[Scalar, ...]:
        self._expect("(")
        values = [self._value(column, "=")]
        while self._take(","):
            values.append(self._value(column, "="))
        self._expect(")")
        return tuple(values)

    def _compared(self, column: FilterColumn, sign: Sign) -> Term:
        if (column.kind == "boolean" or column.is_list) and sign not in ("=", "!="):
            raise UsageError(f"{self._columns.holds(column)}, which {sign} cannot compare")
        return _related(column, sign, self._value(column, sign))

    # -- values ------------------------------------------------------------------------------------------------------

    def _token(self) -> tuple[str, str]:
        """(kind, text) of the next value, without its quotes."""
        kind, text = self._next()
        if kind == "word" and text.lower() == "null":
            raise _SyntaxError(f"the filter {self._text!r} is not understood: write `is null`, or 'null' for the text")
        if kind not in ("text", "number", "word"):
            raise self._unexpected("a value")
        self._at += 1
        return kind, text[1:-1].replace(text[0] * 2, text[0]) if kind == "text" else text

    def _value(self, column: FilterColumn, sign: Sign) -> Scalar:
        """The next value, as the column holds such; UsageError says what it holds."""
        kind, text = self._token()
        value: Scalar | None = None
        if column.kind == "text":
            # 10 < 9 as texts: who writes a number after < means numbers
            value = text if kind != "number" or sign in ("=", "!=") else None
        elif column.kind == "boolean":
            value = {"true": True, "false": False}.get(text.lower())
        else:
            value = _number(text, column, sign)
        if sign in ("=", "!=") and (value is None or column.kind == "text"):
            label = self._columns.label_named(column, text)
            value = value if label is None else label
        if value is None:
            quoted = f"; as a text it is written '{text}'" if column.kind == "text" else ""
            raise UsageError(
                f"the filter's {self._columns.holds(column)}, and {text!r} is no such value{quoted}"
                + self._columns.classes_instead(column, text)
            )
        return value


def _related(column: FilterColumn, sign: Sign, value: Scalar) -> Term:
    """A comparison; of lists = and != ask whether the value is in them."""
    if not column.is_list:
        return Relation(column, sign, value)
    return Has(column, (value,)) if sign == "=" else Not(Has(column, (value,)))


def _number(text: str, column: FilterColumn, sign: Sign) -> int | float | None:
    """The number that a text is, None where it is none, or none that a column of whole numbers can be equal to."""
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text) + 0.0  # -0.0 becomes 0.0
    whole = int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else None
    # whole numbers stay integers where the column has such, for float64 is not exact beyond 2^53
    if whole is not None and pa.types.is_integer(column.element):
        bits = 8 * column.element.byte_width - 1
        return whole if -(2**bits) <= whole < 2**bits else None if column.kind == "whole" else value
    return None if column.kind == "whole" and sign in ("=", "!=") else value
