"""The columns of a run as people look at them: name, type, values, nulls, and where each comes from; and their end."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import UsageError
from clipaudit.run.column_join import refuse_state
from clipaudit.run.column_types import ColumnType, column_type
from clipaudit.run.columns import COLUMNS, remove_column
from clipaudit.run.derived import require_writable
from clipaudit.run.export_rows import SHARD, ExportRows
from clipaudit.run.export_tables import write_csv, write_json_lines, write_parquet
from clipaudit.run.filter_columns import value_text
from clipaudit.run.reader import RunPlace, opened
from clipaudit.schema import OK, Names, as_names
from clipaudit.storage.faults import folder_aside

_LEFT_OUT: Final = frozenset({"shard_id", "index", "status", "phash", "offset", "scale", "norm", "remainder"})
_COUNTED: Final = 1000
"""Distinct texts of a column that are counted before it only counts as having more."""
_LISTED: Final = 8
_CHARACTERS: Final = 30
_BATCH: Final = 65_536


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """One column of a run."""

    name: str
    type: ColumnType
    values: str
    """Its range, or its most frequent values, in words."""
    rows: int
    """Ok images that have a value."""
    nulls: int
    """Ok images without one."""
    origin: str
    """`job`, `measured while decoding`, or the table that it was joined from, when and by whom."""


def list_columns(run: RunPlace) -> list[ColumnFacts]:
    """The columns that filters and attributes may name, in the order of the table; reads them once, batch by batch.

    RunNotFound when there is no run, IntegrityError when a file is damaged.
    """
    reader = opened(run)
    names = [name for name in reader.flat_columns() if name not in _LEFT_OUT]
    outer = list(dict.fromkeys(["status", *(name.partition(".")[0] for name in names)]))
    values: dict[str, _Values] = {}
    for stored in reader.batches(outer, _BATCH):
        batch = reader.typed(stored.filter(pc.equal(stored["status"], OK)))
        for name in names:
            column, _, inner = name.partition(".")
            array = pc.struct_field(batch[column], inner) if inner else batch[column]
            values.setdefault(name, _Values(array.type)).add(array)
    types = reader.column_types()
    return [
        ColumnFacts(
            name=name,
            type=types[name],
            values=values[name].described if name in values else "",
            rows=values[name].rows if name in values else 0,
            nulls=values[name].nulls if name in values else 0,
            origin=_origin(reader.joined, name),
        )
        for name in names
    ]


def _origin(joined: Mapping[str, Any], name: str) -> str:
    if name.startswith("image."):
        return "measured while decoding"
    record = joined.get(name.removeprefix("attributes."))
    if record is None or not name.startswith("attributes."):
        return "job"
    column = f", column {record.source_column}" * (record.source_column != record.name)
    author = f" by {record.author}" * bool(record.author)
    wrong = (
        ""
        if record.error_rate is None
        else f"; wrong in {100 * record.error_rate:.0f} %, by {record.error_images} images"
    )
    return f"{record.source}{column}, {record.added_at[:10]}{author}{wrong}"


class _Values:
    """What the values of one column are, batch by batch, in bounded memory."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = column_type(kind)
        self.rows = self.nulls = 0
        self._least, self._greatest = np.inf, -np.inf
        self._counts: Counter[str] = Counter()
        self._more = False

    def add(self, column: pa.Array) -> None:
        """Take in values (n,)."""
        known = column.drop_null()
        self.rows, self.nulls = self.rows + len(known), self.nulls + len(column) - len(known)
        if not len(known):
            return
        if self._kind == "number":
            ends = pc.min_max(known)
            self._least = min(self._least, ends["min"].as_py())
            self._greatest = max(self._greatest, ends["max"].as_py())
            return
        counted = pc.value_counts(pc.list_flatten(known) if self._kind.startswith("list") else known)
        for value, count in zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True):
            text = value_text(value)
            if text in self._counts or len(self._counts) < _COUNTED:
                self._counts[text] += count
            else:
                self._more = True

    @property
    def described(self) -> str:
        """`0.1 to 3`, or `land, water`."""
        if self._kind == "number":
            return f"{value_text(_short_number(self._least))} to {value_text(_short_number(self._greatest))}" * bool(
                self.rows
            )
        if self._more or len(self._counts) > _LISTED:
            number = f"more than {_COUNTED:,}" if self._more else f"{len(self._counts):,}"
            return f"{number} values, such as {self._shown(3)}"
        return self._shown(_LISTED)

    def _shown(self, count: int) -> str:
        texts = [text for text, _ in self._counts.most_common(count)]
        return ", ".join(text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}..." for text in texts)


def _short_number(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.5g}")


def drop_columns(run: RunPlace, names: Names) -> list[str]:
    """Remove joined columns; returns their names.

    UsageError, with nothing removed, when one is not there or was not joined, or the run is read-only.
    """
    reader = opened(run)
    refuse_state(reader)
    wanted = [name.removeprefix("attributes.") for name in as_names(names)]
    for name in wanted:
        if name in reader.joined:
            continue
        if name in reader.spec.attributes or name in reader.flat_columns():
            raise UsageError(
                f"{name!r} is a column of the job, which stays as it is: only joined columns can be dropped"
            )
        nearest = difflib.get_close_matches(name, reader.joined, n=1)
        meant = f": did you mean {nearest[0]}?" if nearest else f": there is {', '.join(reader.joined) or 'none'}"
        raise UsageError(f"the run at {reader.directory.url} has no joined column {name!r}{meant}")
    require_writable(reader.directory, COLUMNS)
    for name in dict.fromkeys(wanted):
        remove_column(reader.directory, reader.joined[name])
    return list(dict.fromkeys(wanted))


def export_columns(
    run: RunPlace, out: str | Path, *, only: Names = (), where: Names = (), overwrite: bool = False
) -> int:
    """Write shard, key and the run's columns to one CSV, Parquet or JSONL file, as `add_columns` reads it; the rows.

    only: columns to write; default: all attributes. where: filters. UsageError for another kind of file, a file that
    exists (unless `overwrite`), a column or filter that is not understood, and when no row passes.
    """
    reader, target = opened(run), Path(out)
    if target.suffix.lower() not in _WRITERS:
        raise UsageError(f"{target}: the name must end in {', '.join(list(_WRITERS)[:-1])} or {list(_WRITERS)[-1]}")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists: give another name, or --overwrite")
    names = list(as_names(only)) or [f"attributes.{name}" for name in reader.attributes]
    if not names:
        raise UsageError(f"the run at {reader.directory.url} has no attributes: name columns with --only")
    rows = ExportRows(reader, heads=(), columns=[SHARD, "key", *names], where=where, on_note=lambda note: None)
    with folder_aside(target) as aside:
        write, file = _WRITERS[target.suffix.lower()]
        write(rows, aside, np.dtype(np.float32))
        (aside / file).replace(target)
    return rows.count()


_WRITERS: Final[Mapping[str, tuple[Callable[[ExportRows, Path, np.dtype[Any]], None], str]]] = MappingProxyType(
    {
        ".csv": (write_csv, "table.csv"),
        ".parquet": (write_parquet, "table.parquet"),
        ".jsonl": (write_json_lines, "table.jsonl"),
    }
)
"""Ending -> writer and the name of the file that it writes."""
