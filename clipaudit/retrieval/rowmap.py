"""The rows of an index by number: shard, key, label, attributes, place in the tar; memory-mapped Arrow."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from clipaudit.arrays import Bools
from clipaudit.errors import IntegrityError
from clipaudit.retrieval.card import FOLDER, ROWS
from clipaudit.retrieval.row_table import RowTable
from clipaudit.run.checksums import write_sums
from clipaudit.run.column_types import recorded_types
from clipaudit.run.derived import LocalFiles, published, stored
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.records import CommitRecord, StoredFile
from clipaudit.schema import OK, Names, arrow_schema

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


class RowMap(RowTable):
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
        starts: dict[int, tuple[int, int]] = {}
        tables, rows = [], 0
        for name in segments:
            segment = _read(run_dir, name)
            for shard, (sha256, ok) in segment.shards.items():
                self.shards[shard] = sha256
                starts[shard] = (rows, ok)
                rows += ok
            local = self._files.directory(f"{FOLDER}/{ROWS}/{name}", {_TABLE: segment.table}, verify=verify)
            tables.append(pa.ipc.open_file(pa.memory_map(str(local / _TABLE))).read_all())
        lacks_captions = run.spec.caption and any("caption" not in table.column_names for table in tables)
        if lacks_captions:
            tables = [table.select([name for name in table.column_names if name != "caption"]) for table in tables]
        table = pa.concat_tables(tables)
        url = run.directory.url
        if table.num_rows != rows:
            raise IntegrityError(f"the row segments of {url} have {table.num_rows} rows, not {rows}")
        source = f"the run at {url}"
        if lacks_captions:
            source = f"the index of {source}, which was built without captions (`clipaudit index {url}` adds them)"
        newest = run if run.moment is None else Run(run.directory)  # the table may have rows of later generations
        types = recorded_types(newest.records.values(), run.spec)
        if run.joined:
            table, joined = _with_joined(newest, table)
            types = {**(types or {}), **joined}
        super().__init__(run, table, starts, source, types)

    def mask(self, where: Names) -> Bools:
        """(n,) which rows pass a filter, or each of several, and belong to the state of the run that is read.

        UsageError as in `parse_filter`.
        """
        passed = super().mask(where) if where else np.ones(len(self), np.bool_)
        return passed if self.in_state is None else passed & self.in_state

    @cached_property
    def in_state(self) -> Bools | None:
        """(n,) which rows belong to an earlier state of the run; None for the newest, where all do."""
        if self._run.moment is None or self.shards.keys() <= self._run.records.keys():
            return None
        chosen = np.fromiter(self._run.records, np.int64, len(self._run.records))
        return np.isin(self.table["shard_id"].to_numpy(), chosen)


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
