"""Columns that were joined to a run after its job: one Parquet file and one record each under `columns/`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipaudit.errors import IntegrityError
from clipaudit.run.column_types import TEXTS
from clipaudit.run.directory import RunDirectory
from clipaudit.run.projections import TableFile, open_table
from clipaudit.run.records import ColumnRecord, StoredFile
from clipaudit.storage.faults import storage_errors

COLUMNS: Final = "columns"
ROW_GROUP: Final = 65_536
ARROW_TYPES: Final[Mapping[str, pa.DataType]] = {
    "number": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "text": pa.string(),
    "texts": TEXTS,
}
"""`ColumnRecord.kind` -> type of the column `value`."""
_RECORD: Final = re.compile(r"(.+)\.json")


def record_path(name: str) -> str:
    """Where the record of a column is, relative to the run directory."""
    return f"{COLUMNS}/{name}.json"


def read_columns(directory: RunDirectory) -> dict[str, ColumnRecord]:
    """The records of a run's joined columns by name, in alphabetical order; IntegrityError when one is damaged."""
    names = [match[1] for file in directory.storage.names(COLUMNS) if (match := _RECORD.fullmatch(file))]
    paths = [record_path(name) for name in sorted(names)]
    contents = zip(paths, directory.storage.read_many(paths), strict=True)
    records = [ColumnRecord.from_json(data, directory.storage.full(path)) for path, data in contents if data]
    return {record.name: record for record in records}


def write_values(directory: RunDirectory, name: str, pieces: Iterator[pa.Table], kind: str) -> tuple[str, StoredFile]:
    """Write a column's values to a file of its own; (path relative to the run, size and hash).

    pieces: tables with `shard_id` and `index` (int32) and `value`, sorted by shard and then index. Until a record names
    the file it counts for nothing. Raises StorageFull and UsageError as every method of a run directory that writes.
    """
    directory.storage.make_directories([COLUMNS])
    path = f"{COLUMNS}/{name}-{uuid.uuid4().hex[:12]}.parquet"
    schema = pa.schema(
        [
            pa.field("shard_id", pa.int32(), nullable=False),
            pa.field("index", pa.int32(), nullable=False),
            pa.field("value", ARROW_TYPES[kind]),
        ]
    )
    sink = directory.storage.open_new(path)
    try:
        with storage_errors(directory.storage.full(path)):
            with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
                for piece in pieces:
                    writer.write_table(piece.cast(schema), row_group_size=ROW_GROUP)
            return path, StoredFile(sha256=sink.finish(), bytes=sink.tell())
    except BaseException:  # also KeyboardInterrupt: no values are left behind that no record names
        sink.discard()
        directory.storage.remove(path)
        raise


class NameTakenError(Exception):
    """A column of this name counts already."""


def publish_column(directory: RunDirectory, record: ColumnRecord, *, replace: bool) -> ColumnRecord | None:
    """Make a written column count; returns the record in whose place it is now, None where there was none.

    The record is created exclusively, so that of two at the same time one gets NameTakenError, unless the other may be
    replaced. The older values stay until `remove_values`: whenever the process ends, one of the two columns is whole.
    """
    path = record_path(record.name)
    data = record.to_json()
    if directory.storage.create(path, data):
        return None
    older = _record(directory, record.name)
    if older is not None and older.path == record.path:
        return None  # this call made it: the store's first answer was lost
    if not replace:
        raise NameTakenError(record.name)
    directory.storage.replace(path, data)
    return older


def restore_column(directory: RunDirectory, record: ColumnRecord, older: ColumnRecord | None) -> None:
    """Take back what `publish_column` did, with the values that it published."""
    if older is None:
        remove_column(directory, record)
        return
    directory.storage.replace(record_path(record.name), older.to_json())
    remove_values(directory, record)


def remove_values(directory: RunDirectory, record: ColumnRecord) -> None:
    """Remove the values of a column that does not count any more; readers that have opened it say so."""
    directory.storage.remove(record.path)


def remove_column(directory: RunDirectory, record: ColumnRecord) -> None:
    """Remove a joined column: its record first, so that no reader looks for values that are gone."""
    directory.storage.remove(record_path(record.name))
    remove_values(directory, record)


def _record(directory: RunDirectory, name: str) -> ColumnRecord | None:
    try:
        data = directory.storage.read(record_path(name))
    except FileNotFoundError:
        return None
    return ColumnRecord.from_json(data, directory.storage.full(record_path(name)))


class JoinedValues:
    """Values of joined columns for the rows of a run, one shard after another; not for several threads at once.

    Of each column the row groups of the present shard are in memory and no more, if shards are asked for in order.
    """

    def __init__(self, directory: RunDirectory, records: Mapping[str, ColumnRecord]) -> None:
        """IntegrityError when a column's file is missing or damaged."""
        self._columns = {name: _Column(directory, record) for name, record in records.items()}

    @property
    def fields(self) -> list[pa.Field]:
        """Name and type of every column."""
        return [pa.field(name, column.kind) for name, column in self._columns.items()]

    def arrays(self, shard_id: int, index: npt.NDArray[np.int32]) -> list[pa.Array]:
        """The values of rows of one shard, an array (n,) for each of `fields`; null for a row that has none.

        index: (n,) positions in the shard. IntegrityError when a file is damaged.
        """
        return [column.values(shard_id, index) for column in self._columns.values()]


class _Column:
    """One joined column, read by row groups."""

    def __init__(self, directory: RunDirectory, record: ColumnRecord) -> None:
        self.kind = ARROW_TYPES[record.kind]
        self._file: TableFile = open_table(directory, record.path)
        if self._file.rows != record.rows:
            full = directory.storage.full(record.path)
            raise IntegrityError(f"{full} has {self._file.rows} rows where {record.rows} were written")
        self._bounds = self._file.bounds("shard_id")
        self._groups: tuple[int, int] = (0, 0)
        self._rows = self._no_rows = self._file.schema.empty_table()
        self._shards = np.empty(0, np.int32)

    def values(self, shard_id: int, index: npt.NDArray[np.int32]) -> pa.Array:
        """(n,) values at positions index (n,) of a shard."""
        self._load(shard_id)
        first, last = np.searchsorted(self._shards, [shard_id, shard_id + 1])
        rows = self._rows.slice(first, last - first)
        known = np.asarray(rows["index"], np.int32)
        if not len(known):
            return pa.nulls(len(index), self.kind)
        places = np.minimum(np.searchsorted(known, index), len(known) - 1)
        taken = rows["value"].take(pa.array(places, mask=known[places] != index))
        return taken.combine_chunks()

    def _load(self, shard_id: int) -> None:
        """Hold the row groups that have rows of a shard: consecutive ones, for the file is sorted by shard."""
        first = int(np.searchsorted(self._bounds[:, 1], shard_id))
        last = int(np.searchsorted(self._bounds[:, 0], shard_id, side="right"))
        groups = (first, last) if first < last else (0, 0)
        if groups == self._groups:
            return
        self._groups = groups
        pieces = [self._file.row_group(number) for number in range(*groups)]
        self._rows = pa.concat_tables(pieces) if pieces else self._no_rows
        self._shards = np.asarray(self._rows["shard_id"], np.int32)
