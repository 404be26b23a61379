"""What `compare` prints: heads whose means moved, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from clipaudit.cli.console.format import new_table
from clipaudit.cli.terminal import plain, results

if TYPE_CHECKING:
    from clipaudit.heads.comparison import Comparison, HeadDrift
    from clipaudit.heads.drift import Interval


def print_comparison(comparison: Comparison, top: int) -> None:
    """Print a table of heads on stdout, those that moved furthest first, with `top` texts each way.

    Beneath it how many moved.
    """
    console = results()
    figures = [("head", False), ("shift", True), ("95 % interval", True), ("q", True), ("spread", True)]
    table = new_table(*figures, ("towards", False), ("away from", False))
    for head in comparison.heads:
        _add_head(table, comparison, head, top)
    console.print(table)
    for sentence in _legend():
        console.print(f"[dim]{plain(sentence)}[/dim]", soft_wrap=True)
    if comparison.texts_remark:
        console.print(f"[yellow]note[/yellow] {plain(comparison.texts_remark)}", soft_wrap=True)
    moved = sum(head.moved for head in comparison.heads)
    left_out = ""
    if comparison.left_out:
        left_out = f"; {len(comparison.left_out)} heads that only one run stores are left out"
    rows_before, rows_after = comparison.rows
    console.print(
        f"{moved} of {len(comparison.heads)} heads moved, {rows_before:,} rows against {rows_after:,}{left_out}"
    )
    console.print(f"[dim]{plain(comparison.pool.summary)}[/dim]", soft_wrap=True)


def _add_head(table: Table, comparison: Comparison, head: HeadDrift, top: int) -> None:
    """A row for each pair of texts; the figures stand in the first one."""
    drift, texts = head.drift, comparison.pool.texts
    towards = [plain(texts[text]) for text in drift.towards(top).tolist()]
    away = [plain(texts[text]) for text in drift.away(top).tolist()]
    spread = f"x {drift.spread.value:.2f}" if head.spread_q <= 0.05 else f"[dim]x {drift.spread.value:.2f}[/dim]"
    figures = [head.head, f"{abs(drift.effect.value):.2f}", _interval(drift.effect), f"{head.q:.2g}", spread]
    for row in range(max(len(towards), len(away), 1)):
        cells = figures if row == 0 else [""] * len(figures)
        cells = cells + [column[row] if row < len(column) else "" for column in (towards, away)]
        table.add_row(*cells, style=None if head.moved else "dim")


def _interval(effect: Interval) -> str:
    """The interval of the size of the shift, whichever way it went."""
    low, high = (effect.low, effect.high) if effect.value >= 0 else (-effect.high, -effect.low)
    return f"{low:.2f} to {high:.2f}"


def _legend() -> Iterator[str]:
    yield "shift: of the head's mean along the text where it is largest, in standard deviations; intervals hold for all"
    yield "texts at once. q: of the mean's shift (Hotelling's T2, Benjamini-Hochberg over heads); dim: above 0.05"
    yield "spread: total variance relative to the first run's; dim: q above 0.05. Rows count as independent draws"
