"""The table of one shard: rows out to Parquet while they come, chosen columns back in as numpy arrays."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipaudit.arrays import Bools, Float16s, Floats
from clipaudit.errors import IntegrityError
from clipaudit.run.directory import RunDirectory
from clipaudit.run.records import StoredFile
from clipaudit.schema import NOT_FINITE, OK, SCHEMA_VERSION, Sample, Shard, TableSpec, arrow_schema, labels_in
from clipaudit.storage.faults import storage_errors
from clipaudit.storage.local import require_regular

_ANY: Mapping[str, pa.DataType] = {}
SCALARS = ("scale", "norm", "remainder")
"""Columns of one float32 a row that the model gives."""
_OF_SAMPLE = {"image": "image_properties"}  # columns that have another name in a sample
_ROW_GROUP_BYTES = 32 * 2**20
_METADATA_BYTES = 256  # of a row in a row group beside its vectors, roughly
_MAX_GROUP_ROWS = 65_536
_VARIED = ("key", "index", "phash", "offset", *SCALARS)  # values that rarely repeat, and need no dictionary
_INFINITE = 0x7C00  # exponent bits of a float16 that is infinite or not a number


class ProjectionWriter:
    """Writes one attempt's projections file; memory is bounded by one row group, whatever the shard's length.

    Args:
        run_dir: the run.
        shard: whose rows are written.
        attempt: its name is part of the file's.
        spec: the table.
        footer: goes into the file's metadata as `clipaudit.<name>`, beside the shard, its id and the dimensions.
        row_group_bytes: size of a row group, of vectors and of text.

    End with `close` or `abort`. Methods raise StorageFull when there is no space left.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        shard: Shard,
        attempt: str,
        spec: TableSpec,
        footer: Mapping[str, str],
        *,
        row_group_bytes: int = _ROW_GROUP_BYTES,
    ) -> None:
        self.path = run_dir.projections_path(shard.id, attempt)
        """Relative to the run directory."""
        self.counts: Counter[str] = Counter()
        """Rows written so far, by status."""
        self._run_dir, self._shard, self._spec = run_dir, shard, spec
        self._footer = _footer(spec, shard, footer)
        fitting = row_group_bytes // (spec.vector_bytes + _METADATA_BYTES)
        self._capacity = max(1, min(fitting, _MAX_GROUP_ROWS))
        self._vectors = {name: np.empty((self._capacity, dim), np.float16) for name, dim in spec.vectors.items()}
        self._scalars = {name: np.empty(self._capacity, np.float32) for name in SCALARS}
        self._pending = self._text = 0  # rows, and characters of text, of the row group that is being filled
        self._max_text = row_group_bytes
        self._schema = arrow_schema(spec).with_metadata({k.encode(): v.encode() for k, v in self._footer.items()})
        self._sink = run_dir.storage.open_new(self.path)
        plain = list(spec.vectors)
        metadata = [name for name in self._schema.names if name not in spec.vectors]
        # only these values of a sample are stored until the row group is full, not its pixels
        self._metadata: dict[str, list[Any]] = {n: [] for n in metadata if n != "shard_id" and n not in SCALARS}
        # Parquet's own names of what holds values: of a list its elements
        leaves = [f"{n}.list.element" if pa.types.is_list(self._schema.field(n).type) else n for n in metadata]
        structs = {"attributes": spec.attributes, "image": spec.image_properties}
        leaves = [
            leaf for n in leaves for leaf in (n, *(f"{n}.{name}" for name in structs.get(n, ()))) if leaf not in structs
        ]
        self._writer = pq.ParquetWriter(
            self._sink,
            self._schema,
            # float16 vectors do not compress, and as plain bytes they are read without decoding
            compression={**dict.fromkeys(leaves, "zstd"), **dict.fromkeys(plain, "none")},
            use_dictionary=[name for name in leaves if name not in _VARIED and not name.startswith("image.")],
            write_statistics=leaves,
        )

    @property
    def rows(self) -> int:
        """Rows written so far, failures included."""
        return self.counts.total()

    def write(self, samples: Sequence[Sample], vectors: Mapping[str, Floats], scalars: Mapping[str, Floats]) -> Bools:
        """Append samples in order, `ok` and failed ones mixed.

        Args:
            samples: any number; n of them are `ok`.
            vectors: every vector column of the table, (n, length) floats, rows in the order of the `ok` samples.
            scalars: `scale`, `norm` and `remainder`, (n,) floats. This and `vectors` may be empty when n is 0.

        Returns:
            (n,) bools: which of the `ok` samples stayed so. One with a number that float16 cannot hold (beyond 65504,
            inf, nan) becomes a `not_finite` failure, in the sample too.

        Raises ValueError when an array has another shape.
        """
        count = sum(sample.status == OK for sample in samples)
        self._check_shapes(count, vectors, scalars)
        stored = np.ones(count, np.bool_)
        at, done = 0, 0
        while at < len(samples):
            # as many as the row group still takes
            piece = samples[at : at + self._capacity - self._pending]
            decoded = [sample for sample in piece if sample.status == OK]
            rows = self._pending + np.flatnonzero([sample.status == OK for sample in piece])
            window = slice(done, done + len(rows))
            if decoded:
                stored[window] = self._fill(rows, vectors, scalars, window)
            for sample, good in zip(decoded, stored[window], strict=True):
                if not good:
                    sample.status, sample.detail = NOT_FINITE, "a contribution is not finite, or too large for float16"
            self._append(piece)
            at, done = at + len(piece), done + len(rows)
        return stored

    def close(self) -> StoredFile:
        """Write the last row group, make the file durable, re-open and verify it; returns its size and hash.

        Raises IntegrityError when the file is not what was written.
        """
        with storage_errors(self._run_dir.storage.full(self.path)):
            self._flush()
            self._writer.close()
            stored = StoredFile(sha256=self._sink.finish(), bytes=self._sink.tell())
        verify(self._run_dir, self.path, self._spec, rows=self.rows, size=stored.bytes, footer=self._footer)
        return stored

    def abort(self) -> None:
        """Remove the file, in whatever state it is, after `close` too."""
        self._sink.discard()
        with contextlib.suppress(pa.ArrowException, OSError):
            self._writer.close()  # else it writes its footer into the discarded file when it is garbage-collected
        self._run_dir.storage.remove(self.path)

    def _check_shapes(self, rows: int, vectors: Mapping[str, Floats], scalars: Mapping[str, Floats]) -> None:
        if rows == 0:
            return
        expected: dict[str, tuple[int, ...]] = {name: (rows, dim) for name, dim in self._spec.vectors.items()}
        expected |= dict.fromkeys(SCALARS, (rows,))
        shapes = {name: array.shape for name, array in {**vectors, **scalars}.items()}
        if shapes != expected:
            wrong = min(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
            raise ValueError(f"{wrong}: shape {shapes.get(wrong)} where the table needs {expected.get(wrong)}")

    def _fill(
        self, rows: npt.NDArray[np.intp], vectors: Mapping[str, Floats], scalars: Mapping[str, Floats], window: slice
    ) -> Bools:
        """Copy rows `window` of the arrays into `rows` (k,) of the row group; (k,) bools: all finite as stored."""
        good = np.ones(len(rows), np.bool_)
        # a slice when the rows are adjacent (the usual case): an index array would copy every value twice
        target: Any = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        with np.errstate(over="ignore", invalid="ignore"):  # overflow to infinity is what is looked for
            for name, block in self._vectors.items():
                block[target] = vectors[name][window]
                bits = block[target].view(np.uint16) & 0x7FFF  # without the sign
                if bits.max() >= _INFINITE:
                    good &= bits.max(axis=1) < _INFINITE
            for name in SCALARS:
                self._scalars[name][target] = scalars[name][window]
                good &= np.isfinite(self._scalars[name][target])
        return good

    def _append(self, samples: Sequence[Sample]) -> None:
        for name, values in self._metadata.items():
            values += [getattr(sample, _OF_SAMPLE.get(name, name)) for sample in samples]
        self.counts.update(sample.status for sample in samples)
        self._pending += len(samples)
        self._text += sum(map(_text_length, samples))
        if self._pending == self._capacity or self._text >= self._max_text:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        # null for failed samples, among them those that `_fill` could not store
        valid = np.array([status == OK for status in self._metadata["status"]], np.bool_)
        columns = [self._column(field, valid) for field in self._schema]
        with storage_errors(self._run_dir.storage.full(self.path)):
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=self._capacity)
        self._pending = self._text = 0
        for values in self._metadata.values():
            values.clear()

    def _column(self, field: pa.Field, valid: Bools) -> pa.Array:
        name, rows = field.name, self._pending
        if name in self._vectors:
            return _binary_array(self._vectors[name][:rows], valid)
        if name in self._scalars:
            return pa.array(self._scalars[name][:rows], mask=~valid)
        if name == "image":
            return self._image_column(field.type, valid)
        if name == "shard_id":
            return pa.array(np.full(rows, self._shard.id, np.int32))
        return pa.array(self._metadata[name], field.type)

    def _image_column(self, kind: pa.DataType, valid: Bools) -> pa.Array:
        """(n,) structs of image properties; null for a row that is not ok, a field null where a property is nan."""
        missing = (float("nan"),) * kind.num_fields
        values = np.array([row or missing for row in self._metadata["image"]], np.float32)
        fields = [pa.array(column, mask=np.isnan(column)) for column in values.T]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=pa.array(~valid))


