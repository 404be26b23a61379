"""One index from one column of a run: sample, train, stream the rows in, measure, publish; or extend by new shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Float32s, Ints
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.retrieval.card import (
    CARD,
    DEFAULT_METRIC,
    EMBEDDING,
    FOLDER,
    IndexCard,
    Metric,
    Space,
    check_covers,
    read_card,
)
from clipaudit.retrieval.kinds import choose_kind, parse_memory, peak_bytes, resident_bytes, training_rows
from clipaudit.retrieval.rowmap import covered
from clipaudit.retrieval.vector_index import VECTORS, ExactNeighbours, Kind, VectorIndex, threads
from clipaudit.run.checksums import write_sums
from clipaudit.run.derived import LocalFiles, published, stored
from clipaudit.run.directory import RunDirectory
from clipaudit.run.projections import vectors_of
from clipaudit.run.reader import Run

Progress: TypeAlias = Callable[[str, float], None]
"""Called with a stage's name and the share of it that is done, 0..1."""

TARGET_RECALL: Final = 0.985
_K: Final = 10
_QUERIES: Final = 1000
_QUERY_NUMBERS: Final = 130_000_000_000
"""Most queries of the measurement times the numbers of all rows; of larger runs fewer queries are asked."""
_TIMED: Final = 200
_BATCH_ROWS: Final = 16_384


@dataclass(frozen=True, kw_only=True)
class BuildTask:
    """One index to build; small, because it is sent to builders in other processes."""

    run: str
    name: str
    """A head label, or `embedding`."""
    metric: Metric = DEFAULT_METRIC
    kind: str = "auto"
    segments: tuple[str, ...]
    """Row segments that the index will cover."""
    memory: int | None = None
    """Bytes that the process may have resident; None for half of its machine's, shared by `builders`."""
    builders: int = 1
    """Processes that build at the same time."""
    threads: int = 1
    seed: int = 0
    update: bool = False
    """Extend the present index."""
    out: str | None = None
    """Directory whose `indexes/` gets the index; None for the run."""

    @property
    def place(self) -> RunDirectory:
        """The directory whose `indexes/` gets the index."""
        return RunDirectory(self.out or self.run)


def build(task: BuildTask, progress: Progress = lambda stage, share: None) -> IndexCard:
    """Build or extend one index and publish it; an older one is served until then.

    UsageError when `--memory` is too small or there is nothing to index, StorageFull when there is no space left.
    """
    run = Run(task.run)
    with threads(task.threads):
        return _extend(run, task, progress) if task.update else _build(run, task, progress)


def build_shared(
    task: BuildTask, cpus: int, builders: int, progress: Progress = lambda stage, share: None
) -> IndexCard:
    """`build` with `cpus` threads, as one of `builders` processes that share a machine's memory; errors as `build`."""
    return build(replace(task, threads=cpus, builders=builders), progress)


def _build(run: Run, task: BuildTask, progress: Progress) -> IndexCard:
    began = time.perf_counter()
    shards = list(covered(task.place, task.segments))
    space = Space(task.metric, _mean(run, task, shards))
    with published(task.place, f"{FOLDER}/{task.name}") as place:
        made = construct(run, task, shards, space, place, progress)
        card = _card(run, task, made, place, space, began)
        (place / CARD).write_bytes(card.to_json())
        write_sums(place, card.files)  # an index may be large: its files are hashed once
    return card


