"""Reading a run: chosen heads, columns and moments of its committed shards as numpy, without loading the rest."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import IntegrityError, UsageError
from clipaudit.run.basis import Basis, read_basis, write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.filter_columns import FilterColumn, FilterColumns
from clipaudit.run.moments import Moments, load_moments, merge, moments_by_label, moments_of
from clipaudit.run.projections import column_types, open_table, stream_table, vectors_of
from clipaudit.run.records import CommitRecord, Manifest
from clipaudit.schema import OK, Label, TableSpec, arrow_schema

__all__ = ["Basis", "Coverage", "Run", "Vectors", "write_basis"]

_THREADS = min(8, 2 * (os.cpu_count() or 1))
_BATCH_ROWS = 4096
_DISTINCT_ROWS = 65_536
_WINDOW = 4 * _THREADS


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """One vector column of the ok rows, with some of their other columns; rows in shard and then index order."""

    name: str
    values: npt.NDArray[np.floating[Any]]
    """(n, length), float16 unless another dtype was asked for."""
    shard_id: npt.NDArray[np.int32]
    """(n,) with `index` the identity of each row."""
    index: npt.NDArray[np.int32]
    """(n,) position of the sample in its shard."""
    columns: dict[str, npt.NDArray[Any]]
    """The other columns that were asked for, (n,) each: numbers as such, everything else as Python objects."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self.columns[column]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of the input a run holds."""

    shards: int
    committed: int
    truncated: int
    """Committed shards that ended early."""
    rows: int
    """Samples found in committed shards."""
    ok: int
    skipped: dict[str, int]
    """Rows that are not ok, by status."""
    bytes_in: int
    """Bytes of all shards of the run."""
    bytes_good: int
    """Bytes of committed shards up to their last complete members."""

    @property
    def samples_share(self) -> float:
        """Ok rows among the rows of committed shards, 0..1; 1 when there are no rows."""
        return self.ok / self.rows if self.rows else 1.0

    @property
    def bytes_share(self) -> float:
        """Input bytes that were read whole, 0..1; 1 when the shards are empty."""
        return self.bytes_good / self.bytes_in if self.bytes_in else 1.0


