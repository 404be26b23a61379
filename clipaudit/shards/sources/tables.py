"""CSV, TSV, JSONL and Parquet as rows: a dictionary each, one at a time, whatever the table's size."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from clipaudit.errors import UsageError
from clipaudit.storage.text_file import RepeatedKeyError, parse_json

if TYPE_CHECKING:
    import pyarrow.parquet

TEXT_TABLES: Final = (".csv", ".tsv", ".jsonl", ".ndjson")
TABLES: Final = (*TEXT_TABLES, ".parquet")
Row = dict[str, object]
_BATCH_ROWS: Final = 1024
_MAX_CELL: Final = 2**24  # characters; a file that is no table would be one endless cell


@dataclass(frozen=True)
class ImageTable:
    """A table whose columns are known and whose rows are still to be read."""

    path: str
    columns: list[str]
    """Of a JSONL file, those of all of its rows, in the order in which they come."""
    encoding: str

    def rows(self) -> Iterator[Row | str]:
        """Each row; a sentence in place of a row that cannot be read. Raises UsageError when reading cannot go on."""
        suffix = Path(self.path).suffix.lower()
        if suffix == ".parquet":
            yield from map(as_json, parquet_rows(self.path, self.columns, _BATCH_ROWS))
        elif suffix in (".jsonl", ".ndjson"):
            yield from _json_rows(self.path, self.encoding)
        else:
            yield from _csv_rows(self.path, self.encoding, self.columns)


def is_table(name: str) -> bool:
    """Whether a file's name ends as that of a table."""
    return name.lower().endswith(TABLES)


def open_table(path: str, encoding: str) -> ImageTable:
    """A table's columns. Raises UsageError when it cannot be read or has none, or a column is there twice."""
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet":
        columns = list(parquet_file(path).schema_arrow.names)
    elif suffix in (".jsonl", ".ndjson"):
        columns = _json_columns(path, encoding)
    else:
        columns = _csv_header(path, encoding)
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"{path} has the column {repeated!r} twice: rename one")
    return ImageTable(path, columns, encoding)


def parquet_file(path: str) -> pyarrow.parquet.ParquetFile:
    """An open Parquet file. Raises UsageError when it is none."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _open(path: str, encoding: str) -> IO[str]:
    try:
        return Path(path).open(encoding=encoding, newline="")
    except LookupError:
        raise UsageError(f"--encoding {encoding!r} is no encoding that Python knows; such as cp1252") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _lines(file: IO[str], path: str, encoding: str) -> Iterator[str]:
    """The lines of a text table. Raises UsageError naming the line that is not in the encoding."""
    number = 0
    try:
        for line in file:
            number += 1
            if "\0" in line:
                raise UsageError(
                    f"{path}, line {number}: a zero byte; UTF-16 is read by pack and columns add with --encoding utf-16"
                )
            yield line
    except UnicodeError:
        wanted = "UTF-8" if encoding == "utf-8-sig" else encoding
        # Text is decoded ahead of the lines, so that the line is only known about.
        raise UsageError(
            f"{path} is not {wanted} throughout (at or after line {number + 1}): save the file in one encoding; pack"
            " and columns add read others with --encoding, such as cp1252 or utf-16"
        ) from None


def _separator(path: str, header: str) -> str:
    """Tab for .tsv, else the one of comma, semicolon and tab that the first line has most of."""
    return "\t" if path.lower().endswith(".tsv") else max(",;\t", key=header.count)


def _csv_header(path: str, encoding: str) -> list[str]:
    with _open(path, encoding) as file:
        line = next(_lines(file, path, encoding), "")
    columns = next(csv.reader([line], delimiter=_separator(path, line)), [])
    columns = [name.strip() for name in columns]
    if not any(columns):
        raise UsageError(f"{path} has no header: its first line must name the columns, such as path,label")
    # Spreadsheets and data frames write an index or an empty last column without a name.
    return [name or f"column_{position}" for position, name in enumerate(columns)]


def _csv_rows(path: str, encoding: str, columns: list[str]) -> Iterator[Row | str]:
    csv.field_size_limit(_MAX_CELL)
    with _open(path, encoding) as file:
        lines = _lines(file, path, encoding)
        header = next(lines, "")
        # strict: a quote that is never closed would make one cell of all lines behind it
        reader = csv.reader(lines, delimiter=_separator(path, header), strict=True)
        try:
            for cells in reader:
                if len(cells) == len(columns):
                    yield dict(zip(columns, cells, strict=True))
                elif cells:
                    yield f"line {reader.line_num + 1} has {len(cells)} cells, the header {len(columns)}"
        except csv.Error as error:
            raise UsageError(f"{path}, line {reader.line_num + 1}: {error}") from None


def _json_columns(path: str, encoding: str) -> list[str]:
    """The names in all rows, for any row may lack some; UsageError when the first one cannot be read."""
    rows = _json_rows(path, encoding)
    first = next(rows, None)
    if not isinstance(first, dict):
        raise UsageError(f"{path}: {first or 'it has no rows'}")
    columns = dict.fromkeys(first)
    for row in rows:
        if isinstance(row, dict) and not row.keys() <= columns.keys():
            columns |= dict.fromkeys(row)
    return list(columns)


def _json_rows(path: str, encoding: str) -> Iterator[Row | str]:
    with _open(path, encoding) as file:
        for number, line in enumerate(_lines(file, path, encoding), 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except RepeatedKeyError as error:
                yield f"line {number}: {error}"
                continue
            except (ValueError, RecursionError):
                yield f"line {number} is no json"
                continue
            yield as_json(row) if isinstance(row, dict) else f"line {number} is no json object"


def parquet_rows(path: str, columns: list[str] | None, batch_rows: int) -> Iterator[Row]:
    """The rows of a Parquet file as Python values, `batch_rows` in memory. Raises UsageError when it is damaged."""
    import pyarrow

    try:
        for batch in parquet_file(path).iter_batches(batch_size=batch_rows, columns=columns):
            yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path} cannot be read to its end: {str(error).splitlines()[0]}") from error


def as_json(row: Row) -> Row:
    """The row with values that json can hold: dates as ISO text, NaN and infinities as null, bytes left out."""
    return {str(name): _json_value(value) for name, value in row.items() if not isinstance(value, bytes)}


def _json_value(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str() | int() | bool() | None:
            return value
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():
            return float(value) if value.is_finite() else None
        case dict():
            return {str(key): _json_value(item) for key, item in value.items() if not isinstance(item, bytes)}
        case list() | tuple():
            return [_json_value(item) for item in value if not isinstance(item, bytes)]
        case _:
            return str(value)
