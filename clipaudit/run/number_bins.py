"""Columns of fractions as groups: at most five ranges of about equal size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import Float64s
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows, row_filter
from clipaudit.schema import OK
from clipaudit.statistics import quantile_edges, range_names

BINS: Final = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class NumberBins:
    """Where the numbers of a column are cut."""

    edges: Float64s
    """(B - 1,) lower ends of all bins but the first."""
    names: tuple[str, ...]
    """(B,) such as `0.1 to 0.25`."""

    def of(self, numbers: Sequence[str | None]) -> npt.NDArray[Any]:
        """(n,) the names of the bins of numbers (n,) as texts, None for none."""
        known = np.array([number is not None for number in numbers], np.bool_)
        values = np.array([float(number) for number in numbers if number is not None], np.float64)
        bins = np.empty(len(known), object)
        bins[known] = np.array(self.names, object)[np.searchsorted(self.edges, values, side="right")]
        return bins


def number_bins(run: Run, column: str, rows: Rows) -> NumberBins | None:
    """How a column is cut for groups, by the values of some rows; None for one that holds no fractions, or five
    different numbers or fewer: each value is a group there.

    column: an attribute or image property in full, `attributes.light` or `image.brightness`. UsageError as in
    `row_filter`.
    """
    outer, _, inner = column.partition(".")
    if outer == "attributes" and not pa.types.is_floating(run.attribute_types[inner]):
        return None
    condition = row_filter(run, rows)
    stored = list(dict.fromkeys(["status", outer, *(term.path[0] for term in condition.columns)]))
    parts: list[Float64s] = [np.empty(0, np.float64)]
    for batch in run.batches(stored, shards=rows.shards):
        ok = np.asarray(pc.equal(batch["status"], OK).to_numpy(zero_copy_only=False), np.bool_)
        chosen = batch.filter(pa.array(ok & condition.mask(batch)))
        # attributes of the job are stored as texts
        values = pc.cast(pc.struct_field(chosen[outer], inner), pa.float64()).drop_null()
        parts.append(np.asarray(values.to_numpy(zero_copy_only=False), np.float64))
    numbers = np.concatenate(parts)
    if len(np.unique(numbers)) <= BINS:
        return None
    edges = quantile_edges(numbers, BINS)
    return NumberBins(edges=edges, names=range_names(numbers, edges))
