"""The rows of an index by number: shard, key, label, attributes, place in the tar; memory-mapped Arrow."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from clipaudit.arrays import Bools, Ints
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.retrieval.card import FOLDER, ROWS
from clipaudit.run.checksums import write_sums
from clipaudit.run.classes import ClassNames
from clipaudit.run.column_types import recorded_types
from clipaudit.run.derived import LocalFiles, published, stored
from clipaudit.run.directory import RunDirectory
from clipaudit.run.filter_columns import FilterColumns, table_columns, value_text, with_attribute_types
from clipaudit.run.filters import parse_filter, why_empty
from clipaudit.run.reader import Run
from clipaudit.run.records import CommitRecord, StoredFile
from clipaudit.run.row import Row
from clipaudit.schema import OK, Names, SampleLabel, arrow_schema, labels_in

_TABLE: Final = "rows.arrow"
_SEGMENT: Final = "segment.json"
_LEFT_OUT: Final = ("status", "scale", "norm", "remainder")
_BATCH_ROWS: Final = 65_536


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """`segment.json`."""

    name: str
    shards: dict[int, tuple[str, int]]
    """Shard id -> (hash of the projections file, ok rows), in the order of the rows."""
    table: StoredFile


def segments_for(run: Run, known: Sequence[str] = (), place: RunDirectory | None = None) -> tuple[str, ...]:
    """Names of segments that cover all committed shards, `known` ones first; missing segments are written.

    place: the directory whose `indexes/` they are in; None for the run's own.

    A segment's name is a hash of its contents, so that builders at the same time write the same ones. IntegrityError
    when a segment is damaged or its rows are not those of the commits.
    """
    place = place or run.directory
    covered = {shard for name in known for shard in _read(place, name).shards}
    missing = [record for shard, record in run.records.items() if shard not in covered]
    return (*known, _write(run, missing, place)) if missing or not known else tuple(known)


def remove_unused(run_dir: RunDirectory, used: Collection[str], older_seconds: float) -> list[str]:
    """Delete segments that no index refers to; returns their names.

    Those younger than `older_seconds` stay: an index that is being built may use them.
    """
    if not run_dir.storage.local:
        return []
    removed = []
    for name in run_dir.storage.names(f"{FOLDER}/{ROWS}"):
        path = Path(run_dir.storage.full(f"{FOLDER}/{ROWS}/{name}"))
        if name not in used and time.time() - path.stat().st_mtime > older_seconds:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(name)
    return removed


def segment_of(run: Run, records: Sequence[CommitRecord]) -> tuple[str, dict[int, tuple[str, int]]]:
    """(name, shards) of the segment that these commits of a run make, whether it is written or not.

    The name changes when a shard is added or its rows change: it also tells what a derived table was made of.
    """
    shards = {record.shard_id: (record.files[record.projections].sha256, record.ok) for record in records}
    return hashlib.sha256(json.dumps([run.manifest.fingerprint, shards]).encode()).hexdigest()[:12], shards


def _write(run: Run, records: Sequence[CommitRecord], run_dir: RunDirectory) -> str:
    name, shards = segment_of(run, records)
    if run.spec.caption:  # segments of before captions were kept have the plain name
        name = hashlib.sha256(f"{name} with captions".encode()).hexdigest()[:12]
    directory = f"{FOLDER}/{ROWS}/{name}"
    if run_dir.storage.exists(f"{directory}/{_SEGMENT}"):
        return name
    # joined columns may be dropped or replaced: they are read anew by whoever opens the rows
    table = arrow_schema(run.spec)
    columns = [column for column in table.names if column not in run.spec.vectors and column not in _LEFT_OUT]
    schema, rows = pa.schema([table.field(column) for column in columns]), 0
    with published(run_dir, directory) as place:
        with pa.OSFile(str(place / _TABLE), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in run.stored_batches(["status", *columns], _BATCH_ROWS, list(shards)):
                ok = batch.filter(pc.equal(batch["status"], OK)).select(columns)
                rows += ok.num_rows
                writer.write_batch(ok)
        expected = sum(ok for _, ok in shards.values())
        if rows != expected:
            raise IntegrityError(f"the run at {run.directory.url} has {rows} ok rows where its commits say {expected}")
        segment = _Segment(name=name, shards=shards, table=stored(place / _TABLE))
        (place / _SEGMENT).write_text(json.dumps(asdict(segment)))
        write_sums(place, {_TABLE: segment.table})
    return name


def _read(run_dir: RunDirectory, name: str) -> _Segment:
    path = f"{FOLDER}/{ROWS}/{name}/{_SEGMENT}"
    if re.fullmatch(r"[0-9a-f]{12}", name) is None:
        raise IntegrityError(f"{run_dir.storage.full(FOLDER)} is damaged: {name!r} names no row segment")
    try:
        plain = json.loads(run_dir.storage.read(path))
        shards = {int(shard): (str(sha256), int(ok)) for shard, (sha256, ok) in plain["shards"].items()}
        return _Segment(name=name, shards=shards, table=StoredFile(**plain["table"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{run_dir.storage.full(path)} is missing or damaged: build the index again") from error


class RowMap:
    """The rows of an index by number, memory-mapped: only the rows that are asked for are read. Thread-safe."""

    def __init__(
        self, run: Run, segments: Sequence[str], *, verify: bool = True, place: RunDirectory | None = None
    ) -> None:
        """IntegrityError when a segment is missing or not what was written; `place` as in `segments_for`."""
        self.segments = tuple(segments)
        run_dir = place or run.directory
        self._files = LocalFiles(run_dir)  # copies of remote files exist as long as this object
        self.shards: dict[int, str] = {}
        """Covered shards with the hashes of their rows."""
        self._starts: dict[int, tuple[int, int]] = {}
        tables, rows = [], 0
        for name in segments:
            segment = _read(run_dir, name)
            for shard, (sha256, ok) in segment.shards.items():
                self.shards[shard] = sha256
                self._starts[shard] = (rows, ok)
                rows += ok
            local = self._files.directory(f"{FOLDER}/{ROWS}/{name}", {_TABLE: segment.table}, verify=verify)
            tables.append(pa.ipc.open_file(pa.memory_map(str(local / _TABLE))).read_all())
        self._lacks_captions = run.spec.caption and any("caption" not in table.column_names for table in tables)
        if self._lacks_captions:
            tables = [table.select([name for name in table.column_names if name != "caption"]) for table in tables]
        self.table: pa.Table = pa.concat_tables(tables)
        """shard_id, index, key, label, caption, attributes, width, height, phash, offset, nbytes; one line a row."""
        self._run = run
        if self.table.num_rows != rows:
            raise IntegrityError(f"the row segments of {run.directory.url} have {self.table.num_rows} rows, not {rows}")
        newest = run if run.moment is None else Run(run.directory)  # the table may have rows of later generations
        types = recorded_types(newest.records.values(), run.spec)
        if run.joined:
            self.table, joined = _with_joined(newest, self.table)
            types = {**(types or {}), **joined}
        self.table = with_attribute_types(self.table, types)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def filter_columns(self) -> FilterColumns:
        """The columns that filters may name."""
        url = self._run.directory.url
        source = f"the run at {url}"
        if self._lacks_captions:
            source = f"the index of {source}, which was built without captions (`clipaudit index {url}` adds them)"
        return table_columns(self.table, source, lambda: self._run.class_names)

    @cached_property
    def _names(self) -> ClassNames | None:
        """What labels are called; None also where the file of names cannot be used, for results do without."""
        try:
            return self._run.class_names
        except UsageError:
            return None

    def mask(self, where: Names) -> Bools:
        """(n,) which rows pass a filter, or each of several, and belong to the state of the run that is read.

        UsageError as in `parse_filter`.
        """
        passed = parse_filter(where, self.filter_columns).mask(self.table) if where else np.ones(len(self), np.bool_)
        return passed if self.in_state is None else passed & self.in_state

    @cached_property
    def in_state(self) -> Bools | None:
        """(n,) which rows belong to an earlier state of the run; None for the newest, where all do."""
        if self._run.moment is None or self.shards.keys() <= self._run.records.keys():
            return None
        chosen = np.fromiter(self._run.records, np.int64, len(self._run.records))
        return np.isin(self.table["shard_id"].to_numpy(), chosen)

    def why_empty(self, where: Names) -> str | None:
        """Which part of a filter no row passes, and what there is; see `clipaudit.run.filters.why_empty`."""
        return why_empty(parse_filter(where, self.filter_columns), self.table)

    def rows(self, numbers: Sequence[int] | Ints) -> list[Row]:
        """The rows with these numbers (m,), in their order."""
        return [self._row(values) for values in self._taken(numbers, self.table.column_names).to_pylist()]

    def hashes(self, numbers: Sequence[int] | Ints) -> list[int | None]:
        """The perceptual hashes of some rows, (m,) numbers: signed 64-bit integers, None where a row has none."""
        hashes: list[int | None] = self._taken(numbers, ["phash"])["phash"].to_pylist()
        return hashes

    def number(self, shard: int, key: str) -> int:
        """The number of a sample's row; UsageError when there is none."""
        if shard not in self._starts:
            raise UsageError(f"shard {shard} is not among the shards of the index")
        start, ok = self._starts[shard]
        place = int(pc.index(self.table["key"].slice(start, ok), key).as_py())
        if place < 0:
            raise UsageError(
                f"shard {shard} ({self._run.manifest.shards[shard].url}) has no indexed sample with the key {key!r}"
            )
        return start + place

    def place(self, number: int) -> tuple[int, int]:
        """(shard id, position among the shard's ok rows) of a row; IndexError for a number that no row has."""
        for shard, (start, ok) in self._starts.items():
            if start <= number < start + ok:
                return shard, number - start
        raise IndexError(number)

    def at(self, shard: int, index: int) -> Row | None:
        """The row at a position of a shard, or None where no such row is indexed."""
        start, ok = self._starts.get(shard, (0, 0))
        place = int(pc.index(self.table["index"].slice(start, ok), pa.scalar(index, pa.int32())).as_py())
        return None if place < 0 else self.rows([start + place])[0]

    def _taken(self, numbers: Sequence[int] | Ints, columns: Sequence[str]) -> pa.Table:
        wanted = pa.array(np.asarray(numbers, np.int64))
        return self.table.select(columns).take(wanted)

    def _row(self, values: Mapping[str, Any]) -> Row:
        plain = {name: value for name, value in values.items() if name != "attributes"}
        if isinstance(plain.get("label"), list):
            plain["label"] = tuple(plain["label"])
        attributes = values.get("attributes") or {}
        texts = {name: None if value is None else value_text(value) for name, value in attributes.items()}
        return Row(**plain, class_name=self._class_name(plain.get("label")), attributes=texts)

    def _class_name(self, label: SampleLabel) -> str | None:
        """What a label is called, of several each; None where no name is known."""
        names = [None if self._names is None else self._names.name_of(each) for each in labels_in(label)]
        if not any(names):
            return None
        return ", ".join(name or str(each) for name, each in zip(names, labels_in(label), strict=True))


def _with_joined(run: Run, table: pa.Table) -> tuple[pa.Table, dict[str, pa.DataType]]:
    """The table with the run's joined columns among its attributes, and their types."""
    identity = [np.asarray(table[name], np.int32) for name in ("shard_id", "index")]
    columns = run.joined_arrays(*identity)
    place = table.schema.get_field_index("attributes")
    names = [] if place < 0 else [field.name for field in table.schema.field(place).type]
    own = {name: pc.struct_field(table["attributes"], name) for name in names if name not in columns}
    arrays = {name: column.combine_chunks() for name, column in {**own, **columns}.items()}
    struct = pa.StructArray.from_arrays(list(arrays.values()), names=list(arrays))
    types = {name: column.type for name, column in columns.items()}
    if place < 0:
        return table.append_column("attributes", struct), types
    return table.set_column(place, "attributes", struct), types


def covered(run_dir: RunDirectory, segments: Sequence[str]) -> dict[int, str]:
    """Shards of some segments with the hashes of their rows, in the order of the rows; IntegrityError for damage."""
    hashes: dict[int, str] = {}
    for name in segments:
        hashes |= {shard: sha256 for shard, (sha256, _) in _read(run_dir, name).shards.items()}
    return hashes
