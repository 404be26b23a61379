"""Numbers and tables as all commands print them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from clipaudit.cli.terminal import plain
from clipaudit.pages.text import one_line


def count(number: int, noun: str) -> str:
    """`1 shard`, `1,234 shards`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def byte_count(number: float) -> str:
    """Bytes in units of 1000, as disks are sold: `12 bytes`, `1.5 KB`, `2.0 GB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def duration(seconds: float) -> str:
    """A time as `2 d 3 h`, `3 h 12 min`, `12 min` or `less than a minute`: an estimate has no more digits."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, minutes_left = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min"


def percent(share: float, digits: int = 1) -> str:
    """A share in 0..1 as `12.3 %`."""
    return f"{100 * share:.{digits}f} %"


def new_table(*columns: tuple[str, bool]) -> Table:
    """A table without lines; columns by their title, and whether they are aligned to the right.

    On a narrow terminal texts are broken and figures are not.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title, right in columns:
        table.add_column(title, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def print_facts(console: Console, facts: Sequence[tuple[str, str]]) -> None:
    """Print named facts in two columns; in a file or a pipe a fact is one line, so that it can be searched for."""
    if console.is_terminal:
        grid = Table.grid(padding=(0, 2))
        for name, text in facts:
            grid.add_row(f"[dim]{plain(name)}[/dim]", plain(text))
        console.print(grid)
        return
    width = max((len(name) for name, _ in facts), default=0)
    for name, text in facts:
        console.print(f"{name:{width}}  {one_line(text)}", soft_wrap=True, markup=False)
