"""Near-duplicates within a run and between two: alike in the whole embedding and in the perceptual hash, streamed."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipaudit.arrays import Bools, Float32s, Ints
from clipaudit.errors import IntegrityError, RunMismatch, UsageError
from clipaudit.retrieval.build import BuildTask, Progress, construct, prepared
from clipaudit.retrieval.card import EMBEDDING, Space
from clipaudit.retrieval.duplicate_links import Links, compared_shards, known_links, known_shards
from clipaudit.retrieval.plan import threads_here
from clipaudit.retrieval.rowmap import RowMap, segment_of, segments_for
from clipaudit.retrieval.vector_index import VectorIndex, threads
from clipaudit.run.derived import publish, require_writable
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.storage.directory import Storage

FOLDER: Final = "duplicates"
TABLE: Final = "duplicates.parquet"
SUMMARY: Final = "summary.json"
_NEIGHBOURS: Final = 16
"""Compared with each image; larger clusters are joined through their members."""
_SLACK: Final = 1e-3
"""float16 storage rounds cosines by about this."""


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """What counts as a near-duplicate."""

    similarity: float = 0.95
    """Least cosine of two whole embeddings."""
    bits: int = 10
    """Most bits of 64 in which two perceptual hashes may differ; unrelated images differ in about 32."""
    memory: int | None = None
    """Bytes that the process may have resident; None for half of the machine's."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.similarity <= 1:
            raise UsageError(f"--similarity must be above 0 and at most 1, not {self.similarity:g}")
        if not 0 <= self.bits <= 64:
            raise UsageError(f"--bits must lie in 0..64, not {self.bits}")


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Counts of near-duplicates; `table` names the file with every image of a cluster."""

    runs: tuple[str, ...]
    similarity: float
    """Least cosine, as asked for."""
    bits: int
    """Most differing bits of the perceptual hashes, as asked for."""
    images: tuple[int, ...]
    """Compared, by run."""
    clusters: int
    members: tuple[int, ...]
    """Images in clusters, by run."""
    largest: int
    """Images of the largest cluster."""
    labels_differ: int
    """Clusters whose images have different labels."""
    recall_at_10: float
    """Of the index that named candidates; an exact one has 1."""
    table: str = ""
    examples: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    """The first image of each of the largest clusters, with the copy that is nearest to it."""


def find_duplicates(
    run: Run,
    other: Run | None,
    config: DuplicatesConfig,
    progress: Progress = lambda stage, share: None,
    out: str | None = None,
    *,
    update: bool = False,
) -> Duplicates:
    """Clusters of near-duplicates of one run; with `other`, of images of `other` and those of `run` that they copy.

    Written to `RUN/duplicates/within/` or `RUN/duplicates/with-NAME/`, or into the directory `out`, as
    `duplicates.parquet`, and nothing else in either run: one row an image, with `cluster`, `run` (0 or 1), `shard_id`,
    `index`, `key`, `label`, its nearest copy, and `keep`, true for one image of each cluster. RunMismatch when the two
    runs are of different models, UsageError when a run has no ok image, nothing can be written, or the index of the
    embeddings does not fit into the memory.

    With `update` the images of shards that were committed since the table was written, the run's own or that in `out`,
    are compared with all, and the others are not compared again. UsageError when there is no table to add to.
    """
    if other is not None and other.manifest.model["fingerprint"] != run.manifest.model["fingerprint"]:
        raise RunMismatch(
            f"{run.directory.url} and {other.directory.url} are of different models: embeddings cannot be compared"
        )
    target = run.directory if out is None else RunDirectory(out)
    require_writable(target, _directory(other) if out is None else "")
    earlier = _earlier(run, other, config, out) if update else None
    known = set() if earlier is None else earlier[0]
    with tempfile.TemporaryDirectory(prefix="clipaudit-") as scratch, threads(threads_here()):
        # row segments are shared by indexes; here they are needed once, and a run may be read-only
        place = RunDirectory(f"{scratch}/rows")
        segments = segments_for(run, (), place)
        rows = RowMap(run, segments, verify=False, place=place)
        asked = rows if other is None else RowMap(other, segments_for(other, (), place), verify=False, place=place)
        task = BuildTask(
            run=run.url,
            name=EMBEDDING,
            metric="raw",
            segments=segments,
            memory=config.memory,
            threads=threads_here(),
            seed=config.seed,
        )
        space = Space("raw", np.zeros(run.spec.embed_dim))
        vectors = Path(scratch, "index")
        vectors.mkdir()
        made = construct(run, task, list(rows.shards), space, vectors, progress)
        index, effort, recall = made.opened(vectors)
        shards = [shard for shard in asked.shards if shard not in known]
        numbers = np.flatnonzero(np.isin(asked.table["shard_id"].to_numpy(), shards))
        stream = prepared(other or run, EMBEDDING, shards, space)
        best = _links(index, effort, stream, rows, asked, config, other is None, numbers, progress)
        if earlier is not None:
            best = Links.joined([known_links(earlier[1], rows), best])
        table = _table(rows, asked, best, within=other is None)
        result = _summary(run, other, rows, asked, table, config, recall)
    return _publish(run, other, result, table, out)


def read_table(path: str) -> pa.Table:
    """The table at `Duplicates.table`, a path or URL."""
    directory, _, name = path.rpartition("/")
    with Storage(directory).open(name) as file:
        return pq.read_table(file)


def read_clusters(run: Run, other: Run | None = None) -> pa.Table | None:
    """The table that `find_duplicates` wrote last, for the same one or two runs; rows sorted by cluster.

    None when there is none, or it was made of other rows than the runs hold now. IntegrityError when it is damaged.
    """
    storage, directory = run.directory.storage, run.folder(_directory(other))
    try:
        summary = json.loads(storage.read(f"{directory}/{SUMMARY}"))
        if summary["contents"] != _contents(run, other):
            return None
        with storage.open(f"{directory}/{TABLE}") as file:
            return pq.read_table(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:  # pyarrow's are ValueErrors
        raise IntegrityError(
            f"{storage.full(directory)} is damaged: run `clipaudit duplicates {run.url}` again"
        ) from error


def _earlier(run: Run, other: Run | None, config: DuplicatesConfig, out: str | None) -> tuple[set[int], pa.Table]:
    """The shards that an earlier table compared, and it: the run's own, or that in the directory `out`.

    UsageError when nothing can be added to it.
    """
    if other is not None:
        raise UsageError("--update adds to the duplicates within one run: leave out the other run, or --update")
    storage = Storage(f"{run.directory.url}/{run.folder(_directory(None))}" if out is None else out)
    try:
        summary = json.loads(storage.read(SUMMARY))
        with storage.open(TABLE) as file:
            table = pq.read_table(file)
    except (FileNotFoundError, NotADirectoryError):
        where = f"the run at {run.url} has" if out is None else f"{out} has"
        raise UsageError(f"{where} no duplicates to update: leave out --update") from None
    except ValueError as error:
        raise IntegrityError(f"{storage.url} is damaged: leave out --update") from error
    return known_shards(run, summary, config.similarity, config.bits), table


def _contents(run: Run, other: Run | None) -> list[str]:
    """What the compared runs hold, for `summary.json`."""
    runs = [run] if other is None else [run, other]
    return [segment_of(each, list(each.records.values()))[0] for each in runs]


def _directory(other: Run | None) -> str:
    if other is None:
        return f"{FOLDER}/within"
    name = re.sub(r"[^\w.-]+", "_", other.directory.url.rstrip("/").rsplit("/", 1)[-1])
    return other.folder(f"{FOLDER}/with-{name}")


def _links(
    index: VectorIndex,
    effort: int,
    stream: Iterator[Float32s],
    rows: RowMap,
    asked: RowMap,
    config: DuplicatesConfig,
    within: bool,
    numbers: Ints,
    progress: Progress,
) -> Links:
    """The pairs of asked and indexed rows that are alike by embedding and by perceptual hash.

    `stream` has the embeddings of the asked rows with these `numbers` (m,), in their order.
    """
    hashes, others = _hashes(rows), _hashes(asked)
    pairs: list[tuple[Ints, Ints, Float32s, Ints]] = []
    start = 0
    for batch in stream:
        # within a run one more, because each image is its own nearest
        scores, neighbours = index.search(_unit(batch), min(_NEIGHBOURS + within, len(index)), effort)
        second = np.broadcast_to(numbers[start : start + len(batch), None], neighbours.shape)
        # stored embeddings are unit up to rounding, so products are cosines
        alike = (neighbours >= 0) & (scores >= config.similarity - _SLACK)
        if within:
            alike &= neighbours != second
        first, second, cosine = neighbours[alike], second[alike], scores[alike]
        distance = _distance(hashes, first, others, second)
        near = distance <= config.bits
        pairs.append((first[near], second[near], cosine[near], distance[near]))
        start += len(batch)
        progress("compare", start / max(len(numbers), 1))
    columns = [np.concatenate(parts) for parts in zip(*pairs, strict=True)] if pairs else [np.empty(0, np.int64)] * 4
    return Links(*columns)


def _unit(vectors: Float32s) -> Float32s:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Float32s = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


Hashes: TypeAlias = tuple[npt.NDArray[np.uint64], Bools]
"""(n,) perceptual hashes of 64 bits, and (n,) which rows have one."""


def _hashes(rows: RowMap) -> Hashes:
    column = rows.table["phash"].combine_chunks()
    values = np.asarray(column.fill_null(0).to_numpy(), np.int64).view(np.uint64)
    return values, np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)


def _distance(hashes: Hashes, first: Ints, others: Hashes, second: Ints) -> Ints:
    """(m,) bits in which the hashes of pairs differ; 65 where one image has none."""
    bits = np.bitwise_count(hashes[0][first] ^ others[0][second]).astype(np.int64)
    return np.where(hashes[1][first] & others[1][second], bits, 65)


def clusters_of(first: Ints, second: Ints, size: int) -> Ints:
    """(size,) the smallest node of each node's connected component, given the edges (m,) and (m,) of a graph.

    Every round hangs both ends of an edge, and the roots of their trees, below the smaller of the two parents.
    """
    parent = np.arange(size)
    while True:
        low = np.minimum(parent[first], parent[second])
        before = parent.copy()
        np.minimum.at(parent, first, low)
        np.minimum.at(parent, second, low)
        # the roots of both trees too, so that whole trees are joined and few rounds are needed
        np.minimum.at(parent, before[first], low)
        np.minimum.at(parent, before[second], low)
        # pointer jumping: until every node points at its root
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]
        if np.array_equal(parent, before):
            return parent


def _table(rows: RowMap, asked: RowMap, links: Links, *, within: bool) -> pa.Table:
    """Number the clusters: one row an image of one, sorted by cluster."""
    # between two runs the nodes of the second follow those of the first
    offset = 0 if within else len(rows)
    nodes = np.unique(np.concatenate([links.first, links.second + offset]))
    first, second = np.searchsorted(nodes, links.first), np.searchsorted(nodes, links.second + offset)
    roots = clusters_of(first, second, len(nodes))
    _, cluster = np.unique(roots, return_inverse=True)
    nearest, cosine, bits = _nearest(first, second, links, len(nodes))
    side = (nodes >= offset).astype(np.int8) if not within else np.zeros(len(nodes), np.int8)
    facts = _facts(rows, nodes[side == 0])
    if not within:
        facts = _together(facts, _facts(asked, nodes[side == 1] - offset))
    partner = facts.take(pa.array(nearest))
    order = np.lexsort((np.arange(len(nodes)), cluster))
    keep = np.zeros(len(nodes), np.bool_)
    # nodes are in the order of the rows: the first image of each cluster
    keep[np.unique(cluster, return_index=True)[1]] = True
    return pa.table(
        {
            "cluster": cluster.astype(np.int32),
            "run": side,
            **{name: facts[name] for name in facts.column_names},
            "copy_run": side[nearest],
            "copy_shard_id": partner["shard_id"],
            "copy_key": partner["key"],
            "cosine": cosine,
            "bits": bits.astype(np.int16),
            "keep": keep,
        }
    ).take(pa.array(order))


def _nearest(first: Ints, second: Ints, links: Links, size: int) -> tuple[Ints, Float32s, Ints]:
    """For each node its most similar partner, their cosine and bits."""
    source, target = np.concatenate([first, second]), np.concatenate([second, first])
    cosine, bits = np.tile(links.cosine, 2), np.tile(links.bits, 2)
    # by source, then by falling cosine: the first line of each source is its nearest partner
    order = np.lexsort((target, -cosine, source))
    begins = np.unique(source[order], return_index=True)[1]
    chosen = order[begins] if size else order
    return target[chosen], cosine[chosen].astype(np.float32), bits[chosen]


def _facts(rows: RowMap, numbers: Ints) -> pa.Table:
    names = [name for name in ("shard_id", "index", "key", "label") if name in rows.table.column_names]
    return rows.table.select(names).take(pa.array(numbers))


def _together(first: pa.Table, second: pa.Table) -> pa.Table:
    """Both runs' rows; labels of two kinds become texts, and null where a run has none."""
    kinds = [table.schema.field("label").type for table in (first, second) if "label" in table.column_names]
    if not kinds:
        return pa.concat_tables([first, second])
    kind = kinds[0] if len(set(kinds)) == 1 else pa.string()
    parts = []
    for table in (first, second):
        labels = _as_kind(table["label"], kind) if "label" in table.column_names else pa.nulls(len(table), kind)
        parts.append(table.select(["shard_id", "index", "key"]).append_column("label", labels))
    return pa.concat_tables(parts)


