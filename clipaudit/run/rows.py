"""Which rows of a run: chosen by label or attribute value, streamed, and their moments."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import ArrayHolder, Float32s
from clipaudit.errors import UsageError
from clipaudit.run.filter_columns import FilterColumns, listed_values, value_text
from clipaudit.run.filter_terms import Filter
from clipaudit.run.filters import equal_to, parse_filter, why_empty
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.run.projections import vectors_of
from clipaudit.run.reader import Run
from clipaudit.run.vectors import as_objects
from clipaudit.schema import IMAGE_PROPERTIES, OK, Names, as_tuples

BATCH_ROWS: Final = 4096
TRAIN: Final = "train"
"""The value of a split's column whose rows train."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which rows of a run: all ok ones, or some.

    >>> Rows(where=("place = water", "label != 3")).described
    ', place = water, label != 3'
    """

    shards: tuple[int, ...] | None = None
    """Shard ids; None for all."""
    where: tuple[str, ...] = ()
    """Filters that a row must all pass, in the language of `clipaudit.run.filters`: `split = test`, `light < 9`."""

    def __post_init__(self) -> None:
        as_tuples(self, "where")

    @property
    def described(self) -> str:
        """`, attributes.split = test`, to follow the name of a run; empty for all rows."""
        parts = [] if self.shards is None else [f"{len(self.shards)} shards"]
        parts += self.where
        return f", {', '.join(parts)}" if parts else ""


ALL = Rows()


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class RowBatch(ArrayHolder):
    """Some ok rows of a run."""

    vectors: dict[str, Float32s]
    """(n, length) by column."""
    columns: dict[str, npt.NDArray[Any]]
    """(n,) objects by column."""

    def __len__(self) -> int:
        return len(next(iter({**self.vectors, **self.columns}.values()), ()))


def chosen_rows(run: Run, where: Names) -> Rows:
    """The rows that pass one filter, or each of several; columns get their full names.

    UsageError when a filter is not understood, names a column that the run lacks, or compares it with a value of
    another kind; see `clipaudit.run.filters.parse_filter`.
    """
    return Rows(where=parse_filter(where, filter_columns(run)).texts)


def filter_columns(run: Run) -> FilterColumns:
    """The columns that filters of a run may name, with the types of `Run.column_types`."""
    source = f"the run at {run.directory.url}"
    return FilterColumns(
        run.schema(), lambda: run.attribute_types, run.batches, source, classes=lambda: run.class_names
    )


def row_filter(run: Run, rows: Rows) -> Filter:
    """The filter of some rows, parsed for a run; UsageError as in `chosen_rows`."""
    return parse_filter(rows.where, filter_columns(run))


def group_column(run: Run, name: str) -> str:
    """`label`, `image.brightness`, or `attributes.place` for `place` and `attributes.place`.

    UsageError when the run has no such column, or it holds lists.
    """
    attribute = name.removeprefix("attributes.")
    measured = [f"image.{each}" for each in run.spec.image_properties]
    if name in measured:
        return name
    if name == "label" and run.spec.label_kind is not None:
        return name
    if attribute not in run.attributes:
        known = ["label"] * (run.spec.label_kind is not None) + [f"attributes.{a}" for a in run.attributes] + measured
        raise UsageError(
            f"the run at {run.directory.url} has no column {name!r} to group rows by: it has"
            f" {', '.join(known) or 'none'}{_unmeasured(run, name)}{_meant(name, [*known, *run.attributes])}"
        )
    if run.holds_lists(attribute):
        raise UsageError(
            f"attributes.{attribute} of the run at {run.directory.url} holds lists of texts, and rows are grouped by"
            f" single values: choose rows with --where '{attribute} has TEXT'"
        )
    return f"attributes.{attribute}"


def split_filters(run: Run, name: str) -> tuple[str, str]:
    """Filters of the rows that a split trains on, those with the value `train`, and of all others that have a value.

    UsageError when the run lacks the column, no row has that value, or every row has.
    """
    column = filter_columns(run).find(group_column(run, name))
    values: dict[str, None] = {}
    for batch in run.batches([column.path[0]]):
        distinct = pc.cast(pc.unique(column.single_values(batch)), pa.string())
        values.update(dict.fromkeys(distinct.to_pylist()))
    others = sorted(set(values) - {TRAIN})
    if TRAIN not in values:
        raise UsageError(
            f"--split {name}: no row of the run at {run.directory.url} has the value {TRAIN}; there is"
            f" {listed_values(others) if others else 'none'}"
        )
    if not others:
        raise UsageError(
            f"--split {name}: every row of the run at {run.directory.url} has the value {TRAIN}, and none is left to"
            " score; without --split every part is scored by what was learned from the others"
        )
    # one value is named: it says in the report what is scored
    test = equal_to(column.name, others[0]) if len(others) == 1 else f"{column.name} != {TRAIN}"
    return f"{column.name} = {TRAIN}", test


def _unmeasured(run: Run, name: str) -> str:
    """Why a run lacks image properties."""
    known = name.startswith("image.") and name.removeprefix("image.") in IMAGE_PROPERTIES
    return "; image properties were not measured yet when the run was begun" * (known and not run.spec.image_properties)


def _meant(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def stream_rows(
    run: Run, vectors: Sequence[str], columns: Sequence[str] = (), rows: Rows = ALL, size: int = BATCH_ROWS
) -> Iterator[RowBatch]:
    """Vector columns (float32) and others (`label`, `attributes.place`) of ok rows, at most `size` at a time.

    UsageError when the run has no such column, and as in `row_filter`.
    """
    condition = row_filter(run, rows)
    for name in columns:
        outer, _, inner = name.partition(".")
        if inner and outer != "image" and (outer != "attributes" or inner not in run.attributes):
            known = ", ".join(run.attributes) or "none"
            raise UsageError(f"the run at {run.directory.url} has no attribute {inner!r}: it has {known}")
    tables = [*(name.partition(".")[0] for name in columns), *(column.path[0] for column in condition.columns)]
    stored = list(dict.fromkeys(["status", *tables, *vectors]))
    for batch in run.batches(stored, size, rows.shards):
        ok = np.asarray(pc.equal(batch.column("status"), OK).to_numpy(zero_copy_only=False), np.bool_)
        chosen = ok & condition.mask(batch)
        if chosen.any():
            yield RowBatch(
                vectors={name: vectors_of(batch.column(name))[0][chosen].astype(np.float32) for name in vectors},
                columns={name: _values(batch, name)[chosen] for name in columns},
            )


def _values(batch: pa.RecordBatch, name: str) -> npt.NDArray[Any]:
    """(n,) Python objects of a column, lists as tuples; of `attributes.place`, a field of one, texts."""
    outer, _, inner = name.partition(".")
    column = batch.column(outer)
    values = as_objects(pc.struct_field(column, inner) if inner else column)
    for row, value in enumerate(values if inner else ()):  # joined columns have types, those of the job are texts
        values[row] = value if value is None else value_text(value)
    return values


def moments_over(run: Run, rows: Rows = ALL) -> Moments:
    """Moments of every vector column over some rows: stored ones where they say it, else from one pass over the rows.

    Of rows of one label, and of all rows, moments are stored. UsageError as in `row_filter`.
    """
    condition = row_filter(run, rows)
    if not condition.terms:
        return run.moments(shards=rows.shards)
    if condition.only_label is not None:
        return run.moments(label=condition.only_label, shards=rows.shards)
    moments = Moments.empty(run.spec)
    for batch in stream_rows(run, list(run.spec.measured), (), rows, size=1024):
        moments = merge([moments, moments_of(Moments.empty(run.spec), batch.vectors)])
    return moments


def check_rows(run: Run, rows: Rows) -> None:
    """UsageError when no row passes, before any work: reads the filter's columns as far as the first row that does."""
    condition = row_filter(run, rows)
    if not condition.terms:
        return require_rows(run, rows, len(run))
    if not any(True for _ in stream_rows(run, (), ["key"], rows)):
        require_rows(run, rows, 0)


def require_rows(run: Run, rows: Rows, count: int) -> None:
    """UsageError when `count`, of some rows, is 0: names the values that there are."""
    if count:
        return
    condition = row_filter(run, rows)
    if condition.terms and (why := why_empty(condition, _filtered_columns(run, rows, condition))):
        raise UsageError(f"no row of the run at {run.directory.url} has {why}")
    raise UsageError(f"the run at {run.directory.url} has no rows{rows.described}{run.lost_images()}")


def _filtered_columns(run: Run, rows: Rows, condition: Filter) -> pa.Table:
    """The columns that a filter reads, of all ok rows of the shards."""
    stored = list(dict.fromkeys(["status", *(column.path[0] for column in condition.columns)]))
    batches = list(run.batches(stored, shards=rows.shards))
    table = pa.Table.from_batches(batches, schema=run.schema(stored))
    return table.filter(pc.equal(table["status"], OK))