def _text_length(sample: Sample) -> int:
    """Characters of a sample's texts: row groups are bounded by them too, because captions may be long."""
    values = (sample.key, *labels_in(sample.label), sample.caption, *sample.attributes.values())
    return sum(len(value) for value in values if isinstance(value, str))


def _binary_array(values: Float16s, valid: Bools) -> pa.Array:
    """(n, dim) float16 as a fixed_size_binary array that shares its memory."""
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    kind = pa.binary(2 * values.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [bitmap, pa.py_buffer(values)])


def _footer(spec: TableSpec, shard: Shard, extra: Mapping[str, str]) -> dict[str, str]:
    facts = {
        "schema_version": str(SCHEMA_VERSION),
        "shard": shard.url,
        "shard_id": str(shard.id),
        "head_dim": str(spec.head_dim),
        "embed_dim": str(spec.embed_dim),
        "vectors": "float16, little-endian",
        **extra,
    }
    return {f"clipaudit.{name}": value for name, value in facts.items()}


class TableFile:
    """A projections file for reading. IntegrityError, from the constructor or any method, when it is damaged."""

    def __init__(self, run_dir: RunDirectory, path: str, *, mapped: bool = True) -> None:
        self._full = run_dir.storage.full(path)
        try:
            with self._damage():
                if run_dir.storage.local:
                    require_regular(Path(self._full))
                    self._file = pq.ParquetFile(self._full, memory_map=mapped)
                else:
                    self._file = pq.ParquetFile(run_dir.storage.open(path), pre_buffer=True)
                self.schema: pa.Schema = self._file.schema_arrow
                self.rows = int(self._file.metadata.num_rows)
                """As the footer states."""
                self.row_groups = int(self._file.num_row_groups)
        except FileNotFoundError as error:
            raise IntegrityError(f"{self._full} is not there") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, columns: Sequence[str] | None = None, types: Mapping[str, pa.DataType] = _ANY) -> pa.Table:
        """Some columns (default: all) of every row; `types` are those that the columns must have, by name."""
        names = list(dict.fromkeys(self.schema.names if columns is None else columns))
        self._check(names, types)
        with self._damage():
            return self._file.read(names, use_threads=False)

    def batches(
        self, columns: Sequence[str], rows: int, types: Mapping[str, pa.DataType] = _ANY
    ) -> Iterator[pa.RecordBatch]:
        """The same, at most `rows` rows at a time; memory is bounded by one row group."""
        self._check(columns, types)
        with self._damage():
            for group in range(self.row_groups):
                # an iterator for all row groups would hold every group that it has passed
                yield from self._file.iter_batches(rows, row_groups=[group], columns=list(columns), use_threads=False)

    def row_group(self, number: int) -> pa.Table:
        """All columns of one row group."""
        with self._damage():
            return self._file.read_row_group(number, use_threads=False)

    def bounds(self, column: str) -> npt.NDArray[np.int64]:
        """(g, 2) int64: the least and the greatest number that a column has in each of g row groups."""
        with self._damage():
            place = self._file.schema_arrow.get_field_index(column)
            groups = [self._file.metadata.row_group(number).column(place) for number in range(self.row_groups)]
            if not all(group.is_stats_set for group in groups):
                raise ValueError(f"its column {column!r} has no statistics")
            ends = [(group.statistics.min, group.statistics.max) for group in groups]
        return np.array(ends, np.int64).reshape(-1, 2)

    def _check(self, columns: Sequence[str], types: Mapping[str, pa.DataType]) -> None:
        for name in columns:  # pyarrow leaves out missing columns without an error
            if self.schema.names.count(name) != 1:
                raise IntegrityError(f"{self._full} is damaged: it has no column {name!r}, or two of them")
            if types.get(name, self.schema.field(name).type) != self.schema.field(name).type:
                raise IntegrityError(f"{self._full} is damaged: its column {name!r} is not of the run's type")

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
            raise IntegrityError(f"{self._full} is damaged: {error}") from error


