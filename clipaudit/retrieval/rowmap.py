"""What is known of an index's rows: number -> shard, key, label, attributes, place in the tar; memory-mapped Arrow."""

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
from clipaudit.run.derived import LocalFiles, published, stored
from clipaudit.run.directory import RunDirectory
from clipaudit.run.filter_columns import FilterColumns, table_columns
from clipaudit.run.filters import parse_filter, why_empty
from clipaudit.run.reader import Run
from clipaudit.run.records import CommitRecord, StoredFile
from clipaudit.run.row import Row
from clipaudit.schema import OK, Names

_TABLE: Final = "rows.arrow"
_SEGMENT: Final = "segment.json"
_LEFT_OUT: Final = ("status", "caption", "scale", "norm", "remainder")
_BATCH_ROWS: Final = 65_536


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """`segment.json`."""

    name: str
    shards: dict[int, tuple[str, int]]
    """Shard id -> (hash of the projections file, ok rows), in the order of the rows."""
    table: StoredFile


def segments_for(run: Run, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of segments that cover all committed shards, `known` ones first; those that are missing are written.

    A name says what is in the segment, so that builders who work at the same time make the same ones.
    """
    covered = {shard for name in known for shard in _read(run.directory, name).shards}
    missing = [record for shard, record in run.records.items() if shard not in covered]
    return (*known, _write(run, missing)) if missing or not known else tuple(known)


def remove_unused(run_dir: RunDirectory, used: Collection[str], older_seconds: float) -> list[str]:
    """Delete segments that no index refers to; returns their names. Young ones stay: an index may be on its way."""
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

    The name changes when a shard is added or its rows are others: it also says what a derived table was made of.
    """
    shards = {record.shard_id: (record.files[record.projections].sha256, record.ok) for record in records}
    return hashlib.sha256(json.dumps([run.manifest.fingerprint, shards]).encode()).hexdigest()[:12], shards


def _write(run: Run, records: Sequence[CommitRecord]) -> str:
    name, shards = segment_of(run, records)
    directory = f"{FOLDER}/{ROWS}/{name}"
    if run.directory.storage.exists(f"{directory}/{_SEGMENT}"):
        return name
    columns = [column for column in run.columns if column not in run.spec.vectors and column not in _LEFT_OUT]
    schema, rows = run.schema(columns), 0
    with published(run.directory, directory) as place:
        with pa.OSFile(str(place / _TABLE), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in run.batches(["status", *columns], _BATCH_ROWS, list(shards)):
                kept = batch.filter(pc.equal(batch["status"], OK)).select(columns)
                rows += kept.num_rows
                writer.write_batch(kept)
        expected = sum(ok for _, ok in shards.values())
        if rows != expected:
            raise IntegrityError(f"the run at {run.directory.url} has {rows} ok rows where its commits say {expected}")
        segment = _Segment(name=name, shards=shards, table=stored(place / _TABLE))
        (place / _SEGMENT).write_text(json.dumps(asdict(segment)))
    return name


def _read(run_dir: RunDirectory, name: str) -> _Segment:
    path = f"{FOLDER}/{ROWS}/{name}/{_SEGMENT}"
    if re.fullmatch(r"[0-9a-f]{12}", name) is None:
        raise IntegrityError(f"{run_dir.storage.full(FOLDER)} is damaged: {name!r} names no row segment")
    try:
        found = json.loads(run_dir.storage.read(path))
        shards = {int(shard): (str(sha256), int(ok)) for shard, (sha256, ok) in found["shards"].items()}
        return _Segment(name=name, shards=shards, table=StoredFile(**found["table"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{run_dir.storage.full(path)} is missing or damaged: build the index again") from error


class RowMap:
    """The rows of an index by number; nothing but what is asked for is read into memory. Thread-safe."""

    def __init__(self, run: Run, segments: Sequence[str], *, verify: bool = True) -> None:
        """IntegrityError when a segment is missing or not what was written."""
        self.segments = tuple(segments)
        self._files = LocalFiles(run.directory)  # keeps copies of remote files alive
        self.shards: dict[int, str] = {}
        """Covered shards with the hashes of their rows."""
        self._starts: dict[int, tuple[int, int]] = {}
        tables, rows = [], 0
        for name in segments:
            segment = _read(run.directory, name)
            for shard, (sha256, ok) in segment.shards.items():
                self.shards[shard] = sha256
                self._starts[shard] = (rows, ok)
                rows += ok
            place = self._files.directory(f"{FOLDER}/{ROWS}/{name}", {_TABLE: segment.table}, verify=verify)
            tables.append(pa.ipc.open_file(pa.memory_map(str(place / _TABLE))).read_all())
        self.table: pa.Table = pa.concat_tables(tables)
        """shard_id, index, key, label, attributes, width, height, phash, offset, nbytes; one line a row."""
        self._run = run
        if self.table.num_rows != rows:
            raise IntegrityError(f"the row segments of {run.directory.url} have {self.table.num_rows} rows, not {rows}")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def filter_columns(self) -> FilterColumns:
        """The columns that filters may name."""
        return table_columns(self.table, f"the run at {self._run.directory.url}")

    def mask(self, where: Names) -> Bools:
        """(n,) which rows pass a filter, or each of several; UsageError as in `parse_filter`."""
        return parse_filter(where, self.filter_columns).mask(self.table)

    def why_empty(self, where: Names) -> str | None:
        """Which part of a filter no row passes, and what there is; see `clipaudit.run.filters.why_empty`."""
        return why_empty(parse_filter(where, self.filter_columns), self.table)

    def rows(self, numbers: Sequence[int] | Ints) -> list[Row]:
        """The rows of these numbers, in their order."""
        return [self._row(found) for found in self._taken(numbers, self.table.column_names).to_pylist()]

    def hashes(self, numbers: Sequence[int] | Ints) -> list[int | None]:
        """The perceptual hashes of some rows."""
        found: list[int | None] = self._taken(numbers, ["phash"])["phash"].to_pylist()
        return found

    def number(self, shard: int, key: str) -> int:
        """The number of a sample's row; UsageError when there is none."""
        if shard not in self._starts:
            raise UsageError(f"shard {shard} is not among the shards of the index")
        start, ok = self._starts[shard]
        found = int(pc.index(self.table["key"].slice(start, ok), key).as_py())
        if found < 0:
            raise UsageError(
                f"shard {shard} ({self._run.manifest.shards[shard].url}) has no indexed sample with the key {key!r}"
            )
        return start + found

    def place(self, number: int) -> tuple[int, int]:
        """(shard id, position among the shard's ok rows) of a row."""
        for shard, (start, ok) in self._starts.items():
            if start <= number < start + ok:
                return shard, number - start
        raise IndexError(number)

    def at(self, shard: int, index: int) -> Row | None:
        """The row at a position of a shard, or None."""
        start, ok = self._starts.get(shard, (0, 0))
        found = int(pc.index(self.table["index"].slice(start, ok), pa.scalar(index, pa.int32())).as_py())
        return None if found < 0 else self.rows([start + found])[0]

    def _taken(self, numbers: Sequence[int] | Ints, columns: Sequence[str]) -> pa.Table:
        wanted = pa.array(np.asarray(numbers, np.int64))
        return self.table.select(columns).take(wanted)

    def _row(self, found: Mapping[str, Any]) -> Row:
        known = {name: value for name, value in found.items() if name != "attributes"}
        return Row(**known, attributes=dict(found.get("attributes") or {}))


def covered(run_dir: RunDirectory, segments: Sequence[str]) -> dict[int, str]:
    """Shards of some segments with the hashes of their rows, in the order of the rows."""
    found: dict[int, str] = {}
    for name in segments:
        found |= {shard: sha256 for shard, (sha256, _) in _read(run_dir, name).shards.items()}
    return found
