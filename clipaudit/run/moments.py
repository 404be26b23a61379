"""Mergeable count, mean and scatter of every head's coordinates, over all ok samples and per label.

Moments are those of the values as stored, rounded to float16, so that a shard's file and its rows give the same ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors
import safetensors.numpy

from clipaudit.arrays import Float64s
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.run.directory import RunDirectory
from clipaudit.run.projections import stream_table, vectors_of
from clipaudit.run.records import MALFORMED, StoredFile
from clipaudit.schema import OK, Label, Shard, TableSpec
from clipaudit.storage.directory import storage_errors

LabelMoments: TypeAlias = Literal["auto", "all", "none"]

LABEL_MOMENTS_SHARE = 0.0125
"""Under `auto`, a label's moments are stored when they cost at most this share of its rows' vectors in the shard."""
LABEL_MOMENTS_BYTES = 256 * 2**20
"""Most bytes of label moments in one shard's file, under `all` too; bounds the memory of whoever makes them."""

_BLOCK_BYTES = 8 * 2**20
_BLOCK_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean and scatter (sum of outer products of deviations) of some columns over some rows; float64."""

    heads: tuple[str, ...]
    """Columns with full scatter."""
    wide: tuple[str, ...]
    """Columns of joint-space vectors (embedding, components), with the scatter's diagonal only."""
    count: int
    head_mean: Float64s
    """(heads, dh)"""
    head_scatter: Float64s
    """(heads, dh, dh), symmetric."""
    wide_mean: Float64s
    """(wide, D)"""
    wide_scatter: Float64s
    """(wide, D): sums of squared deviations."""

    @staticmethod
    def empty(spec: TableSpec) -> Moments:
        """Of no rows, for every vector column of a table."""
        wide = wide_columns(spec)
        return Moments(
            heads=spec.heads,
            wide=wide,
            count=0,
            head_mean=np.zeros((len(spec.heads), spec.head_dim)),
            head_scatter=np.zeros((len(spec.heads), spec.head_dim, spec.head_dim)),
            wide_mean=np.zeros((len(wide), spec.embed_dim)),
            wide_scatter=np.zeros((len(wide), spec.embed_dim)),
        )

    @property
    def lengths(self) -> dict[str, int]:
        """Numbers of one row in each column."""
        head, wide = int(self.head_mean.shape[1]), int(self.wide_mean.shape[1])
        return dict.fromkeys(self.heads, head) | dict.fromkeys(self.wide, wide)

    def mean(self, column: str) -> Float64s:
        """(dh,) for a head, (D,) for `embedding` and components; zeros when there are no rows."""
        in_heads = column in self.heads
        found: Float64s = self.head_mean[self.heads.index(column)] if in_heads else self.wide_mean[self._wide(column)]
        return found

    def covariance(self, head: str) -> Float64s:
        """(dh, dh) population covariance (divided by the count) of a head; zeros when there are no rows."""
        if head not in self.heads:
            raise UsageError(f"there is no covariance of {head}: these moments hold {_listed(self.heads)}")
        scatter: Float64s = self.head_scatter[self.heads.index(head)]
        return scatter / max(self.count, 1)

    def variance(self, column: str) -> Float64s:
        """(dh,) or (D,) population variances of a column's numbers."""
        if column in self.heads:
            return np.diagonal(self.covariance(column)).copy()
        scatter: Float64s = self.wide_scatter[self._wide(column)]
        return scatter / max(self.count, 1)

    def select(self, heads: Sequence[str], wide: Sequence[str]) -> Moments:
        """The same for some of the columns, in the order given."""
        rows = [self.heads.index(name) for name in heads]
        others = [self.wide.index(name) for name in wide]
        return Moments(
            heads=tuple(heads),
            wide=tuple(wide),
            count=self.count,
            head_mean=self.head_mean[rows],
            head_scatter=self.head_scatter[rows],
            wide_mean=self.wide_mean[others],
            wide_scatter=self.wide_scatter[others],
        )

    def _wide(self, column: str) -> int:
        if column not in self.wide:
            raise UsageError(f"there are no moments of {column}: there are {_listed((*self.heads, *self.wide))}")
        return self.wide.index(column)


