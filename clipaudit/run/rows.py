"""Which rows of a run: chosen by label or attribute value, streamed, and their moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import Float32s
from clipaudit.errors import UsageError
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.run.projections import vectors_of
from clipaudit.run.reader import Run
from clipaudit.schema import OK, Label

BATCH_ROWS: Final = 4096
_SHOWN: Final = 8


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which rows of a run: all ok ones, or some.

    >>> Rows(where={"attributes.place": "water"}).described
    ', attributes.place = water'
    """

    shards: tuple[int, ...] | None = None
    """Shard ids; None for all."""
    where: Mapping[str, Label] = field(default_factory=dict)
    """Column -> value that a row must have: `label`, or `attributes.split`."""

    @property
    def described(self) -> str:
        """`, attributes.split = test`, to follow the name of a run; empty for all rows."""
        parts = [] if self.shards is None else [f"{len(self.shards)} shards"]
        parts += [f"{name} = {value}" for name, value in self.where.items()]
        return f", {', '.join(parts)}" if parts else ""


ALL = Rows()


@dataclass(frozen=True, eq=False, kw_only=True)
class RowBatch:
    """Some ok rows of a run."""

    vectors: dict[str, Float32s]
    """(n, length) by column."""
    columns: dict[str, npt.NDArray[Any]]
    """(n,) objects by column."""

    def __len__(self) -> int:
        return len(next(iter({**self.vectors, **self.columns}.values()), ()))


def chosen_rows(run: Run, expressions: Sequence[str]) -> Rows:
    """`attributes.place=water`, `place=water` or `label=3`, any number of them, all of which a row must satisfy.

    UsageError when one is no such expression, or names a column that the run lacks.
    """
    where: dict[str, Label] = {}
    for expression in expressions:
        name, equals, value = (part.strip() for part in expression.partition("="))
        if not equals or not name or not value:
            raise UsageError(f"{expression!r} is not a choice of rows: write attributes.NAME=VALUE or label=VALUE")
        column = group_column(run, name)
        if column in where:
            raise UsageError(f"{column} is asked for twice: {where[column]} and {value}")
        where[column] = label_value(run, value) if column == "label" else value
    return Rows(where=where)


def group_column(run: Run, name: str) -> str:
    """`label`, or `attributes.place` for `place` and `attributes.place`; UsageError when the run has no such column."""
    attribute = name.removeprefix("attributes.")
    if name == "label" and run.spec.label_kind is not None:
        return name
    if attribute not in run.spec.attributes:
        known = ["label"] * (run.spec.label_kind is not None) + [f"attributes.{a}" for a in run.spec.attributes]
        raise UsageError(
            f"the run at {run.directory.url} has no column {name!r} to choose rows by: it has"
            f" {', '.join(known) or 'none'}"
        )
    return f"attributes.{attribute}"


def label_value(run: Run, text: str) -> Label:
    """A label as the run stores it; UsageError when the run's are numbers and this is none."""
    if run.spec.label_kind != "int":
        return text
    if not text.removeprefix("-").isdecimal():
        raise UsageError(f"the labels of the run at {run.directory.url} are numbers, and {text!r} is none")
    return int(text)


def stream_rows(
    run: Run, vectors: Sequence[str], columns: Sequence[str] = (), rows: Rows = ALL, size: int = BATCH_ROWS
) -> Iterator[RowBatch]:
    """Vector columns (float32) and others (`label`, `attributes.place`) of ok rows, at most `size` at a time.

    UsageError when the run has no such column.
    """
    wanted = list(dict.fromkeys([*columns, *rows.where]))
    for name in wanted:
        outer, _, inner = name.partition(".")
        if inner and (outer != "attributes" or inner not in run.spec.attributes):
            known = ", ".join(run.spec.attributes) or "none"
            raise UsageError(f"the run at {run.directory.url} has no attribute {inner!r}: it has {known}")
    stored = list(dict.fromkeys(["status", *(name.partition(".")[0] for name in wanted), *vectors]))
    for batch in run.batches(stored, size, rows.shards):
        kept = np.asarray(pc.equal(batch.column("status"), OK).to_numpy(zero_copy_only=False), np.bool_)
        for name, value in rows.where.items():
            kept &= np.array([found == value for found in _values(batch, name)], np.bool_)
        if kept.any():
            yield RowBatch(
                vectors={name: vectors_of(batch.column(name))[0][kept].astype(np.float32) for name in vectors},
                columns={name: _values(batch, name)[kept] for name in columns},
            )


def _values(batch: pa.RecordBatch, name: str) -> npt.NDArray[Any]:
    outer, _, inner = name.partition(".")
    column = batch.column(outer)
    values = (pc.struct_field(column, inner) if inner else column).to_pylist()
    found = np.empty(len(values), object)
    found[:] = values
    return found


def moments_over(run: Run, rows: Rows = ALL) -> Moments:
    """Moments of every vector column over some rows: stored ones where they say it, else from one pass over the rows.

    UsageError when there are no such rows, naming the values that there are.
    """
    if not rows.where:
        found = run.moments(shards=rows.shards)
    elif list(rows.where) == ["label"]:
        found = run.moments(label=rows.where["label"], shards=rows.shards)
    else:
        found = Moments.empty(run.spec)
        for batch in stream_rows(run, list(run.spec.vectors), (), rows, size=1024):
            found = merge([found, moments_of(Moments.empty(run.spec), batch.vectors)])
    return found


def require_rows(run: Run, rows: Rows, count: int) -> None:
    """UsageError when `count`, of some rows, is 0: names the values that there are."""
    if count:
        return
    counts: dict[str, Counter[str]] = {}
    for batch in stream_rows(run, (), list(rows.where), replace(rows, where={})):
        for name, values in batch.columns.items():
            counts.setdefault(name, Counter()).update(map(str, values))
    for name, found in counts.items():
        if str(rows.where[name]) not in found:
            shown = ", ".join(value for value, _ in found.most_common(_SHOWN)) + ", ..." * (len(found) > _SHOWN)
            raise UsageError(
                f"no row of the run at {run.directory.url} has {name} = {rows.where[name]}: there is {shown}"
            )
    raise UsageError(f"the run at {run.directory.url} has no rows{rows.described}")
