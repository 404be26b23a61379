"""Which images of a run the rows of a table name: keys and shards, compared by hash and then by text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import Bools, Ints
from clipaudit.errors import UsageError
from clipaudit.redact import public_url
from clipaudit.run.column_cells import ColumnCells
from clipaudit.run.growth import History
from clipaudit.run.reader import Run
from clipaudit.schema import DUPLICATE_KEY, OK
from clipaudit.shards.sources.tables import open_table

By: TypeAlias = Literal["key", "shard,key"]

_BATCH: Final = 65_536
_EXAMPLES: Final = 3
_UNKNOWN: Final = -1
"""Shard id of a row whose shard the run does not have; `_ANY` of a table without shards."""
_ANY: Final = -2
_TYPED: Final = (".parquet", ".jsonl", ".ndjson")


class KeyedRows:
    """The rows of a table: keys, shards and the cells of chosen columns, once `read`. Memory holds all of them."""

    def __init__(self, path: str, encoding: str, key: str, shard: str | None, history: History) -> None:
        """Look at the table's columns; UsageError when it cannot be read, or has no such key or shard column."""
        self._table = open_table(path, encoding)
        columns = self._table.columns
        if shard is None and "shard" in columns and key != "shard":
            shard = "shard"
        for option, name in (("--key", key), ("--shard", shard)):
            if name is not None and name not in columns:
                raise UsageError(f"{path} has no column {name!r} ({option}): it has {', '.join(columns)}")
        self._key, self._shard = key, shard
        self.by: By = "key" if shard is None else "shard,key"
        self.others = [name for name in columns if name not in (key, shard)]
        self._ids = _shard_names(history)
        self.keys: pa.ChunkedArray = pa.chunked_array([], pa.string())
        self.shards: Ints = np.empty(0, np.int64)
        """(n,) shard ids; -1 for a shard that the run does not have, -2 in a table without shards."""
        self._shard_texts: dict[int, str] = {}
        self.cells: dict[str, ColumnCells] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, columns: Sequence[str]) -> None:
        """Read the keys and these columns; UsageError for a row or a value that cannot be used."""
        typed = self._table.path.lower().endswith(_TYPED)
        self.cells = {name: ColumnCells(name, typed=typed) for name in columns}
        keys: list[str] = []
        pieces: list[pa.Array] = []
        shards: list[int] = []
        for number, row in enumerate(self._table.rows(), 1):
            if isinstance(row, str):
                raise UsageError(f"{self._table.path}, {row}")
            key = _identity(row.get(self._key))
            if not key:
                raise UsageError(f"{self._table.path}: row {number} has no {self._key}")
            keys.append(key)
            shards.append(self._shard_id(row, number - 1))
            for name, cells in self.cells.items():
                cells.add(row.get(name), f"row {number}")
            if len(keys) == _BATCH:
                pieces.append(pa.array(keys, pa.string()))
                keys = []
        self.keys = pa.chunked_array([*pieces, pa.array(keys, pa.string())], pa.string())
        self.shards = np.array(shards, np.int64)

    def described(self, row: int) -> str:
        """How a row names its image, for messages."""
        key = str(self.keys[row])
        shard = int(self.shards[row])
        if shard == _ANY:
            return key
        return f"{self._shard_texts.get(row, str(shard))} {key}"

    def _shard_id(self, row: dict[str, object], number: int) -> int:
        if self._shard is None:
            return _ANY
        text = _identity(row.get(self._shard))
        shard = self._ids.get(public_url(text) if "://" in text else text, _UNKNOWN)
        if shard == _UNKNOWN and len(self._shard_texts) < _EXAMPLES:
            self._shard_texts[number] = text or "(no shard)"
        return shard