def wide_columns(spec: TableSpec) -> tuple[str, ...]:
    """The vector columns that live in the joint space."""
    return ("embedding", *spec.components)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 8 else shown or "none"


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of the rows of all parts together; the order matters to rounding only. ValueError without parts."""
    iterator = iter(parts)
    total = next(iterator, None)
    if total is None:
        raise ValueError("nothing to merge: there is no Moments among the parts")
    for part in iterator:
        total = _merge_two(total, part)
    return total


def _merge_two(a: Moments, b: Moments) -> Moments:
    if (a.heads, a.wide) != (b.heads, b.wide):
        raise ValueError("moments of different columns cannot be merged")
    if a.count == 0 or b.count == 0:
        return a if b.count == 0 else b
    count = a.count + b.count
    weight, product = b.count / count, a.count * (b.count / count)
    heads, wide = b.head_mean - a.head_mean, b.wide_mean - a.wide_mean
    return replace(
        a,
        count=count,
        head_mean=a.head_mean + heads * weight,
        head_scatter=a.head_scatter + b.head_scatter + heads[:, :, None] * heads[:, None, :] * product,
        wide_mean=a.wide_mean + wide * weight,
        wide_scatter=a.wide_scatter + b.wide_scatter + wide**2 * product,
    )


def moments_of(template: Moments, vectors: Mapping[str, npt.NDArray[Any]]) -> Moments:
    """Moments of (n, length) arrays, rounded to float16 as they are stored, for the columns of `template`."""
    head_mean, head_scatter = np.zeros_like(template.head_mean), np.zeros_like(template.head_scatter)
    wide_mean, wide_scatter = np.zeros_like(template.wide_mean), np.zeros_like(template.wide_scatter)
    count = len(next(iter(vectors.values()), ()))
    if count == 0:
        return replace(
            template,
            count=0,
            head_mean=head_mean,
            head_scatter=head_scatter,
            wide_mean=wide_mean,
            wide_scatter=wide_scatter,
        )
    for row, name in enumerate(template.heads):
        values = vectors[name].astype(np.float16, copy=False).astype(np.float64)
        head_mean[row] = values.mean(axis=0)
        values -= head_mean[row]
        head_scatter[row] = values.T @ values
    for row, name in enumerate(template.wide):
        values = vectors[name].astype(np.float16, copy=False).astype(np.float64)
        wide_mean[row] = values.mean(axis=0)
        values -= wide_mean[row]
        wide_scatter[row] = np.einsum("nd,nd->d", values, values)
    return replace(
        template,
        count=count,
        head_mean=head_mean,
        head_scatter=head_scatter,
        wide_mean=wide_mean,
        wide_scatter=wide_scatter,
    )


@dataclass(frozen=True, kw_only=True)
class ShardMoments:
    """What a shard's moments file holds."""

    total: Moments
    """Of all ok rows."""
    counts: dict[Label, int] = field(default_factory=dict)
    """Ok rows by label; empty when the table has no label."""
    labels: dict[Label, Moments] = field(default_factory=dict)
    """Of some labels' rows: those that are cheap to store. The others' come from the rows (`moments_by_label`)."""


