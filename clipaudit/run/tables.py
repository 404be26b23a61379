"""The plain columns of a run: tables, batches and frames of its committed rows, with the types of its attributes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import IntegrityError, UsageError
from clipaudit.run.classes import ClassNames, classes_beside
from clipaudit.run.column_types import ColumnType, attribute_types, column_type, with_types
from clipaudit.run.directory import RunDirectory, opened_place
from clipaudit.run.frames import flat_table, pandas_frame, polars_frame
from clipaudit.run.growth import History
from clipaudit.run.projections import stored_types, stream_table
from clipaudit.run.records import CommitRecord, Manifest
from clipaudit.run.summary import RunState
from clipaudit.run.vectors import as_numpy, plain_column
from clipaudit.schema import Names, TableSpec, arrow_schema, as_names

Shards: TypeAlias = int | Sequence[int] | None
"""A shard id, several, or None for all."""

_BATCH_ROWS = 4096


class RunTables:
    """What `Run` has beside vectors and moments; see there."""

    def __init__(self, path: str | os.PathLike[str] | RunDirectory) -> None:
        self.directory, self.moment = (path, None) if isinstance(path, RunDirectory) else opened_place(path)
        newest = self.directory.history()
        self.newest_generation = newest.generation
        self.history: History = newest if self.moment is None else newest.at(self.moment, self.directory.url)
        self.manifest: Manifest = replace(newest.manifest, shards=self.history.shards)
        """As `run.json` has it, with the shards that were appended too, where they are now."""
        self.spec: TableSpec = self.manifest.table

    @property
    def url(self) -> str:
        """The run's path or URL, with the `@` of an earlier state: what another command is given to read the same."""
        return self.directory.url if self.moment is None else f"{self.directory.url}@{self.moment.text}"

    def folder(self, name: str) -> str:
        """Where in the run a result of this state goes: `heads`, and of an earlier state `heads@2`."""
        return name if self.moment is None else f"{name}@{self.moment.text.replace(':', '')}"

    @cached_property
    def records(self) -> dict[int, CommitRecord]:
        """The commit records, in the order of shard ids."""
        known = len(self.manifest.shards)
        if self.moment is not None:
            earlier = {shard for shard in self.directory.committed_ids() if shard < known}
            records = self.directory.committed(earlier)
            return {shard: record for shard, record in records.items() if self.moment.covers(record.committed_at)}
        records = self.directory.committed()
        if max(records, default=-1) < known:
            return records
        # The run has grown since this object was made: what was added then is not a part of it.
        later = range(known, len(self.directory.history().shards))
        return {shard: record for shard, record in records.items() if shard not in later}

    @property
    def state(self) -> RunState:
        """Which generation and which time these records are of."""
        times = [record.committed_at for record in self.records.values()]
        return RunState(
            generation=self.history.generation,
            generations=self.newest_generation + 1,
            committed_at=max(times, default=""),
            asked=None if self.moment is None else self.moment.text,
        )

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

    @cached_property
    def class_names(self) -> ClassNames | None:
        """What the labels are called, from `classnames.txt` beside the shards or above; None without such a file.

        UsageError when the file cannot be used.
        """
        if self.spec.label_kind is None:
            return None
        return classes_beside([shard.url for shard in self.manifest.shards])

    # -- rows -----------------------------------------------------------------------------------------------------

    def labels(self, shards: Shards = None) -> npt.NDArray[Any]:
        """The label of every ok row, (n,) int64 or str objects, in the order of `heads`; UsageError without labels.

        Where images may have several labels (`spec.multi_label`) each is a tuple of them, () for none.
        """
        table = self.table(["status", "label"], shards)
        return as_numpy(table.filter(pc.equal(table["status"], "ok"))["label"])

    def table(self, columns: Names | None = None, shards: Shards = None) -> pa.Table:
        """Columns of every row, failures included; default: every column that is not a vector.

        Attributes have the types of `column_types`; one alone is asked for as `attributes.place`, or as `place`.
        """
        asked = self._plain_columns() if columns is None else as_names(columns)
        names = self._full_names(asked)
        outer = list(dict.fromkeys(name.partition(".")[0] for name in names))
        table = self.typed(pa.Table.from_batches(self.batches(outer, shards=shards), schema=self.schema(outer)))
        if outer == list(asked):
            return table
        return pa.table({given: plain_column(table, name) for given, name in zip(asked, names, strict=True)})

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

        Where images may have several labels `label` is a `list of numbers` or a `list of texts`.

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

    # -- helpers --------------------------------------------------------------------------------------------------

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

    def _full_names(self, columns: Sequence[str]) -> list[str]:
        """Columns by their full names, `attributes.place` for `place`; UsageError when the run has no such column."""
        names = [
            f"attributes.{name}" if name not in self.columns and name in self.spec.attributes else name
            for name in columns
        ]
        self._check_columns(names)
        return names

    def _check_columns(self, columns: Sequence[str], nested: bool = True) -> None:
        known = {*self.columns, *(f"attributes.{name}" for name in self.spec.attributes if nested)}
        unknown = [column for column in columns if column not in known]
        if unknown:
            names = ", ".join(self._flat_columns() if nested else self._plain_columns())
            nearest = difflib.get_close_matches(unknown[0], [*known, *self.spec.attributes], n=1)
            meant = f"did you mean {nearest[0]}? " if nearest else ""
            raise UsageError(f"the run at {self.directory.url} has no column {unknown[0]!r}: {meant}it has {names}")
