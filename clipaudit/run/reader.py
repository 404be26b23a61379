"""Reading a run: chosen heads, columns and moments of its committed shards as numpy, without loading the rest."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import ClipauditError, IntegrityError, UsageError
from clipaudit.run.basis import Basis, read_basis
from clipaudit.run.column_types import ColumnType, attribute_types, column_type, with_types
from clipaudit.run.directory import RunDirectory
from clipaudit.run.frames import flat_table, pandas_frame, polars_frame
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.run.moments_file import load_moments
from clipaudit.run.projections import open_table, stored_types, stream_table, vectors_of
from clipaudit.run.records import CommitRecord, Manifest
from clipaudit.run.row_moments import moments_by_label
from clipaudit.run.summary import Coverage, RunSummary
from clipaudit.run.vectors import Vectors, as_numpy, plain_column
from clipaudit.schema import Label, Names, Several, TableSpec, arrow_schema, as_names

Shards: TypeAlias = int | Sequence[int] | None
"""A shard id, several, or None for all."""

RunPlace: TypeAlias = "Run | RunDirectory | str | os.PathLike[str]"
"""A run, or where it is."""

_THREADS = min(8, 2 * (os.cpu_count() or 1))
_BATCH_ROWS = 4096
_WINDOW = 4 * _THREADS


class Run:
    """A run for reading, as its committed shards are when this object first looks; make a new one to see more.

    Arguments that take names (heads, columns, shards) take one or several. Raises RunNotFound from the constructor when
    there is no run at `path`, UsageError from a method that is given a name that the run does not have, and
    IntegrityError from every method that meets a missing or damaged file.

    >>> run = Run("demo-out/birds-run")
    >>> head = run.heads("L05H00", columns="attributes.place")  # reads these two columns only
    >>> head.values.shape == (len(run), 32)
    True
    >>> sorted(set(head["attributes.place"]))
    ['land', 'water']
    >>> run.moments("L05H00", label=1).covariance().shape
    (32, 32)
    """

    def __init__(self, path: str | os.PathLike[str] | RunDirectory) -> None:
        self.directory = path if isinstance(path, RunDirectory) else RunDirectory(os.fspath(path))
        self.manifest: Manifest = self.directory.open()
        self.spec: TableSpec = self.manifest.table

    def __repr__(self) -> str:
        return self._summary().text()

    def _repr_html_(self) -> str:
        """A table of what is in the run, for notebooks."""
        return self._summary().html()

    @cached_property
    def records(self) -> dict[int, CommitRecord]:
        """The commit records, in the order of shard ids."""
        return self.directory.committed()

    @property
    def files(self) -> list[str]:
        """Full paths or URLs of the committed Parquet files, in the order of shard ids, for other tools."""
        return [self.directory.storage.full(record.projections) for record in self.records.values()]

    @property
    def head_labels(self) -> tuple[str, ...]:
        """The stored heads in column order."""
        return self.spec.heads

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the table, vectors included."""
        return tuple(arrow_schema(self.spec).names)

    def __len__(self) -> int:
        """Ok rows in committed shards."""
        return sum(record.ok for record in self.records.values())

    # -- vectors -----------------------------------------------------------------------------------------------------

    @overload
    def heads(
        self, head: str, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> Vectors: ...
    @overload
    def heads(
        self, head: Several, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> dict[str, Vectors]: ...
    def heads(
        self,
        head: str | Several,
        columns: Names | None = None,
        shards: Shards = None,
        dtype: npt.DTypeLike = np.float16,
    ) -> Vectors | dict[str, Vectors]:
        """A head's coordinates of every ok row, (n, dh), with `columns` (default: `key`, and `label` if there is one).

        One head gives `Vectors`, a list or tuple of heads a dict of them by name. `shards` limits to some shard ids.
        UsageError when a head, a column or a shard is not in the run.
        """
        self._check_heads(as_names(head))
        read = self._read_vectors(as_names(head), columns, shards, dtype)
        return read[head] if isinstance(head, str) else read

    def embedding(
        self, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> Vectors:
        """The unit embedding of every ok row, (n, D); see `heads`."""
        return self.vectors("embedding", columns, shards, dtype)

    @overload
    def vectors(
        self, name: str, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> Vectors: ...
    @overload
    def vectors(
        self, name: Several, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> dict[str, Vectors]: ...
    def vectors(
        self,
        name: str | Several,
        columns: Names | None = None,
        shards: Shards = None,
        dtype: npt.DTypeLike = np.float16,
    ) -> Vectors | dict[str, Vectors]:
        """Any vector column of every ok row: a head, `embedding` or a component; one or several as in `heads`."""
        names = as_names(name)
        unknown = [one for one in names if one not in self.spec.vectors]
        if unknown:
            listed = ", ".join(self.spec.vectors)
            raise UsageError(f"{unknown[0]!r} is not a vector column of the run: those are {listed}")
        read = self._read_vectors(names, columns, shards, dtype)
        return read[name] if isinstance(name, str) else read

    def _read_vectors(
        self, names: Sequence[str], columns: Names | None, shards: Shards, dtype: npt.DTypeLike
    ) -> dict[str, Vectors]:
        columns = self._default_columns() if columns is None else as_names(columns)
        self._check_columns(columns)
        records = self._chosen(shards)
        starts = np.cumsum([0, *(record.ok for record in records)])
        values = {name: self._empty(name, int(starts[-1]), dtype) for name in names}
        # heads are small parts of large files: threads hide the latency of many of them
        with ThreadPoolExecutor(_THREADS) as pool:
            windows = [{name: array[a:b] for name, array in values.items()} for a, b in itertools.pairwise(starts)]
            tables = list(pool.map(lambda record, out: self._fill(record, columns, out), records, windows))
        lengths = [record.ok for record in records]
        table = pa.concat_tables(tables) if tables else arrow_schema(self.spec).empty_table()
        table = self.typed(table) if any(name.startswith("attributes") for name in columns) else table
        shard_id = np.repeat(np.array([record.shard_id for record in records], np.int32), lengths)
        index = np.concatenate([np.empty(0, np.int32), *(np.asarray(part["index"], np.int32) for part in tables)])
        others = {column: as_numpy(plain_column(table, column)) for column in columns}
        return {
            name: Vectors(name=name, values=array, shard_id=shard_id, index=index, columns=others)
            for name, array in values.items()
        }

    def _empty(self, name: str, rows: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        try:
            return np.empty((rows, self.spec.vectors[name]), dtype)
        except (MemoryError, ValueError) as error:
            raise IntegrityError(
                f"{name} of the {rows:,} rows that the run at {self.directory.url} has committed does not fit into"
                " memory: ask for some shards at a time"
            ) from error

    def _fill(self, record: CommitRecord, columns: Sequence[str], out: Mapping[str, npt.NDArray[Any]]) -> pa.Table:
        """Copy one shard's ok values of vector columns into `out`, (ok, length) by name; returns its other columns."""
        others = list(dict.fromkeys(["index", *(column.partition(".")[0] for column in columns)]))
        with open_table(self.directory, record.projections) as file:
            table = file.read([*out, *others], stored_types(self.spec))
        rest = table.select(others)
        for name, target in out.items():
            values, valid = vectors_of(table[name])
            if len(values) != record.rows or int(valid.sum()) != record.ok:
                raise IntegrityError(
                    f"{self.directory.storage.full(record.projections)} has {int(valid.sum())} ok rows of"
                    f" {len(values)}, and its commit record says {record.ok} of {record.rows}"
                )
            whole = record.ok == record.rows
            target[...] = values if whole else values[valid]
            rest = rest if whole or len(rest) == record.ok else rest.filter(pa.array(valid))
        return rest

    # -- tables ------------------------------------------------------------------------------------------------------

    def labels(self, shards: Shards = None) -> npt.NDArray[Any]:
        """The label of every ok row, (n,) int64 or str objects, in the order of `heads`; UsageError without labels."""
        table = self.table(["status", "label"], shards)
        return as_numpy(table.filter(pc.equal(table["status"], "ok"))["label"])

    def table(self, columns: Names | None = None, shards: Shards = None) -> pa.Table:
        """Columns of every row, failures included; default: every column that is not a vector.

        Attributes have the types of `column_types`; one alone is asked for as `attributes.place`.
        """
        names = self._plain_columns() if columns is None else as_names(columns)
        self._check_columns(names)
        outer = list(dict.fromkeys(name.partition(".")[0] for name in names))
        table = self.typed(pa.Table.from_batches(self.batches(outer, shards=shards), schema=self.schema(outer)))
        if outer == list(names):
            return table
        return pa.table({name: plain_column(table, name) for name in names})

    def batches(
        self, columns: Names | None = None, rows: int = _BATCH_ROWS, shards: Shards = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of `table`, at most `rows` at a time, as stored: memory does not grow with the run.

        Attributes are texts; `typed(batch)` gives them the types of `column_types`.
        `clipaudit.run.projections.vectors_of(batch["L11H05"])` gives a vector column's numbers.
        """
        schema = self.schema(columns)
        for record in self._chosen(shards):
            for batch in stream_table(self.directory, record.projections, schema.names, rows, stored_types(self.spec)):
                yield batch.select(schema.names).replace_schema_metadata(None)

    def schema(self, columns: Names | None = None) -> pa.Schema:
        """The Arrow schema of `batches(columns)`; UsageError when the run has no such column."""
        names = self._plain_columns() if columns is None else as_names(columns)
        schema = arrow_schema(self.spec)
        self._check_columns(names, nested=False)
        return pa.schema([schema.field(name) for name in names])

    def column_types(self) -> dict[str, ColumnType]:
        """`number`, `boolean` or `text` of every plain column, by name; attributes as `attributes.place`.

        Attributes are stored as text, and typed by all committed values: numbers and booleans as JSON spells them,
        text for everything else and for a column without values. The first call reads every attribute once.
        """
        types = {field.name: field.type for field in self.schema() if field.name != "attributes"}
        types |= {f"attributes.{name}": kind for name, kind in self.attribute_types.items()}
        return {name: column_type(types[name]) for name in self._flat_columns()}

    def typed(self, rows: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
        """A record batch or table of this run's stored rows, with attributes of the types of `column_types`.

        Rows of shards that were committed after this object looked may not fit: IntegrityError.
        """
        place = rows.schema.get_field_index("attributes")
        if place < 0:
            return rows
        try:
            column = with_types(rows.column(place), self.attribute_types)
        except pa.ArrowInvalid as error:
            raise IntegrityError(
                f"attributes of the run at {self.directory.url} have other types than when it was opened: open it again"
                f" ({error})"
            ) from error
        return rows.set_column(place, pa.field("attributes", column.type), column)

    @cached_property
    def attribute_types(self) -> dict[str, pa.DataType]:
        """bool, int64, float64 or string of each attribute, by its name; see `column_types`."""
        return attribute_types(self.directory, self.records.values(), self.spec)

    def to_pandas(self, columns: Names | None = None, heads: Names = (), shards: Shards = None) -> Any:  # noqa: ANN401 - pandas may not be installed
        """The rows of `table` as a `pandas.DataFrame`; UsageError when pandas is not installed.

        Attributes are columns `attributes.place`. `heads` names vector columns to add: each row's is a (length,)
        float32 array, None where the image could not be read.
        """
        return pandas_frame(self._flat_table(columns, heads, shards))

    def to_polars(self, columns: Names | None = None, heads: Names = (), shards: Shards = None) -> Any:  # noqa: ANN401 - polars may not be installed
        """The rows of `table` as a `polars.DataFrame`; see `to_pandas`. Vectors are of type `pl.Array`."""
        return polars_frame(self._flat_table(columns, heads, shards))

    def _flat_table(self, columns: Names | None, heads: Names, shards: Shards) -> pa.Table:
        plain = self._plain_columns() if columns is None else as_names(columns)
        return flat_table(self.table([*plain, *as_names(heads)], shards), list(self.spec.vectors))

    # -- moments, basis, coverage ------------------------------------------------------------------------------------

    def moments(self, heads: Names | None = None, label: Label = None, shards: Shards = None) -> Moments:
        """Merged moments over the ok rows; of one head or some, or of every vector column; of one label's rows.

        Label moments that a shard's file does not hold are computed from its rows: the same numbers, only slower.
        """
        template = self._template(None if heads is None else as_names(heads))
        if label is not None:
            self._check_columns(["label"])
        records = self._chosen(shards)
        total = template
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(records), _WINDOW):  # not all at once: what waits to be merged takes memory
                window = records[start : start + _WINDOW]
                total = merge([total, *pool.map(lambda record: self._shard_moments(record, template, label), window)])
        return total

    def label_counts(self, shards: Shards = None) -> dict[Label, int]:
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

    def _summary(self) -> RunSummary:
        try:
            coverage: Coverage | str = self.coverage()
        except ClipauditError as error:  # a repr must not raise
            coverage = str(error)
        return RunSummary(
            url=self.directory.url,
            model=str(self.manifest.model.get("name", "")),
            heads=self.spec.heads,
            head_dim=self.spec.head_dim,
            embed_dim=self.spec.embed_dim,
            columns=self._flat_columns(),
            coverage=coverage,
        )

    def _plain_columns(self) -> list[str]:
        """Every column that is not a vector."""
        return [name for name in self.columns if name not in self.spec.vectors]

    def _flat_columns(self) -> list[str]:
        """The same with every attribute by its own name."""
        attributes = [f"attributes.{name}" for name in self.spec.attributes]
        return [
            name for column in self._plain_columns() for name in (attributes if column == "attributes" else [column])
        ]

    def _chosen(self, shards: Shards) -> list[CommitRecord]:
        if shards is None:
            return list(self.records.values())
        shards = [shards] if isinstance(shards, int) else shards
        missing = [shard for shard in shards if shard not in self.records]
        if missing:
            raise UsageError(f"shard {missing[0]} is not committed in the run at {self.directory.url}")
        return [self.records[shard] for shard in shards]

    def _default_columns(self) -> tuple[str, ...]:
        return ("key", "label") if self.spec.label_kind is not None else ("key",)

    def _check_columns(self, columns: Sequence[str], nested: bool = True) -> None:
        known = {*self.columns, *(f"attributes.{name}" for name in self.spec.attributes if nested)}
        unknown = [column for column in columns if column not in known]
        if unknown:
            names = ", ".join(self._plain_columns())
            raise UsageError(f"the run at {self.directory.url} has no column {unknown[0]!r}: it has {names}")

    def _check_heads(self, heads: Sequence[str]) -> None:
        stored = self.spec.heads
        unknown = [head for head in heads if head not in stored]
        if unknown:
            shown = ", ".join(stored) if len(stored) <= 8 else f"{stored[0]} to {stored[-1]} ({len(stored)} heads)"
            raise UsageError(f"the run at {self.directory.url} stores no head {unknown[0]!r}: it stores {shown}")


def opened(run: RunPlace) -> Run:
    """The run itself, or the one at a path or URL; RunNotFound when there is none."""
    return run if isinstance(run, Run) else Run(run)
