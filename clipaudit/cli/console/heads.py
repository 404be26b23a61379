"""What `heads` prints: heads in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rich.table import Table

from clipaudit.cli.console.format import new_table, percent
from clipaudit.cli.terminal import plain, results

if TYPE_CHECKING:
    from clipaudit.heads.description import Description, HeadWords

_SHARED_TEXTS: Final = 5  # texts of several heads that are listed, each with so many heads:
_SHARED_HEADS: Final = 8


def print_heads(description: Description, top: int) -> None:
    """Print a table of heads on stdout, those with the largest share first, each with its first `top` texts.

    Beneath it the texts that several heads share.
    """
    console = results()
    columns = [("head", False), ("share", True), ("role", False), ("text", False), ("explains", True), ("sum", True)]
    table = new_table(*columns, *([("again", True)] if description.config.stability else []))
    for words in sorted(description.heads, key=lambda words: -words.share):
        _add_head(table, description, words, top)
    console.print(table)
    for sentence in _legend(description):
        console.print(f"[dim]{plain(sentence)}[/dim]", soft_wrap=True)
    for text, heads in list(description.shared.items())[:_SHARED_TEXTS]:
        names = ", ".join(heads[:_SHARED_HEADS]) + (", ..." if len(heads) > _SHARED_HEADS else "")
        console.print(
            f"[dim]in {len(heads)} heads[/dim] {plain(description.pool.texts[text])} [dim]{names}[/dim]",
            soft_wrap=True,
        )
    if description.texts_remark:
        console.print(f"[yellow]note[/yellow] {plain(description.texts_remark)}", soft_wrap=True)
    if description.roles_missing and description.config.roles:
        console.print(f"[yellow]note[/yellow] {plain(description.roles_missing)}", soft_wrap=True)
    console.print(
        f"[dim]{description.rows:,} rows{plain(description.config.rows.described)};"
        f" {plain(description.pool.summary)}[/dim]",
        soft_wrap=True,
    )


def _add_head(table: Table, description: Description, words: HeadWords, top: int) -> None:
    """A row for each of the head's first `top` texts; name, share and role stand in the first one."""
    span = words.span
    head_cells = [words.head, f"{100 * words.share:.1f} %", _role(words)]
    if not len(span):
        table.add_row(*head_cells, "[dim]no text spans it[/dim]", "", "")
    for rank in range(min(top, len(span))):
        text = int(span.texts[rank])
        others = len(description.shared.get(text, ())) - 1
        mark = f" [dim](+{others})[/dim]" if others > 0 else ""
        cells = [f"{plain(description.pool.texts[text])}{mark}", percent(span.explained[rank])]
        cells.append(percent(span.cumulative[rank]))
        if words.stability is not None:
            # Stability is known of the first `stability.top` texts only.
            cells.append(percent(words.stability.frequency[text], 0) if rank < words.stability.top else "")
        table.add_row(*(head_cells if rank == 0 else ["", "", ""]), *cells)


def _role(words: HeadWords) -> str:
    if words.role is None:
        return ""
    if words.role.label is None:
        kind = f", {plain(words.role.kind)}" if words.role.kind else ""
        return f"[dim]no clear role{kind}[/dim]"
    return f"{plain(words.role.label)} [dim]{percent(words.role.confidence, 0)}[/dim]"


def _legend(description: Description) -> Iterator[str]:
    yield "share: of the embedding's variance; shares overlap. explains: of the head's variance, sum: with those above"
    if description.shared:
        yield "(+n): as many other heads have the text too"
    if any(words.role is not None for words in description.heads):
        yield "role: the property that spans most of the head, and how often it comes first when texts are drawn again"
    if description.config.stability:
        yield "again: how often the text is chosen when shards are drawn again"
