"""All uses of FAISS: make, train, extend, search, save and map an index (only this file imports faiss)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float32s, Ints
from clipaudit.errors import IntegrityError, StorageFull

KindName: TypeAlias = Literal["flat", "hnsw", "ivf-sq", "ivf-pq"]

lib: Any = faiss  # its stubs lack most of it

INDEX, VECTORS = "index.faiss", "vectors.f16"
"""File names of an index; the second only for `ivf-pq`: its vectors as float16, to score candidates again."""
TRAINING_ROWS: Final = 64
"""Vectors of the training sample for each list; faiss asks for at least 39."""
_REFINED: Final = 16
"""Candidates of `ivf-pq` that are scored again, for each neighbour that is asked for."""
_ITERATIONS: Final = 10
_EFFORTS: Final = {"hnsw": 1024, "ivf-sq": 1 << 14, "ivf-pq": 1 << 14}
_FILTERED_SLACK: Final = 4
_TIE: Final = -1e-6
"""Relative difference of scores that are the same."""
_NEAR_TARGET, _MIN_GAIN, _BISECTIONS = 0.9, 0.0005, 3
"""Of `tune`: from this share of the target on, a doubling that gains less recall than `_MIN_GAIN` is the last."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How an index stores its vectors."""

    name: KindName
    lists: int = 0
    """Inverted lists of the `ivf` kinds."""
    links: int = 0
    """Links of each vector in an `hnsw` graph."""
    code_bytes: int = 0
    """Bytes of a product-quantised vector of `ivf-pq`."""

    @property
    def factory(self) -> str:
        """The name for `faiss.index_factory`."""
        return {
            "flat": "Flat",
            "hnsw": f"HNSW{self.links}",
            "ivf-sq": f"IVF{self.lists},SQfp16",
            "ivf-pq": f"IVF{self.lists},PQ{self.code_bytes}",
        }[self.name]

    def bytes_per_vector(self, dim: int) -> float:
        """Bytes in memory for each vector while the index is built; lists and centroids not counted."""
        return {
            "flat": 4 * dim,
            "hnsw": 4 * dim + 8 * self.links + 12,
            "ivf-sq": 2 * dim + 8,
            "ivf-pq": self.code_bytes + 8,
        }[self.name]

    @property
    def training_rows(self) -> int:
        """Vectors that training wants; 0 when there is nothing to train."""
        return max(TRAINING_ROWS * self.lists, 256 * TRAINING_ROWS if self.name == "ivf-pq" else 0)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let faiss use `count` threads, for calls that this thread makes."""
    before = lib.omp_get_max_threads()
    lib.omp_set_num_threads(count)
    try:
        yield
    finally:
        lib.omp_set_num_threads(before)


class VectorIndex:
    """Inner products over rows numbered from 0 in the order in which they were added.

    Searches are thread-safe; `train` and `add` are not.
    """

    def __init__(self, index: Any, kind: Kind, refine: npt.NDArray[np.float16] | None = None) -> None:  # noqa: ANN401
        self._index = index
        self._refine = refine
        self._reconstructs = kind.name in ("flat", "hnsw")
        self.kind = kind
        self.dim = int(index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @staticmethod
    def new(kind: Kind, dim: int, seed: int = 0) -> VectorIndex:
        """An empty index of `dim` numbers a row, to be trained and filled, then saved.

        Lists are cells of nearest centres, and a query looks into those whose centres have the largest products with
        it: hence two quantisers of the same centres, one while rows are added, the other in the saved file. faiss by
        itself would make cells by products with centres of length 1, which needs about twice as many lists for the same
        recall, because rows differ in length, and leaves long residuals that float16 stores coarsely.
        """
        index = lib.index_factory(dim, kind.factory, lib.METRIC_INNER_PRODUCT)
        if kind.lists:
            cells = lib.IndexFlatL2(dim)
            index.quantizer, index.own_fields = cells, False
            index.referenced_objects = [cells]  # faiss holds only its address: Python must not free it
            index.cp.spherical, index.cp.seed, index.cp.niter = False, seed, _ITERATIONS
            index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, TRAINING_ROWS
        if kind.name == "ivf-pq":
            index.pq.cp.seed, index.pq.cp.niter = seed, _ITERATIONS
            index.pq.cp.min_points_per_centroid = 1
            index.do_polysemous_training = False  # slow, and only for searches by Hamming distance
        return VectorIndex(index, kind)

    def train(self, sample: Float32s) -> None:
        """Learn lists and codes from a (m, dim) float32 sample; kinds without either learn nothing."""
        if not self._index.is_trained:
            self._index.train(sample)

    def add(self, rows: Float32s) -> None:
        """Append (m, dim) float32 rows; the index is from `new`, or loaded with `mapped=False`."""
        self._index.add(rows)

    def _quantise_by(self, quantiser: Any) -> None:  # noqa: ANN401
        """Put the centres into another quantiser, in place of the present one."""
        if self.kind.lists:
            quantiser.add(self._index.quantizer.reconstruct_n(0, self.kind.lists))
            old = getattr(self._index, "referenced_objects", [])
            self._index.quantizer, self._index.own_fields = quantiser, False
            self._index.referenced_objects = [*old, quantiser]

    # -- search ------------------------------------------------------------------------------------------------------

    def search(self, queries: Float32s, k: int, effort: int = 0, mask: Bools | None = None) -> tuple[Float32s, Ints]:
        """(q, k) largest inner products of (q, dim) float32 queries and the rows' numbers, best first.

        A row number is -1 where there are no more rows. `effort`: lists that are searched, or candidates of the graph.
        `mask`: (n,) booleans, the rows that may be found; the effort grows as their share falls, so that recall does
        not.
        """
        selector = None
        share = 1.0
        if mask is not None:
            share = max(int(mask.sum()), 1) / max(len(mask), 1)
            packed = np.packbits(mask, bitorder="little")
            selector = lib.IDSelectorBitmap(packed)
        # product-quantised scores are coarse: more candidates than asked for are scored again
        wide = k if self._refine is None else min(_REFINED * k, max(len(self), 1))
        index, parameters = self._parameters(effort, wide, share, selector)
        scores, rows = index.search(queries, wide, params=parameters)
        if self._refine is not None:
            scores, rows = self._rescored(self._refine, queries, rows, k)
        return scores, rows

    def _parameters(self, effort: int, k: int, share: float, selector: Any) -> tuple[Any, Any]:  # noqa: ANN401
        """The faiss index to ask, and how."""
        given = {} if selector is None else {"sel": selector}
        if self.kind.lists:
            # allowed rows are spread over all lists: more lists to meet as many of them
            wanted = max(effort, 1) if selector is None else int(_FILTERED_SLACK * max(effort, 1) / share)
            return self._index, lib.SearchParametersIVF(nprobe=min(wanted, self.kind.lists), **given)
        if self.kind.name == "hnsw" and selector is None:
            return self._index, lib.SearchParametersHNSW(efSearch=max(effort, k, 1))
        # a graph in which few nodes are allowed falls apart: score the allowed vectors one by one instead
        index = lib.downcast_index(self._index.storage) if self.kind.name == "hnsw" else self._index
        return index, lib.SearchParameters(**given) if given else None

    def _rescored(
        self, stored: npt.NDArray[np.float16], queries: Float32s, rows: Ints, k: int
    ) -> tuple[Float32s, Ints]:
        """The best k of (q, m) candidate rows by their stored vectors (n, dim)."""
        scores = np.full(rows.shape, -np.inf, np.float32)
        for number, (query, candidates) in enumerate(zip(queries, rows, strict=True)):
            valid = candidates >= 0
            scores[number, valid] = stored[candidates[valid]].astype(np.float32) @ query
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    def vectors(self, rows: Ints) -> Float32s:
        """(m, dim) float32, the rows (m,) as the index stores them; an `ivf-sq` index makes a table at first."""
        if self._refine is not None:
            return np.asarray(self._refine[rows], np.float32)
        if not self._reconstructs:
            self._index.make_direct_map()
            self._reconstructs = True
        vectors: Float32s = self._index.reconstruct_batch(np.ascontiguousarray(rows, np.int64))
        return vectors

    def tune(self, queries: Float32s, truth: Truth, target: float) -> tuple[int, float]:
        """(effort, recall): about the least effort that finds a share `target` of the true neighbours.

        Doubles the effort until recall reaches the target or stops rising, then bisects. queries: (q, dim) float32.
        """
        limit = min(_EFFORTS.get(self.kind.name, 1), self.kind.lists or 1 << 30)

        def recall(effort: int) -> float:
            return truth.found_in(*self.search(queries, truth.k + 1, effort))

        low, high = 0, min(16 if self.kind.name == "hnsw" else 1, limit)
        reached = recall(high)
        while reached < target and high < limit:
            low, high = high, min(2 * high, limit)
            before, reached = reached, recall(high)
            if before > _NEAR_TARGET * target and reached - before < _MIN_GAIN:
                return low, before
        for _ in range(_BISECTIONS):
            # bisection on the logarithm, because efforts were doubled
            middle = round(math.sqrt(max(low, 1) * high))
            if reached < target or not low < middle < high:
                break
            at_middle = recall(middle)
            low, high, reached = (low, middle, at_middle) if at_middle >= target else (middle, high, reached)
        return high, reached

    # -- files -------------------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Write the index (not the vectors of `ivf-pq`) into a directory; then no more rows can be added.

        StorageFull when it cannot be written.
        """
        path = directory / INDEX
        self._quantise_by(lib.IndexFlatIP(self.dim))
        try:
            lib.write_index(self._index, str(path))
        except RuntimeError as error:
            raise StorageFull(f"{path} cannot be written, most likely there is no space: {_short(error)}") from error

    @staticmethod
    def load(directory: Path, kind: Kind, dim: int, *, mapped: bool = True) -> VectorIndex:
        """An index from its files; mapped into memory for searching only, or read whole to be extended.

        IntegrityError when a file is damaged or of another shape.
        """
        path, refine = directory / INDEX, None
        flags = 0
        if mapped:
            flags = lib.IO_FLAG_READ_ONLY | lib.IO_FLAG_MMAP_IFC  # IO_FLAG_MMAP starts threads at every search
        try:
            index = lib.read_index(os.fspath(path), flags)
            if kind.name == "ivf-pq":
                refine = np.memmap(directory / VECTORS, np.float16, "r").reshape(-1, dim)
        except (RuntimeError, OSError, ValueError) as error:
            raise IntegrityError(f"{path} is damaged: {_short(error)}") from error
        if index.d != dim or (refine is not None and len(refine) != index.ntotal):
            raise IntegrityError(f"{path} is damaged: it is not an index of vectors of {dim} numbers")
        loaded = VectorIndex(index, kind, refine)
        if not mapped:
            loaded._quantise_by(lib.IndexFlatL2(dim))
        return loaded


