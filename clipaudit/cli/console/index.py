"""What `index` and `duplicates` print: progress and cards on stderr, near-duplicates on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import rich.progress
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from clipaudit.cli.console.format import print_facts
from clipaudit.cli.terminal import events, is_quiet, plain, results

if TYPE_CHECKING:
    from clipaudit.retrieval.build import BuildTask, Progress
    from clipaudit.retrieval.card import IndexCard
    from clipaudit.retrieval.duplicates import Duplicates

_STAGES = {"sample": "drawing a sample", "train": "learning lists", "add": "adding vectors", "compare": "comparing"}


class IndexReporter:
    """Shows on stderr which indexes are built; `quiet`: nothing. A context manager, whose end removes the bar."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = events()
        self._quiet = quiet or is_quiet()
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
        """`retrieval.build.build_shared`, with its stages in the bar."""
        from clipaudit.retrieval.build import build_shared

        return build_shared(task, threads, builders, self.stage(task.name))

    def stage(self, name: str) -> Progress:
        """Start the bar of one index; returns the function that is told its stages."""
        for bar in self._bars.task_ids:
            self._bars.remove_task(bar)
        bar = self._bars.add_task("", total=1.0)

        def show(stage: str, share: float) -> None:
            self._bars.update(bar, description=f"{name}: {_STAGES[stage]}", completed=share)

        return show

    def done(self, card: IndexCard, total: int) -> None:
        """An index was published, one of `total`."""
        self._done += 1
        if not self._quiet:
            self._console.print(f"[dim]{self._done}/{total}[/dim] {plain(_in_one_line(card))}", soft_wrap=True)

    def finish(self, cards: Sequence[IndexCard], run: str) -> None:
        """All indexes were published: print their number, size and lowest recall."""
        if self._quiet:
            return
        if not cards:
            self._console.print("nothing to do: every index covers the whole run")
            return
        size = sum(file.bytes for card in cards for file in card.files.values())
        worst = min(cards, key=lambda card: card.recall_at_10)
        self._console.print(
            f"{len(cards)} {'index' if len(cards) == 1 else 'indexes'} of {cards[0].rows:,} images in"
            f" {plain(run)}/indexes, {size / 1e6:,.1f} MB; lowest recall@10 {worst.recall_at_10:.3f} ({worst.name})",
            soft_wrap=True,
        )


def _in_one_line(card: IndexCard) -> str:
    """A card in one line: kind, size, recall and times."""
    kind = card.kind.name + (f" of {card.kind.lists:,} lists" if card.kind.lists else "")
    return (
        f"{card.name}: {kind}, {card.metric}, {card.rows:,} x {card.dim}, {card.bytes_per_vector:.0f} bytes a vector,"
        f" recall@10 {card.recall_at_10:.3f}, {card.latency_ms_p50:.2f} ms, built in {card.build_seconds:.1f} s"
    )


def print_duplicates(duplicates: Duplicates) -> None:
    """Print the number of clusters or of shared images on stdout, with a few examples."""
    compared = " and ".join(f"{images:,}" for images in duplicates.images)
    how = f"cosine >= {duplicates.similarity:g}, {duplicates.bits} bits at most"
    facts = [("compared", f"{compared} images, {how}")]
    shares = [
        f"{members:,} ({100 * members / max(images, 1):.2f} %)"
        for members, images in zip(duplicates.members, duplicates.images, strict=True)
    ]
    if len(duplicates.runs) == 1:
        largest = f"the largest has {duplicates.largest:,}"
        facts.append(("clusters", f"{duplicates.clusters:,}, with {shares[0]} images; {largest}"))
    else:
        first, second = duplicates.runs
        text = f"{shares[1]} images of {second} are in {first} too, as {duplicates.members[0]:,} images there"
        facts.append(("shared", text))
    facts.append(("labels", f"differ in {duplicates.labels_differ:,} clusters"))
    for row in duplicates.examples[:4]:
        pair = f"{row['shard_id']}/{row['key']} and {row['copy_shard_id']}/{row['copy_key']}"
        facts.append(("such as", f"{pair}, cosine {row['cosine']:.3f}"))
    facts.append(("table", duplicates.table))
    print_facts(results(), facts)