def _as_kind(labels: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """(n,) labels as another type; lists as one text each, the same for the same labels in any order."""
    if labels.type == kind or not pa.types.is_list(labels.type):
        return labels.cast(kind)
    texts = [None if each is None else ", ".join(sorted(map(str, each))) for each in labels.to_pylist()]
    return pa.chunked_array([pa.array(texts, kind)])


def _summary(
    run: Run, other: Run | None, rows: RowMap, asked: RowMap, table: pa.Table, config: DuplicatesConfig, recall: float
) -> Duplicates:
    cluster, side = table["cluster"].to_numpy(), table["run"].to_numpy()
    sizes = np.bincount(cluster) if len(cluster) else np.empty(0, np.int64)
    differ = 0
    if "label" in table.column_names:
        labelled = table.filter(table["label"].is_valid())
        texts = _as_kind(labelled["label"], pa.string()).to_numpy(zero_copy_only=False)
        labels = np.unique(texts.astype(str), return_inverse=True)[1]
        # different (cluster, label) pairs: two of one cluster are two labels
        pairs = np.unique(np.stack([labelled["cluster"].to_numpy(), labels]), axis=1)
        differ = int((np.bincount(pairs[0].astype(np.int64)) > 1).sum())
    largest = np.argsort(-sizes, kind="stable")[:5]
    examples = [table.filter(pa.array(cluster == number)).slice(0, 1).to_pylist()[0] for number in largest.tolist()]
    return Duplicates(
        runs=(run.url,) if other is None else (run.url, other.url),
        similarity=config.similarity,
        bits=config.bits,
        images=(len(rows),) if other is None else (len(rows), len(asked)),
        clusters=len(sizes),
        members=tuple(int((side == number).sum()) for number in range(1 if other is None else 2)),
        largest=int(sizes.max(initial=0)),
        labels_differ=differ,
        recall_at_10=recall,
        examples=tuple(examples),
    )


def _publish(run: Run, other: Run | None, result: Duplicates, table: pa.Table, out: str | None) -> Duplicates:
    directory = _directory(other)
    summary = {**asdict(result), "contents": _contents(run, other), "shards": compared_shards(run)}
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    files = {TABLE: sink.getvalue().to_pybytes(), SUMMARY: json.dumps(summary, indent=1, default=str)}
    publish(run, directory, files, out)
    place = f"{Storage(out).full()}" if out is not None else run.directory.storage.full(run.folder(directory))
    return replace(result, table=f"{place}/{TABLE}")