class ExactNeighbours:
    """The true neighbours of some queries, collected while all rows stream by; memory does not grow with the rows."""

    def __init__(self, queries: Float32s, k: int) -> None:
        """queries: (q, dim) float32; k neighbours of each."""
        self._queries, self._k, self._seen = queries, k, 0
        self._heap = lib.ResultHeap(len(queries), k, keep_max=True)

    def add(self, rows: Float32s) -> None:
        """The next (m, dim) rows."""
        k = min(self._k, len(rows))
        if k and len(self._queries):
            scores, numbers = lib.knn(self._queries, rows, k, lib.METRIC_INNER_PRODUCT)
            if k < self._k:  # the heap needs k columns
                scores = np.pad(scores, ((0, 0), (0, self._k - k)), constant_values=-np.inf)
                numbers = np.pad(numbers, ((0, 0), (0, self._k - k)), constant_values=-1)
            self._heap.add_result(scores, np.where(numbers >= 0, numbers + self._seen, -1))
        self._seen += len(rows)

    def finish(self, own: Ints) -> Truth:
        """The neighbours of each query, its own row `own` (q,) left out."""
        self._heap.finalize()
        scores, rows = _without(self._heap.D, self._heap.I, own)
        return Truth(scores, rows, own)


@dataclass(frozen=True, eq=False)
class Truth:
    """The true neighbours of some queries that are rows themselves."""

    scores: Float32s
    """(q, k) best first."""
    rows: Ints
    """(q, k)"""
    own: Ints
    """(q,) the queries' own rows."""

    @property
    def k(self) -> int:
        """Neighbours of each query."""
        return int(self.rows.shape[1])

    def found_in(self, scores: Float32s, rows: Ints) -> float:
        """Recall of an index's answers, (q, k + 1) scores and rows: the share that are true neighbours, 0..1.

        Rows that score as high as the last true neighbour count too: copies of an image score alike.
        """
        if not self.rows.size:
            return 1.0
        scores, rows = _without(scores, rows, self.own)
        last = self.scores[:, -1:]
        right = (rows[:, :, None] == self.rows[:, None, :]).any(axis=2) | (scores >= last + _TIE * np.abs(last))
        return float((right & (rows >= 0)).mean())


def _without(scores: Float32s, rows: Ints, own: Ints) -> tuple[Float32s, Ints]:
    """(q, k + 1) scores and rows -> (q, k): each query's own row left out, or else the last."""
    keep = rows != own[:, None]
    keep[keep.all(axis=1), -1] = False
    return scores[keep].reshape(len(rows), -1), rows[keep].reshape(len(rows), -1)


def _short(error: BaseException) -> str:
    """The message of faiss without its own source lines."""
    text = " ".join(str(error).split())
    return text.rsplit("Error: ", 1)[-1][:160] if text else type(error).__name__
