"""What `texts check` prints: texts that a model takes for one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipaudit.cli.console.format import count, new_table, percent
from clipaudit.cli.terminal import plain, results
from clipaudit.heads.texts.check import WORDINGS

if TYPE_CHECKING:
    from clipaudit.heads.texts.check import TextCheck


def print_check(check: TextCheck, model: str, top: int) -> None:
    """Print the `top` texts that are not told apart, the properties from the worst, and the counts."""
    console = results()
    if check.confusions:
        table = new_table(("text", False), ("taken for", False), ("wordings", True), ("cosine", True))
        for each in check.confusions[:top]:
            table.add_row(
                plain(each.text), plain(each.taken_for), f"{each.wordings} of {len(WORDINGS)}", f"{each.cosine:.2f}"
            )
        console.print(table)
        if len(check.confusions) > top:
            console.print(f"[dim]and {count(len(check.confusions) - top, 'more text')}: --top, or --json for all[/dim]")
        console.print("[dim]wordings: those nearer to the other text. cosine: relative to what all texts share[/dim]")
    if check.properties:
        table = new_table(("property", False), ("texts", True), ("told apart", True))
        for part in check.properties:
            table.add_row(plain(part.property), f"{part.told_apart.total:,}", percent(part.told_apart.value, 0))
        console.print(table)
    if check.unknown:
        listed = ", ".join(f"“{text}”" for text in check.unknown[:top])
        more = f", and {len(check.unknown) - top:,} more" if len(check.unknown) > top else ""
        console.print(f"like made-up words to the model: {plain(listed)}{more}", soft_wrap=True)
    told = check.told_apart
    console.print(
        f"{plain(model)} tells {told.right:,} of {count(told.total, 'text')} apart ({percent(told.value, 0)});"
        f" {len(check.unknown):,} are like made-up words",
        soft_wrap=True,
    )
    console.print(f"[dim]{plain(check.pool.summary)}[/dim]", soft_wrap=True)
