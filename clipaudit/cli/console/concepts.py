"""What `concepts` prints: groups of images as texts with weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipaudit.cli.console.format import new_table, percent
from clipaudit.cli.terminal import note, plain, results

if TYPE_CHECKING:
    from clipaudit.heads.concepts import Concepts


def print_concepts(result: Concepts, top: int) -> None:
    """Print a table of groups on stdout, the largest first, each with its `top` concepts; beneath it how to read it."""
    console = results()
    compared = len(result.groups) > 1
    columns = [("group", False), ("rows", True), ("concept", False), ("weight", True), ("in", True), ("95 %", True)]
    table = new_table(*columns, *([("elsewhere", True)] if compared else []))
    for group in result.groups:
        for rank, concept in enumerate(group.concepts[:top]):
            low, high = concept.images.interval()
            cells = [plain(group.name), f"{group.rows:,}"] if rank == 0 else ["", ""]
            cells += [plain(concept.text), f"{concept.weight:.3f}", percent(concept.images.value, 0)]
            cells.append(f"[dim]{100 * low:.0f} to {100 * high:.0f}[/dim]")
            table.add_row(*cells, *([] if concept.elsewhere is None else [percent(concept.elsewhere, 0)]))
        if not group.concepts:
            table.add_row(plain(group.name), f"{group.rows:,}", "[dim]none: a lower --penalty gives some[/dim]")
    console.print(table)
    order = "; first what is furthest above the other groups" if compared else ""
    legend = f"weight: mean over the group's images{order}. in: images that have the concept"
    console.print(f"[dim]{legend}[/dim]", soft_wrap=True)
    drawn = sum(group.drawn for group in result.groups)
    console.print(
        f"[dim]{drawn:,} images drawn, {result.concepts:.1f} concepts an image; their sums have a mean cosine of"
        f" {result.cosine:.2f} with the images. What all rows share is taken out[/dim]",
        soft_wrap=True,
    )
    console.print(f"[dim]{plain(result.pool.summary)}[/dim]", soft_wrap=True)
    if result.texts_remark:
        note(result.texts_remark)