def _extend(run: Run, task: BuildTask, progress: Progress) -> IndexCard:
    """The present index with the rows of further segments; its mean and its lists stay."""
    began = time.perf_counter()
    card = read_card(task.place, task.name)
    old = covered(task.place, card.segments)
    check_covers(run, card, old, stale=True)
    shards = list(covered(task.place, task.segments))
    # rows are appended: new segments must come after the indexed ones
    if shards[: len(old)] != list(old):
        raise IntegrityError(f"the index of {task.name} was replaced meanwhile: run the update again")
    rows, space = sum(run.records[shard].ok for shard in shards), Space(card.metric, np.array(card.mean))
    if resident_bytes() + int(card.kind.bytes_per_vector(card.dim) * rows) > _allowed(task):
        raise UsageError(f"--memory is too small to extend the index of {task.name} to {rows:,} vectors")
    files = LocalFiles(task.place)
    present = files.directory(card.directory, card.files)
    index = VectorIndex.load(present, card.kind, card.dim, mapped=False)
    _, queries, own = _sample(run, task.name, shards, space, rows, 0, np.random.default_rng(task.seed), progress)
    with published(task.place, card.directory) as place:
        made = Made(index.kind, rows, card.training_rows, ExactNeighbours(queries, min(_K + 1, rows)), queries, own)
        if card.kind.name == "ivf-pq":
            _copy(present / VECTORS, place / VECTORS)
        # recall is measured among all rows, the old ones too
        for batch in prepared(run, task.name, list(old), space):
            made.exact.add(batch)
        _add(index, prepared(run, task.name, shards[len(old) :], space), place, made, progress)
        del index
        extended = _card(run, task, made, place, space, began, card.updates + 1)
        (place / CARD).write_bytes(extended.to_json())
        write_sums(place, extended.files)
    return extended


@dataclass(frozen=True, eq=False)
class Made:
    """An index whose files are written, with what measures it."""

    kind: Kind
    rows: int
    trained: int
    """Rows of the training sample."""
    exact: ExactNeighbours
    """Of the queries, among all rows."""
    queries: Float32s
    """(q, dim), prepared."""
    own: Ints
    """(q,) numbers of the rows that are the queries."""

    def opened(self, place: Path) -> tuple[VectorIndex, int, float]:
        """(index, effort, recall@10) of the index as it is searched: mapped from its files."""
        index = VectorIndex.load(place, self.kind, self.queries.shape[1])
        return index, *index.tune(self.queries, self.exact.finish(self.own), TARGET_RECALL)


def construct(run: Run, task: BuildTask, shards: Sequence[int], space: Space, place: Path, progress: Progress) -> Made:
    """Choose a kind, train, stream the rows of some shards in and write the files into `place`.

    UsageError without ok rows, or when the index does not fit into the memory of the task.
    """
    rows, dim = sum(run.records[shard].ok for shard in shards), run.spec.vectors[task.name]
    if not rows:
        raise UsageError(f"the run at {run.directory.url} has no images to index{run.lost_images()}")
    free = _allowed(task) - resident_bytes()
    kind = choose_kind(task.kind, rows, dim, free)
    trained = training_rows(kind, rows, dim, free)
    rng = np.random.default_rng(task.seed)
    sample, queries, own = _sample(run, task.name, shards, space, rows, trained, rng, progress)
    index = VectorIndex.new(kind, dim, task.seed)
    progress("train", 0.0)
    index.train(sample)
    del sample
    made = Made(kind, rows, trained, ExactNeighbours(queries, min(_K + 1, rows)), queries, own)
    _add(index, prepared(run, task.name, shards, space), place, made, progress)
    return made


def _card(
    run: Run, task: BuildTask, made: Made, place: Path, space: Space, began: float, updates: int = 0
) -> IndexCard:
    """The card of the written index, with its measured recall and latency."""
    files = {path.name: stored(path) for path in sorted(place.iterdir())}
    # measured on the files as they will be served
    index, effort, recall = made.opened(place)
    if len(index) != made.rows:
        raise IntegrityError(f"the index of {task.name} got {len(index)} rows where the commits say {made.rows}")
    median, slow = _latency(index, made.queries, effort)
    return IndexCard(
        name=task.name,
        metric=space.metric,
        kind=made.kind,
        dim=index.dim,
        rows=made.rows,
        mean=tuple(space.mean.tolist()),
        segments=task.segments,
        files=files,
        bytes_per_vector=sum(file.bytes for file in files.values()) / made.rows,
        effort=effort,
        recall_at_10=recall,
        recall_queries=len(made.queries),
        latency_ms_p50=median,
        latency_ms_p95=slow,
        training_rows=made.trained,
        build_seconds=time.perf_counter() - began,
        memory_bytes=_allowed(task),
        peak_bytes=peak_bytes(),
        fingerprint=run.manifest.fingerprint,
        updates=updates,
        faiss=_faiss_version(),
    )


