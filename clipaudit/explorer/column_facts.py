"""What each column of the wall holds: its kind, its values with their counts or its range, for completion and menus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import UsageError
from clipaudit.explorer.wall import Wall
from clipaudit.explorer.workspace import PREDICTED, RIGHT, Workspace
from clipaudit.run.filter_columns import Kind, value_text

_VALUES: Final = 50
"""Values of a column that are listed, the most frequent ones."""
_CHARACTERS: Final = 200
"""Of a listed value."""


@dataclass(frozen=True, kw_only=True)
class ColumnValue:
    """A value with the rows that have it."""

    value: str
    count: int
    name: str | None = None
    """The class's name, of a label."""


@dataclass(frozen=True, kw_only=True)
class WallColumn:
    """A column as completion and menus need it."""

    name: str
    """As filters name it."""
    short: str
    """Without `attributes.`, where that is enough."""
    kind: Kind
    distinct: int
    missing: int
    """Rows without a value."""
    values: tuple[ColumnValue, ...]
    """The most frequent ones; empty where every row has its own, and for numbers with many values."""
    low: str | None
    """The least of numbers."""
    high: str | None
    page_only: bool
    """Whether only this page knows the column."""


def column_names(wall: Wall, workspace: Workspace) -> list[str]:
    """Full names of the columns that filters may name, the run's first; CLIP's answers where there are labels, whether
    they are computed or not.
    """
    names = computed_columns(wall)
    if workspace.run.spec.label_kind is not None:
        names += [name for name in (PREDICTED, RIGHT) if name not in names]
    return names


def computed_columns(wall: Wall) -> list[str]:
    """Full names of the columns that have values now."""
    names = []
    for field in wall.rows.table.schema:
        inner = [f"{field.name}.{part.name}" for part in field.type] if pa.types.is_struct(field.type) else [field.name]
        names += [name for name in inner if _known(wall, name)]
    return names


def column_facts(wall: Wall, name: str, workspace: Workspace) -> WallColumn:
    """A column's kind, values and range; those of CLIP's answers are not computed before a filter names them."""
    if not _known(wall, name):
        return _not_computed(name)
    return wall.fact(name, lambda: _facts(wall, name, workspace))


def _facts(wall: Wall, name: str, workspace: Workspace) -> WallColumn:
    short = name.removeprefix("attributes.")
    own = name in wall.rows.table.column_names and name not in workspace.run.columns
    column = wall.rows.filter_columns.find(name)
    values = column.compared_values(column.stored_values(wall.rows.table))
    # every row has its own key: to count a million of them takes seconds and tells nothing
    single = column.single_values(wall.rows.table.slice(0, 0) if name == "key" else wall.rows.table)
    counted = pc.value_counts(single.combine_chunks() if isinstance(single, pa.ChunkedArray) else single)
    distinct = len(values) if name == "key" else len(counted)
    numbers = column.kind in ("whole", "number")
    ends = pc.min_max(single) if numbers and distinct else None
    listed: tuple[ColumnValue, ...] = ()
    repeated = distinct < len(values) - values.null_count
    if (repeated and distinct <= _VALUES) or (not numbers and distinct < len(values) / 2):
        listed = _listed(counted, workspace if name == "label" else None)
    return WallColumn(
        name=name,
        short=short,
        kind=column.kind,
        distinct=distinct,
        missing=values.null_count,
        values=listed,
        low=None if ends is None else value_text(ends["min"].as_py()),
        high=None if ends is None else value_text(ends["max"].as_py()),
        page_only=own,
    )


def _known(wall: Wall, name: str) -> bool:
    try:
        wall.rows.filter_columns.find(name)
    except UsageError:
        return False
    return True


def _listed(counted: Any, workspace: Workspace | None) -> tuple[ColumnValue, ...]:  # noqa: ANN401 - pyarrow has no types
    """The most frequent values; with the names of classes where the column is the label."""
    counts, values = counted.field("counts").to_pylist(), counted.field("values").to_pylist()
    names = None if workspace is None else workspace.class_names
    order = sorted(range(len(counts)), key=lambda place: (-counts[place], str(values[place])))
    return tuple(
        ColumnValue(
            value=value_text(values[place])[:_CHARACTERS],
            count=counts[place],
            name=None if names is None else names.name_of(values[place]),
        )
        for place in order[:_VALUES]
    )


def _not_computed(name: str) -> WallColumn:
    boolean = name == RIGHT
    values = tuple(ColumnValue(value=value, count=0) for value in ("false", "true")) if boolean else ()
    return WallColumn(
        name=name,
        short=name,
        kind="boolean" if boolean else "text",
        distinct=0,
        missing=0,
        values=values,
        low=None,
        high=None,
        page_only=True,
    )
