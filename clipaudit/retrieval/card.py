"""`indexes/L22H05/card.json`: an index's kind, the rows that it covers, its recall and latency."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal, TypeAlias

import numpy as np
from pydantic import TypeAdapter, ValidationError

from clipaudit.arrays import Float32s, Floats
from clipaudit.errors import IntegrityError, RunMismatch, UsageError
from clipaudit.retrieval.vector_index import Kind
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.records import StoredFile, now

Metric: TypeAlias = Literal["centred", "raw", "cosine"]
METRICS: Final = ("cosine", "centred", "raw")
DEFAULT_METRIC: Final[Metric] = "cosine"
"""Of rows minus their mean. Lengths differ several times within a head and tell little of what it looks at: by products
alone the longest rows are every image's neighbours (`benchmarks/index.py things` has the figures)."""

FOLDER: Final = "indexes"
CARD: Final = "card.json"
ROWS: Final = "_rows"
"""Directory beside the indexes: facts about their rows, in segments that all of them share."""
EMBEDDING: Final = "embedding"
_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class IndexCard:
    """An index's kind, the rows that it covers, its recall and latency."""

    name: str
    """A head label, or `embedding`."""
    metric: Metric
    kind: Kind
    dim: int
    rows: int
    mean: tuple[float, ...] = field(repr=False)
    """Subtracted from every row: the run's mean when the index was first built; zeros for `raw`."""
    segments: tuple[str, ...]
    """Row segments in the order of the rows."""
    files: dict[str, StoredFile]
    bytes_per_vector: float
    """Of the files in the index's directory; the row segments, which all indexes share, are not counted."""
    effort: int
    """Lists that are searched, or candidates of the graph; `recall_at_10` was measured with it."""
    recall_at_10: float
    """Share of the ten true neighbours that were found, over queries that training did not see."""
    recall_queries: int
    latency_ms_p50: float
    """Of one query on one thread, k = 10."""
    latency_ms_p95: float
    training_rows: int
    build_seconds: float
    memory_bytes: int
    """That the build was allowed to have resident."""
    peak_bytes: int
    """The largest resident size of the building process; 0 when unknown."""
    fingerprint: str
    """The run's."""
    updates: int = 0
    """How often rows were added since the lists were learnt."""
    faiss: str = ""
    created: str = field(default_factory=now)
    version: int = _VERSION

    @property
    def directory(self) -> str:
        """Relative to the run."""
        return f"{FOLDER}/{self.name}"

    def to_json(self) -> bytes:
        """UTF-8 JSON, indented."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False).encode()


def read_card(run_dir: RunDirectory, name: str) -> IndexCard:
    """An index's card; UsageError when there is no index of that name, IntegrityError when the card is damaged."""
    card = find_card(run_dir, name)
    if card is None:
        have = indexed(run_dir)
        raise UsageError(
            f"the run at {run_dir.url} has no index of {name}: build it with `clipaudit index {run_dir.url} --heads"
            f" {name}`" + (f" (there is {_listed(have)})" if have else "")
        )
    return card


def find_card(run_dir: RunDirectory, name: str) -> IndexCard | None:
    """An index's card, or None when there is no such index; IntegrityError when the card is damaged."""
    path = f"{FOLDER}/{name}/{CARD}"
    try:
        data = run_dir.storage.read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        card: IndexCard = _adapter().validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise IntegrityError(f"{run_dir.storage.full(path)} is damaged: {where or 'JSON'}: {first['msg']}") from error
    if card.version != _VERSION or card.name != name:
        raise IntegrityError(f"{run_dir.storage.full(path)} is of another version or of another index: build it again")
    return card


def indexed(run_dir: RunDirectory) -> tuple[str, ...]:
    """Names of the run's indexes."""
    names = run_dir.storage.names(FOLDER)
    return tuple(name for name in names if run_dir.storage.exists(f"{FOLDER}/{name}/{CARD}"))


def check_columns(run: Run, names: Sequence[str]) -> None:
    """UsageError unless each name is a stored head or `embedding`."""
    run.moments(heads=[name for name in names if name != EMBEDDING], shards=())


class Space:
    """How rows and queries of an index are prepared, so that their inner product is the score (docs/method.md 6)."""

    def __init__(self, metric: Metric, mean: Floats) -> None:
        self.metric: Metric = metric
        self.mean: Float32s = np.asarray(mean, np.float32)

    def images(self, coordinates: Floats) -> Float32s:
        """(n, dim) coordinates, rows or queries -> (n, dim) float32: minus the mean; of length 1 for `cosine`."""
        vectors = np.array(coordinates, np.float32)
        # raw: y; centred: y - m; cosine: (y - m) / |y - m|
        if self.metric != "raw":
            vectors -= self.mean
        return _unit(vectors) if self.metric == "cosine" else vectors

    def texts(self, folded: Floats) -> Float32s:
        """(n, dim) folded texts `Q t` -> (n, dim) float32 queries; a text's score is its product with a centred row."""
        vectors = np.array(folded, np.float32)
        return _unit(vectors) if self.metric == "cosine" else vectors


def _unit(vectors: Float32s) -> Float32s:
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    np.divide(vectors, np.maximum(lengths, 1e-12), out=vectors)
    return vectors


def check_covers(run: Run, card: IndexCard, shards: Mapping[int, str], *, stale: bool) -> str | None:
    """Compare an index with its run: None, or one sentence when the run has grown since and `stale` allows that.

    An earlier state of a run (`RUN@2`) is searched in the index of the newest, which then holds other shards too.

    `shards`: the shards that the index covers, with the hashes of their rows. UsageError when the run has grown,
    RunMismatch when it is another run now.
    """
    records, where = run.records, run.directory.url
    if card.fingerprint != run.manifest.fingerprint:
        raise RunMismatch(
            f"the index of {card.name} was built from another run than the one at {where}: build it again"
        )
    for shard, sha256 in shards.items():
        record = records.get(shard)
        if record is None and run.moment is not None:
            continue
        if record is None or record.files[record.projections].sha256 != sha256:
            raise RunMismatch(
                f"the index of {card.name} holds rows of shard {shard} that the run at {where} no longer has: build it"
                " again"
            )
    covered = len(records.keys() & shards.keys())
    if covered == len(records):
        return None
    sentence = (
        f"the index of {card.name} is older than the run: it covers {covered:,} of {len(records):,} committed"
        f" shards; `clipaudit index {where} --update` adds the others"
    )
    if not stale:
        raise UsageError(sentence)
    return sentence


@cache
def _adapter() -> TypeAdapter[IndexCard]:
    return TypeAdapter(IndexCard)


def _listed(names: Sequence[str], limit: int = 6) -> str:
    return ", ".join(names) if len(names) <= limit else f"{names[0]} to {names[-1]}, {len(names)} of them"
