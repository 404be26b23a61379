"""What `columns add` and `columns list` print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from clipaudit.cli.console.format import count, new_table
from clipaudit.cli.terminal import plain, results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clipaudit.run.column_join import JoinedTable
    from clipaudit.run.column_list import ColumnFacts

_TYPES: Final = {"integer": "number", "texts": "list of texts"}


def print_joined(joined: JoinedTable, run: str, *, dry_run: bool) -> None:
    """Print what was joined, or would be: a line a column, and how many images the table names."""
    console = results()
    verb = "would add" if dry_run else "added"
    for column in joined.columns:
        kind = _TYPES.get(column.kind, column.kind)
        share = f" ({100 * column.rows / joined.images:.1f} %)" if joined.images else ""
        line = f"{verb} {column.name}: {kind}, {column.rows:,} of {joined.images:,} images have a value{share}"
        console.print(plain(line), soft_wrap=True)
    console.print(
        f"{count(joined.table_rows, 'row')} by {joined.by}: {joined.matched:,} of {count(joined.images, 'image')}"
        " named",
        soft_wrap=True,
    )
    if joined.unknown:
        such = ", ".join(joined.unknown_examples)
        console.print(
            plain(f"{count(joined.unknown, 'row')} left out that name no image, such as {such}"), soft_wrap=True
        )
    used = next((column.name for column in joined.columns if column.rows), None)
    if used is not None and not dry_run:
        console.print(plain(f"use it: clipaudit report {run} --attribute {used}"), soft_wrap=True)


def print_columns(columns: Sequence[ColumnFacts]) -> None:
    """Print a table of columns on stdout."""
    console = results()
    table = new_table(*((title, title == "nulls") for title in ("column", "type", "values", "nulls", "from")))
    for column in columns:
        cells = (column.name, column.type, column.values, f"{column.nulls:,}", column.origin)
        table.add_row(*map(plain, cells))
    console.print(table)
