"""Which indexes to build or extend, and building them: one after another here, or by another builder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from clipaudit.errors import UsageError
from clipaudit.retrieval.build import BuildTask, build
from clipaudit.retrieval.card import (
    DEFAULT_METRIC,
    EMBEDDING,
    FOLDER,
    METRICS,
    IndexCard,
    Metric,
    check_columns,
    find_card,
    indexed,
    read_card,
)
from clipaudit.retrieval.kinds import parse_kind
from clipaudit.retrieval.rowmap import remove_unused, segments_for
from clipaudit.run.derived import require_writable
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.schema import as_paths, as_tuples

Builder: TypeAlias = Callable[[Sequence[BuildTask]], Iterator[IndexCard]]
"""Builds tasks, in any order."""

_YOUNG_SECONDS: Final = 6 * 3600.0


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Which indexes of a run, and of what kind."""

    run: str
    heads: tuple[str, ...] | None = None
    """Head labels and `embedding`; None for all that the run stores (with `update`: all that are indexed)."""
    kind: str = "auto"
    metric: Metric = DEFAULT_METRIC
    memory: int | None = None
    """Bytes that one builder may have resident; None for half of its machine's."""
    update: bool = False
    """Add the shards that were committed since, instead of building anew."""
    seed: int = 0
    out: str | None = None
    """Directory whose `indexes/` gets them, for a run that cannot be written to; None for the run."""

    def __post_init__(self) -> None:
        as_tuples(self, "heads")
        as_paths(self, "run", "out")
        if self.metric not in METRICS:
            raise UsageError(f"--metric must be cosine, centred or raw, not {self.metric!r}")
        if self.update and (self.kind, self.metric) != ("auto", DEFAULT_METRIC):
            raise UsageError("--update keeps an index's kind and metric: leave out --kind and --metric, or --update")
        if self.kind != "auto":
            parse_kind(self.kind, 1 << 40, 1 << 20)  # an unknown name is an error before any work


def plan(config: IndexConfig) -> list[BuildTask]:
    """The indexes to build, after writing the row segments that all of them share.

    UsageError when a head is not stored, or there is nothing to extend. With `update` an index that covers the whole
    run is left out.
    """
    run, place = Run(config.run), RunDirectory(config.out or config.run)
    if run.moment is not None:
        raise UsageError(
            f"indexes are of the newest state: leave out @{run.moment.text}; queries of {run.url} leave out later rows"
        )
    if not len(run):
        raise UsageError(f"the run at {run.directory.url} has no images to index{run.lost_images()}")
    names = config.heads
    if names is None:
        names = indexed(place) if config.update else (*run.head_labels, EMBEDDING)
    check_columns(run, names)
    if config.update and not names:
        raise UsageError(f"the run at {run.directory.url} has no index to update: leave out --update")
    require_writable(place, FOLDER)
    tasks, whole = [], None
    for name in dict.fromkeys(names):
        if config.update:
            card = read_card(place, name)
            segments = segments_for(run, card.segments, place)
            if segments == card.segments:
                continue
        else:
            whole = whole or segments_for(run, (), place)
            segments = whole
        tasks.append(
            BuildTask(
                run=config.run,
                name=name,
                metric=config.metric,
                kind=config.kind,
                segments=segments,
                memory=config.memory,
                threads=threads_here(),
                seed=config.seed,
                update=config.update,
                out=config.out,
            )
        )
    return tasks


def threads_here() -> int:
    """Threads that one builder alone on this machine uses."""
    return os.cpu_count() or 1


def build_here(tasks: Sequence[BuildTask]) -> Iterator[IndexCard]:
    """Cards of indexes built one after another in this process, with all its threads; errors as `build`."""
    for task in tasks:
        yield build(task)


def build_indexes(
    config: IndexConfig, builder: Builder = build_here, on_card: Callable[[IndexCard, int], None] | None = None
) -> list[IndexCard]:
    """Build or extend a run's indexes; `on_card(card, total)` after each, which is published by then.

    The errors of `plan` and `build`.
    """
    tasks = plan(config)
    cards = []
    for card in builder(tasks):
        cards.append(card)
        if on_card is not None:
            on_card(card, len(tasks))
    run_dir = RunDirectory(config.out or config.run)
    cards_now = (find_card(run_dir, name) for name in indexed(run_dir))
    used = {segment for card in cards_now if card is not None for segment in card.segments}
    remove_unused(run_dir, used, _YOUNG_SECONDS)
    return sorted(cards, key=lambda card: card.name)