class Run:
    """A run for reading, as its committed shards are when this object first looks; make a new one to see more.

    Raises RunNotFound from the constructor when there is no run at `path`, and IntegrityError from every method that
    meets a missing or damaged file.
    """

    def __init__(self, path: str | os.PathLike[str] | RunDirectory) -> None:
        self.directory = path if isinstance(path, RunDirectory) else RunDirectory(os.fspath(path))
        self.manifest: Manifest = self.directory.open()
        self.spec: TableSpec = self.manifest.table

    def __repr__(self) -> str:
        return f"Run({self.directory.url!r})"

    @cached_property
    def records(self) -> dict[int, CommitRecord]:
        """The commit records, in the order of shard ids."""
        return self.directory.committed()

    @property
    def head_labels(self) -> tuple[str, ...]:
        """The stored heads in column order."""
        return self.spec.heads

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the table, vectors included."""
        return tuple(arrow_schema(self.spec).names)

    @cached_property
    def filter_columns(self) -> FilterColumns:
        """The columns that filters (`--where`) may name, with the types that their values have."""
        return FilterColumns(self.schema(), self._distinct, f"the run at {self.directory.url}")

    def __len__(self) -> int:
        """Ok rows in committed shards."""
        return sum(record.ok for record in self.records.values())

    # -- vectors -----------------------------------------------------------------------------------------------------

    def heads(
        self,
        head: str,
        columns: Sequence[str] | None = None,
        shards: Sequence[int] | None = None,
        dtype: npt.DTypeLike = np.float16,
    ) -> Vectors:
        """One head's coordinates of every ok row, (n, dh), with `columns` (default: `key`, and `label` if there).

        `shards` limits to some shard ids. UsageError when the head, a column or a shard is not in the run.
        """
        self._check_heads([head])
        return self.vectors(head, columns, shards, dtype)

    def embedding(
        self,
        columns: Sequence[str] | None = None,
        shards: Sequence[int] | None = None,
        dtype: npt.DTypeLike = np.float16,
    ) -> Vectors:
        """The unit embedding of every ok row, (n, D); see `heads`."""
        return self.vectors("embedding", columns, shards, dtype)

    def vectors(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        shards: Sequence[int] | None = None,
        dtype: npt.DTypeLike = np.float16,
    ) -> Vectors:
        """Any vector column of every ok row: a head, `embedding` or a component; see `heads`."""
        if name not in self.spec.vectors:
            raise UsageError(f"{name!r} is not a vector column of the run: those are {', '.join(self.spec.vectors)}")
        asked = self._default_columns() if columns is None else tuple(columns)
        self._check_columns(asked)
        records = self._chosen(shards)
        starts = np.cumsum([0, *(record.ok for record in records)])
        try:
            values = np.empty((int(starts[-1]), self.spec.vectors[name]), dtype)
        except (MemoryError, ValueError) as error:
            raise IntegrityError(
                f"{name} of the {int(starts[-1]):,} rows that the run at {self.directory.url} has committed does not"
                " fit into memory: ask for some shards at a time"
            ) from error
        # heads are small parts of large files: threads hide the latency of many of them
        with ThreadPoolExecutor(_THREADS) as pool:
            places = [values[a:b] for a, b in itertools.pairwise(starts)]
            tables = list(pool.map(lambda r, p: self._fill(r, name, asked, p), records, places))
        lengths = [record.ok for record in records]
        index = [np.asarray(table["index"], np.int32) for table in tables]
        together = pa.concat_tables(tables) if tables else arrow_schema(self.spec).empty_table()
        return Vectors(
            name=name,
            values=values,
            shard_id=np.repeat(np.array([record.shard_id for record in records], np.int32), lengths),
            index=np.concatenate([np.empty(0, np.int32), *index]),
            columns={column: _as_numpy(_column(together, column)) for column in asked},
        )

    def _fill(self, record: CommitRecord, name: str, columns: Sequence[str], out: npt.NDArray[Any]) -> pa.Table:
        """Copy one shard's ok values of a vector column into `out`, (ok, length); returns the rows' other columns."""
        others = list(dict.fromkeys(["index", *(column.partition(".")[0] for column in columns)]))
        with open_table(self.directory, record.projections) as table:
            found = table.read([name, *others], column_types(self.spec))
        values, valid = vectors_of(found[name])
        if len(values) != record.rows or int(valid.sum()) != record.ok:
            raise IntegrityError(
                f"{self.directory.storage.full(record.projections)} has {int(valid.sum())} ok rows of {len(values)},"
                f" and its commit record says {record.ok} of {record.rows}"
            )
        out[...] = values if record.ok == record.rows else values[valid]
        kept = found.select(others)
        return kept if record.ok == record.rows else kept.filter(pa.array(valid))

    # -- tables ------------------------------------------------------------------------------------------------------

    def labels(self, shards: Sequence[int] | None = None) -> npt.NDArray[Any]:
        """The label of every ok row, (n,) int64 or str objects, in the order of `heads`; UsageError without labels."""
        table = self.table(["status", "label"], shards)
        return _as_numpy(table.filter(pc.equal(table["status"], "ok"))["label"])

    def table(self, columns: Sequence[str] | None = None, shards: Sequence[int] | None = None) -> pa.Table:
        """Columns of every row, failures included, as stored; default: every column that is not a vector."""
        return pa.Table.from_batches(self.batches(columns, shards=shards), schema=self.schema(columns))

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = _BATCH_ROWS, shards: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The same as `table`, at most `rows` rows at a time: memory does not grow with the run.

        `clipaudit.run.projections.vectors_of(batch["L11H00"])` gives a vector column's numbers.
        """
        schema = self.schema(columns)
        for record in self._chosen(shards):
            for batch in stream_table(self.directory, record.projections, schema.names, rows, column_types(self.spec)):
                yield batch.select(schema.names).replace_schema_metadata(None)

    def schema(self, columns: Sequence[str] | None = None) -> pa.Schema:
        """The Arrow schema of `table(columns)`; UsageError when the run has no such column."""
        names = [name for name in self.columns if name not in self.spec.vectors] if columns is None else list(columns)
        schema = arrow_schema(self.spec)
        self._check_columns(names, nested=False)
        return pa.schema([schema.field(name) for name in names])

    # -- moments, basis, coverage ------------------------------------------------------------------------------------

    def moments(
        self, heads: Sequence[str] | None = None, label: Label = None, shards: Sequence[int] | None = None
    ) -> Moments:
        """Merged moments over the ok rows; of the given heads alone, or of every vector column; of one label's rows.

        Label moments that a shard's file does not hold are computed from its rows: the same numbers, only slower.
        """
        template = self._template(heads)
        if label is not None:
            self._check_columns(["label"])
        records = self._chosen(shards)
        total = template
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(records), _WINDOW):  # not all at once: what waits to be merged takes memory
                window = records[start : start + _WINDOW]
                total = merge([total, *pool.map(lambda record: self._shard_moments(record, template, label), window)])
        return total

    def label_counts(self, shards: Sequence[int] | None = None) -> dict[Label, int]:
        """Ok rows by label, most frequent first; empty when the run has no labels."""
        counts: Counter[Label] = Counter()
        for record in self._chosen(shards):
            counts.update(load_moments(self.directory, record.moments, labels=()).counts)
        return dict(counts.most_common())

    def _template(self, heads: Sequence[str] | None) -> Moments:
        empty = Moments.empty(self.spec)
        if heads is None:
            return empty
        self._check_heads(heads)
        return empty.select(heads, ())

    def _shard_moments(self, record: CommitRecord, template: Moments, label: Label) -> Moments:
        stored = load_moments(self.directory, record.moments, labels=() if label is None else (label,))
        if stored.total.lengths != self.spec.vectors:
            full = self.directory.storage.full(record.moments)
            raise IntegrityError(f"{full} is damaged: it holds moments of other columns than the run's")
        if label is None:
            return stored.total.select(template.heads, template.wide)
        if label not in stored.counts:
            return moments_of(template, {})
        if label in stored.labels:
            return stored.labels[label].select(template.heads, template.wide)
        return moments_by_label(self.directory, record.projections, template, (label,))[label]

    def basis(self) -> Basis:
        """Q and T of every stored head, the readout and the constants."""
        return read_basis(self.directory, self.spec.heads)

    def coverage(self) -> Coverage:
        """How much of the input the committed shards hold."""
        skipped: Counter[str] = Counter()
        for record in self.records.values():
            skipped.update(record.skipped)
        return Coverage(
            shards=len(self.manifest.shards),
            committed=len(self.records),
            truncated=sum(record.truncated is not None for record in self.records.values()),
            rows=sum(record.rows for record in self.records.values()),
            ok=len(self),
            skipped=dict(sorted(skipped.items())),
            bytes_in=sum(shard.size for shard in self.manifest.shards),
            bytes_good=sum(record.bytes_good for record in self.records.values()),
        )

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _chosen(self, shards: Sequence[int] | None) -> list[CommitRecord]:
        if shards is None:
            return list(self.records.values())
        missing = [shard for shard in shards if shard not in self.records]
        if missing:
            raise UsageError(f"shard {missing[0]} is not committed in the run at {self.directory.url}")
        return [self.records[shard] for shard in shards]

    def _distinct(self, column: FilterColumn) -> pa.Array:
        """The values that a column has in ok rows, each once, without null."""
        outer, values = column.path[0], [pa.array([], column.stored)]
        for batch in self.batches(["status", outer], _DISTINCT_ROWS):
            rows = batch.filter(pc.equal(batch.column("status"), OK))
            values.append(pc.unique(column.stored_values(rows)))
        return pc.unique(pa.concat_arrays(values)).drop_null()

    def _default_columns(self) -> tuple[str, ...]:
        return ("key", "label") if self.spec.label_kind is not None else ("key",)

    def _check_columns(self, columns: Sequence[str], nested: bool = True) -> None:
        known = {*self.columns, *(f"attributes.{name}" for name in self.spec.attributes if nested)}
        unknown = [column for column in columns if column not in known]
        if unknown:
            names = [name for name in self.columns if name not in self.spec.vectors]
            raise UsageError(f"the run at {self.directory.url} has no column {unknown[0]!r}: it has {', '.join(names)}")

    def _check_heads(self, heads: Sequence[str]) -> None:
        stored = self.spec.heads
        unknown = [head for head in heads if head not in stored]
        if unknown:
            shown = ", ".join(stored) if len(stored) <= 8 else f"{stored[0]} to {stored[-1]} ({len(stored)} heads)"
            raise UsageError(f"the run at {self.directory.url} stores no head {unknown[0]!r}: it stores {shown}")


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    outer, _, inner = name.partition(".")
    return pc.struct_field(table[outer], inner) if inner else table[outer]


def _as_numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    if pa.types.is_struct(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return np.asarray(column.to_numpy())
