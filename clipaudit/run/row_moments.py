"""Moments of the rows of a projections file, in one pass of bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

import numpy as np
import pyarrow as pa

from clipaudit.arrays import Float16s
from clipaudit.run.directory import RunDirectory
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.run.projections import stream_table, vectors_of
from clipaudit.run.vectors import has_label
from clipaudit.schema import OK, Label

_BLOCK_BYTES: Final = 8 * 2**20


def moments_by_label(
    run_dir: RunDirectory, projections: str, template: Moments, labels: Collection[Label]
) -> dict[Label, Moments]:
    """Moments of the ok rows of each of `labels`, from a projections file, for the columns of `template`.

    Raises IntegrityError when the file is missing or damaged.
    """
    if not labels:
        return {}
    totals = {label: moments_of(template, {}) for label in labels}
    for vectors, row_labels in _row_batches(run_dir, projections, template.lengths, label=True):
        for label in labels:
            mask = has_label(row_labels, label)
            if mask.any():
                part = moments_of(template, {name: values[mask] for name, values in vectors.items()})
                totals[label] = merge((totals[label], part))
    return totals


def moments_of_rows(run_dir: RunDirectory, projections: str, template: Moments) -> Moments:
    """Moments of all ok rows of a projections file, for the columns of `template`; errors as `moments_by_label`."""
    total = moments_of(template, {})
    for vectors, _ in _row_batches(run_dir, projections, template.lengths):
        total = merge((total, moments_of(template, vectors)))
    return total


def _row_batches(
    run_dir: RunDirectory, path: str, columns: Mapping[str, int], *, label: bool = False
) -> Iterator[tuple[dict[str, Float16s], pa.Array]]:
    """Ok rows, about 8 MB at a time: (n, length) float16 by column, and with `label` the (n,) labels, else nulls."""
    names = ["status", *(["label"] if label else []), *columns]
    width = sum(2 * dim for dim in columns.values())
    size = max(64, _BLOCK_BYTES // max(width, 1))
    types = {"status": pa.string()} | {name: pa.binary(2 * dim) for name, dim in columns.items()}
    for batch in stream_table(run_dir, path, names, size, types):
        ok = np.array([status == OK for status in batch.column("status").to_pylist()], np.bool_)
        labels = batch.column("label") if label else pa.nulls(len(ok))
        yield {name: vectors_of(batch.column(name))[0][ok] for name in columns}, labels.filter(pa.array(ok))
