"""A shard's moments file: what it holds, written and read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from clipaudit.arrays import ArrayHolder
from clipaudit.errors import IntegrityError
from clipaudit.run.directory import RunDirectory
from clipaudit.run.moments import Moments, wide_columns
from clipaudit.run.records import MALFORMED, StoredFile
from clipaudit.schema import Label, TableSpec
from clipaudit.storage.faults import storage_errors


@dataclass(frozen=True, kw_only=True, repr=False)
class ShardMoments(ArrayHolder):
    """What a shard's moments file holds."""

    total: Moments
    """Of all ok rows."""
    counts: dict[Label, int] = field(default_factory=dict)
    """Ok rows by label, a row with several counted for each; empty when the table has no label."""
    labels: dict[Label, Moments] = field(default_factory=dict)
    """Of some labels' rows, see `MomentsAccumulator`. The others' come from the rows (`moments_by_label`)."""


def moments_bytes(spec: TableSpec) -> int:
    """Bytes of one group's moments in a file: of all rows of a shard, or of one label's."""
    dim, wide = spec.head_dim, len(wide_columns(spec))
    return 8 * (len(spec.heads) * (dim + dim * (dim + 1) // 2) + 2 * wide * spec.embed_dim)


def save_moments(run_dir: RunDirectory, path: str, moments: ShardMoments) -> StoredFile:
    """Write a moments file, scatters as packed upper triangles; returns its size and hash.

    Raises StorageFull when there is no space left, and UsageError when writing is not allowed.
    """
    tensors = _pack("total", moments.total)
    for number, label_moments in enumerate(moments.labels.values()):
        tensors |= _pack(f"label{number}", label_moments)
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
    except BaseException:  # also KeyboardInterrupt: an attempt leaves no files behind
        sink.discard()
        run_dir.storage.remove(path)
        raise


def load_moments(run_dir: RunDirectory, path: str, labels: Collection[Label] | None = None) -> ShardMoments:
    """Read a moments file; of the labels' moments only those of `labels` (None: all).

    Raises IntegrityError when the file is missing or damaged.
    """
    full = run_dir.storage.full(path)
    try:
        data = run_dir.storage.read(path)
        # safetensors: length of the header in 8 bytes, then the header as JSON
        length = int.from_bytes(data[:8], "little")
        stored = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["clipaudit"])
        tensors = safetensors.numpy.load(data)
        counts = {label: int(rows) for label, rows in stored["counts"]}
        template = (tuple(stored["heads"]), tuple(stored["wide"]), int(stored["head_dim"]))
        total = _unpack("total", tensors, *template, count=int(stored["total"]))
        of_labels = {
            label: _unpack(f"label{number}", tensors, *template, count=counts[label])
            for number, label in enumerate(stored["labels"])
            if labels is None or label in labels
        }
    except FileNotFoundError as error:
        raise IntegrityError(f"{full} is not there") from error
    except (*MALFORMED, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{full} is damaged: {type(error).__name__}: {error}") from error
    if list(counts.values()) == [total.count] and (labels is None or set(counts) <= set(labels)):
        of_labels = dict.fromkeys(counts, total)  # one label in the whole shard, on every row: not stored twice
    return ShardMoments(total=total, counts=counts, labels=of_labels)


def _pack(prefix: str, moments: Moments) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file for one group of rows; (heads, dh, dh) symmetric scatters as (heads, dh (dh + 1) / 2)."""
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
    """The reverse of `_pack`; KeyError and ValueError when an array is not there or has another shape."""
    packed, head_mean = tensors[f"{prefix}.head_scatter"], tensors[f"{prefix}.head_mean"]
    wide_mean, wide_scatter = tensors[f"{prefix}.wide_mean"], tensors[f"{prefix}.wide_scatter"]
    shapes = (head_mean.shape, packed.shape, wide_mean.shape[:1], wide_mean.ndim, wide_scatter.shape)
    if shapes != ((len(heads), dim), (len(heads), dim * (dim + 1) // 2), (len(wide),), 2, wide_mean.shape):
        raise ValueError(f"{prefix} has other shapes than it says")  # before a matrix of the stated size is made
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
