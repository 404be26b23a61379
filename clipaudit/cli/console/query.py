"""What `query` prints: one list of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from clipaudit.cli.console.format import new_table
from clipaudit.cli.terminal import note, plain, results
from clipaudit.run.row import label_text

if TYPE_CHECKING:
    from clipaudit.retrieval.retriever import Answer


_CAPTION: Final = 80
"""Characters of a caption that are shown in a terminal."""


def print_answer(title: str, answer: Answer) -> None:
    """Print one list of results as a table on stdout; its notes go to stderr."""
    console = results()
    console.print(f"[bold]{plain(title)}[/bold]", soft_wrap=True)
    table = new_table(("", True), ("score", True))
    longest = max((len(hit.row.key) + len(f"{hit.row.shard_id}/") for hit in answer.hits), default=0)
    table.add_column("sample", overflow="fold", min_width=min(longest, 40))
    labelled = any(hit.row.label is not None for hit in answer.hits)
    named = any(hit.row.class_name is not None for hit in answer.hits)
    captioned = any(hit.row.caption is not None for hit in answer.hits)
    longest_caption = _CAPTION if console.is_terminal else None
    names = list(dict.fromkeys(name for hit in answer.hits for name in hit.row.attributes))
    if labelled:
        table.add_column("label", overflow="fold")
    if named:
        table.add_column("class", overflow="fold")
    for name in names:
        table.add_column(plain(name), overflow="fold")
    if captioned:
        table.add_column("caption", overflow="fold")
    for hit in answer.hits:
        cells = [str(hit.rank), f"{hit.score:.4g}", plain(f"{hit.row.shard_id}/{hit.row.key}")]
        cells += [plain(label_text(hit.row.label))] * labelled
        cells += [plain(hit.row.class_name or "")] * named
        cells += [plain(hit.row.attributes.get(name) or "") for name in names]
        cells += [plain(" ".join((hit.row.caption or "").split())[:longest_caption])] * captioned
        table.add_row(*cells)
    console.print(table)
    for sentence in answer.notes:
        note(sentence)