class MomentsAccumulator:
    """Moments of one attempt's rows, in memory that does not grow with the shard or the number of rows a label has."""

    def __init__(self, spec: TableSpec, label_moments: LabelMoments = "auto") -> None:
        self._spec, self._policy = spec, label_moments
        self._total = Moments.empty(spec)
        self._counts: Counter[Label] = Counter()
        self._capacity = max(64, min(_BLOCK_ROWS, _BLOCK_BYTES // max(spec.vector_bytes, 1)))
        self._block = {name: np.empty((self._capacity, dim), np.float16) for name, dim in spec.vectors.items()}
        self._filled = 0

    @property
    def count(self) -> int:
        """Rows so far."""
        return self._total.count + self._filled

    def update(self, vectors: Mapping[str, npt.NDArray[Any]], labels: Sequence[Label] | None = None) -> None:
        """Add (n, length) floats of n ok samples: every vector column; `labels` gives n labels if the table has them.

        ValueError when a number is not finite as float16; the projections writer turns such samples into failures.
        """
        rows = len(next(iter(vectors.values()), ()))
        if labels is not None:
            if len(labels) != rows:
                raise ValueError(f"{len(labels)} labels for {rows} rows")
            self._counts.update(labels)
        done = 0
        while done < rows:
            piece = min(rows - done, self._capacity - self._filled)
            window = slice(self._filled, self._filled + piece)
            with np.errstate(over="ignore"):
                for name, block in self._block.items():
                    block[window] = vectors[name][done : done + piece]
            self._filled += piece
            done += piece
            if self._filled == self._capacity:
                self._absorb()

    def _absorb(self) -> None:
        block = {name: values[: self._filled] for name, values in self._block.items()}
        self._filled = 0
        with np.errstate(invalid="ignore"):
            found = moments_of(self._total, block)
        # a sum of squares is finite exactly when all its terms are
        if not (np.isfinite(found.head_scatter).all() and np.isfinite(found.wide_scatter).all()):
            raise ValueError("a row that is not finite as float16 cannot be counted")
        self._total = _merge_two(self._total, found)

    def finish(self, run_dir: RunDirectory, projections: str) -> ShardMoments:
        """The moments of all rows so far. Labels whose moments are to be stored are taken from the projections file,
        which must be closed: nobody knows before a shard's end which labels have enough rows to pay."""
        if self._filled:
            self._absorb()
        counts = dict(sorted(self._counts.items(), key=lambda item: str(item[0])))
        chosen = self._chosen_labels()
        return ShardMoments(
            total=self._total, counts=counts, labels=moments_by_label(run_dir, projections, self._total, chosen)
        )

    def save(self, run_dir: RunDirectory, shard: Shard, attempt: str) -> tuple[str, StoredFile]:
        """Write the attempt's moments file, after its projections file is closed; returns its path, size and hash."""
        path = run_dir.moments_path(shard.id, attempt)
        return path, save_moments(run_dir, path, self.finish(run_dir, run_dir.projections_path(shard.id, attempt)))

    def _chosen_labels(self) -> list[Label]:
        """Labels to store, most rows first. A shard of one label needs none: its moments are the total's."""
        if self._policy == "none" or len(self._counts) < 2:
            return []
        cost = moments_bytes(self._spec)
        chosen: list[Label] = []
        for label, rows in self._counts.most_common():
            pays = self._policy == "all" or cost <= LABEL_MOMENTS_SHARE * rows * self._spec.vector_bytes
            if not pays or (len(chosen) + 1) * cost > LABEL_MOMENTS_BYTES:
                break
            chosen.append(label)
        return chosen


def moments_bytes(spec: TableSpec) -> int:
    """Bytes of one group's moments in a file: of all rows of a shard, or of one label's."""
    dim, wide = spec.head_dim, len(wide_columns(spec))
    return 8 * (len(spec.heads) * (dim + dim * (dim + 1) // 2) + 2 * wide * spec.embed_dim)


def moments_by_label(
    run_dir: RunDirectory, projections: str, template: Moments, labels: Collection[Label]
) -> dict[Label, Moments]:
    """Moments of the ok rows of each of `labels`, from a projections file, for the columns of `template`."""
    if not labels:
        return {}
    found = {label: moments_of(template, {}) for label in labels}
    for batch in _row_batches(run_dir, projections, template.lengths, label=True):
        values = np.array(batch.pop("label"), dtype=object)
        for label in labels:
            mask = values == label
            if mask.any():
                part = moments_of(template, {name: column[mask] for name, column in batch.items()})
                found[label] = _merge_two(found[label], part)
    return found


def moments_of_rows(run_dir: RunDirectory, projections: str, template: Moments) -> Moments:
    """Moments of all ok rows of a projections file, for the columns of `template`."""
    total = moments_of(template, {})
    for batch in _row_batches(run_dir, projections, template.lengths):
        total = _merge_two(total, moments_of(template, batch))
    return total


def _row_batches(
    run_dir: RunDirectory, path: str, columns: Mapping[str, int], *, label: bool = False
) -> Iterator[dict[str, Any]]:
    """Ok rows as float16 arrays by column, with `label` as a list; about 8 MB at a time."""
    names = ["status", *(["label"] if label else []), *columns]
    width = sum(2 * dim for dim in columns.values())
    rows = max(64, _BLOCK_BYTES // max(width, 1))
    types = {"status": pa.string()} | {name: pa.binary(2 * dim) for name, dim in columns.items()}
    for batch in stream_table(run_dir, path, names, rows, types):
        kept = np.array([status == OK for status in batch.column("status").to_pylist()], np.bool_)
        found: dict[str, Any] = {name: vectors_of(batch.column(name))[0][kept] for name in columns}
        if label:
            values = batch.column("label").to_pylist()
            found["label"] = [value for value, good in zip(values, kept, strict=True) if good]
        yield found


# -- files -------------------------------------------------------------------------------------------------------------


def save_moments(run_dir: RunDirectory, path: str, moments: ShardMoments) -> StoredFile:
    """Write a moments file: scatters as packed upper triangles. StorageFull when there is no space left."""
    tensors = _pack("total", moments.total)
    for number, found in enumerate(moments.labels.values()):
        tensors |= _pack(f"label{number}", found)
    stored = {
        "total": moments.total.count,
        "heads": moments.total.heads,
        "wide": moments.total.wide,
        "head_dim": moments.total.head_mean.shape[1],
        "counts": list(moments.counts.items()),
        "labels": list(moments.labels),
    }
    sink = run_dir.storage.open_new(path)
    try:
        with storage_errors(run_dir.storage.full(path)):
            sink.write(safetensors.numpy.save(tensors, {"clipaudit": json.dumps(stored, ensure_ascii=False)}))
            return StoredFile(sha256=sink.finish(), bytes=sink.tell())
    except BaseException:
        sink.discard()
        run_dir.storage.remove(path)
        raise


def load_moments(run_dir: RunDirectory, path: str, labels: Collection[Label] | None = None) -> ShardMoments:
    """Read a moments file; of the labels' moments only those of `labels` (None: all). IntegrityError when damaged."""
    full = run_dir.storage.full(path)
    try:
        data = run_dir.storage.read(path)
        length = int.from_bytes(data[:8], "little")
        stored = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["clipaudit"])
        tensors = safetensors.numpy.load(data)
        counts = {label: int(rows) for label, rows in stored["counts"]}
        template = (tuple(stored["heads"]), tuple(stored["wide"]), int(stored["head_dim"]))
        total = _unpack("total", tensors, *template, count=int(stored["total"]))
        found = {
            label: _unpack(f"label{number}", tensors, *template, count=counts[label])
            for number, label in enumerate(stored["labels"])
            if labels is None or label in labels
        }
    except FileNotFoundError as error:
        raise IntegrityError(f"{full} is not there") from error
    except (*MALFORMED, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{full} is damaged: {type(error).__name__}: {error}") from error
    if len(counts) == 1 and (labels is None or set(counts) <= set(labels)):
        found = dict.fromkeys(counts, total)  # one label in the whole shard: not stored twice
    return ShardMoments(total=total, counts=counts, labels=found)


def _pack(prefix: str, moments: Moments) -> dict[str, npt.NDArray[Any]]:
    rows, columns = np.triu_indices(moments.head_mean.shape[1])
    arrays = {
        f"{prefix}.head_mean": moments.head_mean,
        f"{prefix}.head_scatter": moments.head_scatter[:, rows, columns],
        f"{prefix}.wide_mean": moments.wide_mean,
        f"{prefix}.wide_scatter": moments.wide_scatter,
    }
    # safetensors writes an array's memory as it lies, whatever its strides say
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _unpack(
    prefix: str,
    tensors: Mapping[str, npt.NDArray[Any]],
    heads: tuple[str, ...],
    wide: tuple[str, ...],
    dim: int,
    *,
    count: int,
) -> Moments:
    packed, head_mean = tensors[f"{prefix}.head_scatter"], tensors[f"{prefix}.head_mean"]
    wide_mean, wide_scatter = tensors[f"{prefix}.wide_mean"], tensors[f"{prefix}.wide_scatter"]
    shapes = (head_mean.shape, packed.shape, wide_mean.shape[:1], wide_mean.ndim, wide_scatter.shape)
    if shapes != ((len(heads), dim), (len(heads), dim * (dim + 1) // 2), (len(wide),), 2, wide_mean.shape):
        raise ValueError(f"{prefix} has other shapes than it says")  # before an array of a stated size is made
    rows, columns = np.triu_indices(dim)
    scatter = np.empty((len(heads), dim, dim))
    scatter[:, rows, columns] = packed
    scatter[:, columns, rows] = packed
    return Moments(
        heads=heads,
        wide=wide,
        count=count,
        head_mean=head_mean,
        head_scatter=scatter,
        wide_mean=wide_mean,
        wide_scatter=wide_scatter,
    )
