"""The plain columns of a run: tables, batches and frames of its committed rows, with the types of its attributes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import IntegrityError, UsageError
from clipaudit.run.classes import ClassNames, classes_beside
from clipaudit.run.column_types import ColumnType, attribute_types, column_type, recorded_types, with_types
from clipaudit.run.columns import ARROW_TYPES, JoinedValues, read_columns
from clipaudit.run.directory import RunDirectory, opened_place
from clipaudit.run.frames import flat_table, pandas_frame, polars_frame
from clipaudit.run.growth import History
from clipaudit.run.projections import stored_types, stream_table
from clipaudit.run.records import ColumnRecord, CommitRecord, Manifest
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
        return tuple(self._schema.names)

    @cached_property
    def joined(self) -> dict[str, ColumnRecord]:
        """The columns that `clipaudit columns add` joined to the run, by name; they are attributes like the others.

        Those that there were when this object first looked. IntegrityError when a record is damaged.
        """
        records = read_columns(self.directory)
        # the job's own attributes stay what they are, whatever was copied into the directory
        return {name: record for name, record in records.items() if name not in self.spec.attributes}

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of all attributes: the job's, then the joined ones."""
        return (*self.spec.attributes, *self.joined)

    @cached_property
    def _schema(self) -> pa.Schema:
        """Of the files of the job, with joined columns as fields of `attributes`."""
        stored = arrow_schema(self.spec)
        if not self.joined:
            return stored
        own = [] if not self.spec.attributes else list(stored.field("attributes").type)
        more = [pa.field(name, ARROW_TYPES[record.kind]) for name, record in self.joined.items()]
        field = pa.field("attributes", pa.struct([*own, *more]))
        place = stored.get_field_index("attributes")
        return stored.insert(stored.get_field_index("width"), field) if place < 0 else stored.set(place, field)

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
        stored, joined = self._stored(schema.names), self._joined_values(schema.names)
        for record in self._chosen(shards):
            for batch in stream_table(self.directory, record.projections, stored, rows, stored_types(self.spec)):
                whole = batch if joined is None else self._with_joined(batch, record.shard_id, joined)
                yield whole.select(schema.names).replace_schema_metadata(None)

    def schema(self, columns: Names | None = None) -> pa.Schema:
        """The Arrow schema of `batches(columns)`; UsageError when the run has no such column."""
        names = self._plain_columns() if columns is None else as_names(columns)
        self._check_columns(names, nested=False)
        return pa.schema([self._schema.field(name) for name in names])

    def stored_batches(self, columns: Sequence[str], rows: int, shards: Shards = None) -> Iterator[pa.RecordBatch]:
        """`batches` of columns of the job's own table, without joined columns."""
        for record in self._chosen(shards):
            for batch in stream_table(self.directory, record.projections, columns, rows, stored_types(self.spec)):
                yield batch.select(list(columns)).replace_schema_metadata(None)

    def joined_arrays(
        self, shard_id: npt.NDArray[np.int32], index: npt.NDArray[np.int32]
    ) -> dict[str, pa.ChunkedArray]:
        """The joined columns of any rows of the run, (n,) each, by name; null for a row without a value.

        shard_id, index: (n,) int32, which rows; those of one shard next to each other. IntegrityError when a file is
        damaged.
        """
        joined = JoinedValues(self.directory, self.joined)
        starts = np.flatnonzero(np.diff(shard_id, prepend=-1))
        pieces = (
            [
                joined.arrays(int(shard_id[start]), part)
                for start, part in zip(starts.tolist(), np.split(index, starts[1:]), strict=True)
            ]
            if len(index)
            else []
        )
        return {
            field.name: pa.chunked_array([piece[number] for piece in pieces], field.type)
            for number, field in enumerate(joined.fields)
        }

    def column_types(self) -> dict[str, ColumnType]:
        """`number`, `boolean`, `text` or `list of texts` of every plain column, by name (`attributes.place`).

        Where images may have several labels `label` is a `list of numbers` or a `list of texts`.

        Attributes of the job have the types that they had in the json; those of version 0.1, which recorded none, are
        typed by all committed values: numbers and booleans as JSON spells them, text for everything else. Joined
        columns have types of their own.
        """
        types = {field.name: field.type for field in self.schema() if field.name != "attributes"}
        types |= {f"image.{name}": pa.float32() for name in self.spec.image_properties}
        types |= {f"attributes.{name}": kind for name, kind in self.attribute_types.items()}
        return {name: column_type(types[name]) for name in self.flat_columns()}

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
        """bool, int64, float64, string or lists of strings of each attribute, by its name; see `column_types`."""
        own = attribute_types(self.directory, self.records.values(), self.spec)
        return own | {name: ARROW_TYPES[record.kind] for name, record in self.joined.items()}

    def holds_lists(self, attribute: str) -> bool:
        """Whether an attribute of this name holds lists of texts."""
        if attribute in self.joined:
            return self.joined[attribute].kind == "texts"
        recorded = recorded_types(self.records.values(), self.spec)  # lists of version 0.1 were no values
        return recorded is not None and pa.types.is_list(recorded[attribute])

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

    def flat_columns(self, *, vectors: bool = False) -> list[str]:
        """Every column that is not a vector, or really every one, fields of structs by their own names."""
        names: list[str] = []
        for field in self._schema:
            if pa.types.is_struct(field.type):
                names += [f"{field.name}.{inner.name}" for inner in field.type]
            elif vectors or field.name not in self.spec.vectors:
                names.append(field.name)
        return names

    def _stored(self, columns: Sequence[str]) -> list[str]:
        """What must be read of the job's files for some columns."""
        if "attributes" not in columns or not self.joined:
            return list(columns)
        own = [name for name in columns if name != "attributes" or self.spec.attributes]
        return list(dict.fromkeys([*own, "index"]))

    def _joined_values(self, columns: Sequence[str]) -> JoinedValues | None:
        """The joined columns, where the attributes are asked for and there are any."""
        return JoinedValues(self.directory, self.joined) if "attributes" in columns and self.joined else None

    def _with_joined(self, rows: Any, shard_id: int, joined: JoinedValues) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Rows of one shard as `_stored` names them, a batch or a table, with joined columns among the attributes."""
        index = np.asarray(rows["index"], np.int32)
        field = self._schema.field("attributes")
        own = [pc.struct_field(rows["attributes"], name) for name in self.spec.attributes]
        own = [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in own]
        column = pa.StructArray.from_arrays([*own, *joined.arrays(shard_id, index)], fields=list(field.type))
        place = rows.schema.get_field_index("attributes")
        return rows.append_column(field, column) if place < 0 else rows.set_column(place, field, column)

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
            f"attributes.{name}" if name not in self.columns and name in self.attributes else name for name in columns
        ]
        self._check_columns(names)
        return names

    def _check_columns(self, columns: Sequence[str], nested: bool = True) -> None:
        known = {*self.columns, *(self.flat_columns() if nested else ())}
        unknown = [column for column in columns if column not in known]
        if unknown:
            names = ", ".join(self.flat_columns() if nested else self._plain_columns())
            nearest = difflib.get_close_matches(unknown[0], [*known, *self.attributes], n=1)
            meant = f"did you mean {nearest[0]}? " if nearest else ""
            raise UsageError(f"the run at {self.directory.url} has no column {unknown[0]!r}: {meant}it has {names}")