def open_table(run_dir: RunDirectory, path: str, *, mapped: bool = True) -> TableFile:
    """A projections file for reading; IntegrityError when missing or damaged.

    A local file is memory-mapped, which is fastest for a few columns. With `mapped=False` it is read piece by piece:
    for many columns of many rows, because mapped pages count as this process's memory.
    """
    return TableFile(run_dir, path, mapped=mapped)


def stream_table(
    run_dir: RunDirectory,
    path: str,
    columns: Sequence[str],
    rows: int,
    types: Mapping[str, pa.DataType] = _ANY,
) -> Iterator[pa.RecordBatch]:
    """Columns of a projections file, at most `rows` rows at a time; memory is bounded by one row group.

    IntegrityError when the file is missing or damaged, or a column is not of its type in `types`.
    """
    with open_table(run_dir, path, mapped=False) as table:
        yield from table.batches(columns, rows, types)


@lru_cache(8)
def stored_types(spec: TableSpec) -> Mapping[str, pa.DataType]:
    """The type of every column of a run's table."""
    return {field.name: field.type for field in arrow_schema(spec)}


def verify(
    run_dir: RunDirectory, path: str, spec: TableSpec, *, rows: int, size: int, footer: Mapping[str, str] | None = None
) -> None:
    """Re-open a projections file and check size in bytes, rows, columns and the metadata entries of `footer`.

    Raises IntegrityError with one sentence that names the file and what is wrong.
    """
    full = run_dir.storage.full(path)
    try:
        bytes_now = run_dir.storage.size(path)
    except FileNotFoundError as error:
        raise IntegrityError(f"{full} is not there") from error
    if bytes_now != size:
        raise IntegrityError(f"{full} has {bytes_now} bytes where {size} were written")
    with open_table(run_dir, path) as table:
        if table.rows != rows:
            raise IntegrityError(f"{full} has {table.rows} rows where {rows} were written")
        if not table.schema.equals(arrow_schema(spec)):
            raise IntegrityError(f"{full} does not have the run's columns")
        metadata = table.schema.metadata or {}
    for name, value in (footer or {}).items():
        stored = metadata.get(name.encode(), b"").decode(errors="replace")
        if stored != value:
            raise IntegrityError(f"{full} has {name} = {stored!r} in its footer where {value!r} is right")


def vectors_of(column: pa.ChunkedArray | pa.Array) -> tuple[Float16s, Bools]:
    """A vector column as read: its (n, length) float16 values, and (n,) bools: which rows have values.

    n counts all rows; the values of a failed row mean nothing. A column in one piece is not copied.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    dim = column.type.byte_width // 2
    values = [_chunk_values(chunk, dim) for chunk in chunks if len(chunk)]
    valid = [np.asarray(chunk.is_valid()) for chunk in chunks if len(chunk)]
    if not values:
        return np.empty((0, dim), np.float16), np.empty(0, np.bool_)
    if len(values) == 1:
        return values[0], valid[0]
    return np.concatenate(values), np.concatenate(valid)


def _chunk_values(chunk: pa.Array, dim: int) -> Float16s:
    data = chunk.buffers()[1]
    if data is None:  # every row is null
        return np.zeros((len(chunk), dim), np.float16)
    # a slice shares the buffer of the whole column
    start = chunk.offset * dim
    return np.frombuffer(data, np.float16)[start : start + len(chunk) * dim].reshape(len(chunk), dim)