def _allowed(task: BuildTask) -> int:
    return parse_memory(None) // task.builders if task.memory is None else task.memory


# -- rows --------------------------------------------------------------------------------------------------------------


def _mean(run: Run, task: BuildTask, shards: Sequence[int]) -> npt.NDArray[np.float64]:
    if task.metric == "raw":
        return np.zeros(run.spec.vectors[task.name])
    moments = run.moments(shards=shards) if task.name == EMBEDDING else run.moments([task.name], shards=shards)
    return moments.mean(task.name)


def prepared(run: Run, name: str, shards: Sequence[int], space: Space) -> Iterator[Float32s]:
    """The ok rows of a column in order, prepared for the index: (n, dim) float32, a batch at a time."""
    for batch in run.batches([name], _BATCH_ROWS, shards):
        values, valid = vectors_of(batch.column(0))
        yield space.images(values if valid.all() else values[valid])


def _sample(
    run: Run,
    name: str,
    shards: Sequence[int],
    space: Space,
    rows: int,
    trained: int,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[Float32s, Float32s, Ints]:
    """(training sample, queries that are not in it, the queries' row numbers), drawn evenly from all rows.

    The number of rows is known from the commits, so that positions can be drawn first and picked in one pass: every set
    of rows is as likely as with a reservoir, which would draw a number for each row.
    """
    dim = run.spec.vectors[name]
    # exact neighbours cost queries x rows x numbers
    asked = min(_QUERIES, max(50, _QUERY_NUMBERS // (rows * dim)), rows)
    drawn = rng.choice(rows, min(trained + asked, rows), replace=False)
    # where there are too few rows for both, the queries are among those of the training sample
    own, chosen = np.sort(drawn[:asked]), np.sort(drawn[-trained:] if trained else drawn[:0])
    sample, queries = np.empty((len(chosen), dim), np.float32), np.empty((asked, dim), np.float32)
    start = 0
    for batch in prepared(run, name, shards, space):
        end = start + len(batch)
        for places, target in ((chosen, sample), (own, queries)):
            first, last = np.searchsorted(places, (start, end))
            target[first:last] = batch[places[first:last] - start]
        start = end
        progress("sample", end / rows)
    return sample, queries, own


def _add(index: VectorIndex, batches: Iterator[Float32s], place: Path, made: Made, progress: Progress) -> None:
    """Stream rows into an index, and into the file by which `ivf-pq` scores its candidates again; write it."""
    with ExitStack() as stack:
        refine = stack.enter_context((place / VECTORS).open("ab")) if index.kind.name == "ivf-pq" else None
        for batch in batches:
            index.add(batch)
            made.exact.add(batch)
            if refine is not None:
                refine.write(batch.astype(np.float16).tobytes())
            progress("add", len(index) / made.rows)
    index.save(place)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        while chunk := old.read(2**22):
            new.write(chunk)


# -- measurements ------------------------------------------------------------------------------------------------------


def _latency(index: VectorIndex, queries: Float32s, effort: int) -> tuple[float, float]:
    """(median, 95th percentile) milliseconds of single queries on one thread."""
    if not len(queries):
        return 0.0, 0.0
    times = []
    with threads(1):
        for number in range(min(2 * _TIMED, max(2 * len(queries), 20))):
            query = queries[number % len(queries)][None]
            before = time.perf_counter()
            index.search(query, min(_K, len(index)), effort)
            times.append(1000 * (time.perf_counter() - before))
    times = times[len(times) // 2 :]  # the first half reads the files into memory
    return float(np.median(times)), float(np.percentile(times, 95))


def _faiss_version() -> str:
    for name in ("faiss-cpu", "faiss-gpu", "faiss"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return ""
