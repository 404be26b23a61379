"""What a user sees of indexes and queries: progress and cards on stderr, results as a table on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from clipaudit.retrieval.build import BuildTask, Progress
    from clipaudit.retrieval.card import IndexCard
    from clipaudit.retrieval.duplicates import Duplicates
    from clipaudit.retrieval.retriever import Answer

_STAGES = {"sample": "drawing a sample", "train": "learning lists", "add": "adding vectors", "compare": "comparing"}


class IndexReporter:
    """Shows indexes as they are built; a context manager, so that the bar never outlives the job."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._done = 0
        self._bars = rich.progress.Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=self._console, transient=True
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def build(self, task: BuildTask, threads: int, builders: int) -> IndexCard:
        """`retrieval.build.build_shared` in this process, each stage shown."""
        from clipaudit.retrieval.build import build_shared

        return build_shared(task, threads, builders, self.stage(task.name))

    def stage(self, name: str) -> Progress:
        """Shows the stages of one index's work in the bar."""
        for bar in self._bars.task_ids:
            self._bars.remove_task(bar)
        bar = self._bars.add_task("", total=1.0)

        def show(stage: str, share: float) -> None:
            self._bars.update(bar, description=f"{name}: {_STAGES[stage]}", completed=share)

        return show

    def done(self, card: IndexCard, total: int) -> None:
        """An index is in place."""
        self._done += 1
        if not self._quiet:
            self._console.print(f"[dim]{self._done}/{total}[/dim] {escape(describe(card))}", soft_wrap=True)

    def finish(self, cards: Sequence[IndexCard], run: str) -> None:
        """All of them are."""
        if self._quiet:
            return
        if not cards:
            self._console.print("nothing to do: every index covers the whole run")
            return
        size = sum(file.bytes for card in cards for file in card.files.values())
        worst = min(cards, key=lambda card: card.recall_at_10)
        self._console.print(
            f"{len(cards)} {'index' if len(cards) == 1 else 'indexes'} of {cards[0].rows:,} images in"
            f" {escape(run)}/indexes, {size / 1e6:,.1f} MB; lowest recall@10 {worst.recall_at_10:.3f} ({worst.name})",
            soft_wrap=True,
        )


def describe(card: IndexCard) -> str:
    """A card in one line."""
    kind = card.kind.name + (f" of {card.kind.lists:,} lists" if card.kind.lists else "")
    return (
        f"{card.name}: {kind}, {card.metric}, {card.rows:,} x {card.dim}, {card.bytes_per_vector:.0f} bytes a vector,"
        f" recall@10 {card.recall_at_10:.3f}, {card.latency_ms_p50:.2f} ms, built in {card.build_seconds:.1f} s"
    )


def print_answer(title: str, answer: Answer) -> None:
    """One list of results; notes go to stderr."""
    console = Console(highlight=False)
    console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    longest = max((len(hit.row.key) + len(f"{hit.row.shard_id}/") for hit in answer.hits), default=0)
    table.add_column("", justify="right", style="dim")
    table.add_column("score", justify="right")
    table.add_column("sample", overflow="fold", min_width=min(longest, 40))
    labelled = any(hit.row.label is not None for hit in answer.hits)
    names = list(dict.fromkeys(name for hit in answer.hits for name in hit.row.attributes))
    if labelled:
        table.add_column("label", overflow="fold")
    for name in names:
        table.add_column(escape(name), overflow="fold")
    for hit in answer.hits:
        cells = [str(hit.rank), f"{hit.score:.4g}", escape(f"{hit.row.shard_id}/{hit.row.key}")]
        cells += [escape(str(hit.row.label))] * labelled
        cells += [escape(hit.row.attributes.get(name) or "") for name in names]
        table.add_row(*cells)
    if not console.is_terminal:  # whatever reads it wants one line a hit
        wide = console.options.update(width=10_000)
        console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
    errors = Console(stderr=True, highlight=False)
    for note in answer.notes:
        errors.print(f"[yellow]note[/yellow] {escape(note)}", soft_wrap=True)


def print_duplicates(found: Duplicates) -> None:
    """What near-duplicates there are."""
    console = Console(highlight=False)
    grid = Table.grid(padding=(0, 2))
    compared = " and ".join(f"{images:,}" for images in found.images)
    grid.add_row("[dim]compared[/dim]", f"{compared} images, cosine >= {found.similarity:g}, {found.bits} bits at most")
    shares = [
        f"{members:,} ({100 * members / max(images, 1):.2f} %)"
        for members, images in zip(found.members, found.images, strict=True)
    ]
    if len(found.runs) == 1:
        grid.add_row(
            "[dim]clusters[/dim]", f"{found.clusters:,}, with {shares[0]} images; the largest has {found.largest:,}"
        )
    else:
        text = f"{shares[1]} images of {found.runs[1]} are in {found.runs[0]} too, as {found.members[0]:,} images there"
        grid.add_row("[dim]shared[/dim]", escape(text))
    grid.add_row("[dim]labels[/dim]", f"differ in {found.labels_differ:,} clusters")
    for row in found.examples[:4]:
        pair = (
            f"{row['shard_id']}/{row['key']} and {row['copy_shard_id']}/{row['copy_key']}, cosine {row['cosine']:.3f}"
        )
        grid.add_row("[dim]such as[/dim]", escape(pair))
    grid.add_row("[dim]table[/dim]", escape(found.table))
    console.print(grid)