def _identity(value: object) -> str:
    """A key or shard as text; whole numbers that a table program made fractions, too."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value).strip()


def _shard_names(history: History) -> dict[str, int]:
    """Each way to name a shard -> its id: URL, also where it was before a move, id, and file name with or without
    `.tar`, where only one has it.
    """
    names: dict[str, set[int]] = {}
    for shard in history.shards:
        file = PurePosixPath(shard.url.partition("?")[0]).name
        for name in {file, file.removesuffix(".tar"), file.partition(".")[0]}:
            names.setdefault(name, set()).add(shard.id)
    unique = {name: next(iter(ids)) for name, ids in names.items() if len(ids) == 1}
    homes = {url: shard.id for shard in history.recorded for url in history.homes(shard.url)} if history.moves else {}
    # ids before file names: a column of numbers holds ids; where shards are now before where others were
    ids = {str(shard.id): shard.id for shard in history.shards}
    return unique | ids | homes | {shard.url: shard.id for shard in history.shards}


@dataclass(frozen=True, eq=False, kw_only=True)
class Matches:
    """m images of a run that a table names, sorted by shard and index."""

    shard_id: npt.NDArray[np.int32]
    index: npt.NDArray[np.int32]
    row: Ints
    """(m,) row of the table."""
    ok: int
    """How many of them have vectors."""
    unknown: Ints
    """Rows of the table that name no image, in order."""


def match(run: Run, rows: KeyedRows) -> Matches:
    """Find the images that the rows of a table name, in one pass over the run's keys.

    UsageError for keys that repeat in the table, and for keys, without shards, that several images have.
    """
    lookup = _Lookup(rows)
    parts: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Ints]] = []
    hits = np.zeros(len(rows), np.int64)
    ok = 0
    for batch in run.batches(["shard_id", "index", "key", "status"], _BATCH):
        batch = batch.filter(pc.not_equal(batch["status"], DUPLICATE_KEY))
        shards = np.asarray(batch["shard_id"], np.int64)
        row = lookup.find(batch["key"], shards)
        places = row >= 0
        np.add.at(hits, row[places], 1)
        ok += int((places & np.asarray(pc.equal(batch["status"], OK).to_numpy(zero_copy_only=False))).sum())
        index = np.asarray(batch["index"], np.int32)
        parts.append((shards[places].astype(np.int32), index[places], row[places]))
    repeated = np.flatnonzero(hits > 1)
    if len(repeated):
        raise UsageError(
            f"{len(repeated):,} of the table's keys are those of several images of the run, such as"
            f" {rows.described(int(repeated[0]))}: add a column shard to the table (ids, URLs or file names)"
        )
    empty = np.empty(0, np.int32)
    shard_ids, indices, row_parts = zip(*parts, strict=True) if parts else ((empty,), (empty,), (hits[:0],))
    shard_id, index = np.concatenate(shard_ids), np.concatenate(indices)
    order = np.lexsort((index, shard_id))
    return Matches(
        shard_id=shard_id[order],
        index=index[order],
        row=np.concatenate(row_parts)[order],
        ok=ok,
        unknown=np.flatnonzero(hits == 0),
    )


class _Lookup:
    """Rows of a table by shard and key, through sorted 64-bit hashes: 16 bytes a row beside the keys."""

    def __init__(self, rows: KeyedRows) -> None:
        """UsageError for keys that repeat."""
        self._rows, self._with_shard = rows, rows.by == "shard,key"
        for salt in itertools.count():
            self._salt = salt
            hashes = self._hashes(rows.keys, rows.shards)
            self._order = np.argsort(hashes, kind="stable")
            self._sorted = hashes[self._order]
            same = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
            pairs = [(int(self._order[place]), int(self._order[place + 1])) for place in same.tolist()]
            if all(self._same(*pair) for pair in pairs):
                break  # otherwise two different keys have one hash, and other hashes are tried
        if pairs:
            number = len({rows.described(first) for first, _ in pairs})
            raise UsageError(
                f"{number:,} {'key repeats' if number == 1 else 'keys repeat'} in the table, such as"
                f" {rows.described(pairs[0][0])} in rows {pairs[0][0] + 1} and {pairs[0][1] + 1}:"
                " leave one row for each image"
            )

    def find(self, keys: pa.Array, shards: Ints) -> Ints:
        """(n,) row of the table for each key (n,) of a shard (n,); -1 for none."""
        if not len(self._sorted):
            return np.full(len(keys), -1, np.int64)
        keys = pc.utf8_trim_whitespace(keys)  # as those of the table; of two that differ by spaces alone both are told
        hashes = self._hashes(keys, shards)
        places = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        row: Ints = self._order[places]
        inside: Bools = self._sorted[places] == hashes
        candidates = np.flatnonzero(inside)
        # a key of the run may have the hash of another: the texts decide
        equal = pc.equal(
            self._rows.keys.take(pa.array(row[candidates])), pa.chunked_array([keys.take(pa.array(candidates))])
        )
        inside[candidates] = np.asarray(equal.to_numpy(), np.bool_)
        return np.where(inside, row, -1)

    def _hashes(self, keys: pa.Array | pa.ChunkedArray, shards: Ints) -> npt.NDArray[np.int64]:
        """(n,) int64 hashes of keys (n,), with their shards (n,) where the table has such."""
        texts = keys.to_pylist()
        if not self._with_shard:
            return np.fromiter((hash((self._salt, key)) for key in texts), np.int64, len(texts))
        pairs = zip(shards.tolist(), texts, strict=True)
        return np.fromiter((hash((self._salt, shard, key)) for shard, key in pairs), np.int64, len(texts))

    def _same(self, a: int, b: int) -> bool:
        keys, shards = self._rows.keys, self._rows.shards
        return bool(keys[a].as_py() == keys[b].as_py() and (not self._with_shard or shards[a] == shards[b]))
