"""What `compare` prints: heads whose means moved, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from clipaudit.heads.comparison import Comparison, HeadDrift
    from clipaudit.heads.drift import Interval


def print_comparison(found: Comparison, top: int, place: str) -> None:
    """A table of heads on stdout, those that moved furthest first; what else is to know beneath."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, right in (("head", False), ("shift", True), ("95 % interval", True), ("q", True), ("spread", True)):
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    table.add_column("towards")
    table.add_column("away from")
    for one in found.heads:
        _add_head(table, found, one, top)
    console.print(table)
    for sentence in _legend():
        console.print(f"[dim]{escape(sentence)}[/dim]", soft_wrap=True)
    moved = sum(one.moved for one in found.heads)
    left_out = f"; {len(found.left_out)} heads that only one run stores are left out" if found.left_out else ""
    console.print(
        f"{moved} of {len(found.heads)} heads moved, {found.rows[0]:,} rows against {found.rows[1]:,}{left_out}"
    )
    console.print(f"[dim]{escape(found.pool.summary)}; written to {escape(place)}[/dim]", soft_wrap=True)


def _add_head(table: Table, found: Comparison, one: HeadDrift, top: int) -> None:
    drift, texts = one.drift, found.pool.texts
    towards = [escape(texts[text]) for text in drift.towards(top).tolist()]
    away = [escape(texts[text]) for text in drift.away(top).tolist()]
    spread = f"x {drift.spread.value:.2f}" if one.spread_q <= 0.05 else f"[dim]x {drift.spread.value:.2f}[/dim]"
    first = [f"{abs(drift.effect.value):.2f}", _interval(drift.effect), f"{one.q:.2g}", spread]
    rows = max(len(towards), len(away), 1)
    for row in range(rows):
        cells = [one.head, *first] if row == 0 else [""] * 5
        cells += [names[row] if row < len(names) else "" for names in (towards, away)]
        table.add_row(*cells, style=None if one.moved else "dim")


def _interval(found: Interval) -> str:
    """Of the size of the shift, whichever way it went."""
    low, high = (found.low, found.high) if found.value >= 0 else (-found.high, -found.low)
    return f"{low:.2f} to {high:.2f}"


def _legend() -> Iterator[str]:
    yield "shift: of the head's mean along the text where it is largest, in standard deviations; intervals hold for all"
    yield "texts at once. q: of the mean's shift (Hotelling's T2, Benjamini-Hochberg over heads); dim: above 0.05"
    yield "spread: total variance relative to the first run's; dim: q above 0.05. Rows count as independent draws"
