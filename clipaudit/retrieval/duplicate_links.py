"""Pairs of near-duplicates, and those that an earlier search of the same run left in its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clipaudit.arrays import Float32s, Ints
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.retrieval.rowmap import RowMap
from clipaudit.run.reader import Run


@dataclass(eq=False)
class Links:
    """m pairs of near-duplicates."""

    first: Ints
    """(m,) rows of the indexed run."""
    second: Ints
    """(m,) rows of the asked run."""
    cosine: Float32s
    """(m,) of their embeddings."""
    bits: Ints
    """(m,) in which their perceptual hashes differ."""

    @staticmethod
    def joined(parts: Sequence[Links]) -> Links:
        """All pairs of some parts."""
        columns = zip(*((part.first, part.second, part.cosine, part.bits) for part in parts), strict=True)
        return Links(*(np.concatenate(column) for column in columns))


def compared_shards(run: Run) -> dict[str, str]:
    """The committed shards with the hashes of their rows, by id as text: what `summary.json` says was compared."""
    return {str(shard): record.files[record.projections].sha256 for shard, record in run.records.items()}


def known_shards(run: Run, summary: Mapping[str, Any], similarity: float, bits: int) -> set[int]:
    """The shards that an earlier search compared with each other, by the `summary.json` that it wrote.

    UsageError when it is not known which, rows have changed since, or it had other limits.
    """
    known, now = summary.get("shards"), compared_shards(run)
    runs = summary.get("runs")
    if not isinstance(known, dict) or not isinstance(runs, list) or len(runs) != 1:
        raise UsageError(
            f"the duplicates of {run.url} are not of its own shards, or do not say which: leave out --update"
        )
    if (summary.get("similarity"), summary.get("bits")) != (similarity, bits):
        raise UsageError(
            f"the duplicates of {run.url} were found with --similarity {summary.get('similarity')} and --bits"
            f" {summary.get('bits')}: give the same, or leave out --update"
        )
    changed = [shard for shard, sha256 in known.items() if now.get(shard) != sha256]
    if changed:
        raise UsageError(f"shard {changed[0]} of {run.url} is not what was compared before: leave out --update")
    return {int(shard) for shard in known}


def known_links(table: pa.Table, rows: RowMap) -> Links:
    """The pairs in a table of clusters (`duplicates.parquet`), as rows of the run: each image with its nearest copy,
    and with the first of its cluster, which keeps the cluster together.

    IntegrityError for an image that the run does not have.
    """
    numbers = _numbers(rows)
    try:
        own = [numbers[shard, key] for shard, key in _pairs(table, "shard_id", "key")]
        copies = [numbers[shard, key] for shard, key in _pairs(table, "copy_shard_id", "copy_key")]
    except KeyError as error:
        raise IntegrityError(f"the table of duplicates names {error}, which the run does not have") from error
    cluster = table["cluster"].to_numpy()
    first_places = np.unique(cluster, return_index=True)[1]
    firsts = np.array(own, np.int64)[first_places[cluster]] if own else np.empty(0, np.int64)
    count = len(own)
    nearest = Links(
        np.array(own, np.int64),
        np.array(copies, np.int64),
        table["cosine"].to_numpy().astype(np.float32),
        table["bits"].to_numpy().astype(np.int64),
    )
    # A cosine below every other: these pairs are never an image's nearest.
    together = Links(np.array(own, np.int64), firsts, np.full(count, -2, np.float32), np.full(count, 64, np.int64))
    return Links.joined([nearest, together])


def _numbers(rows: RowMap) -> dict[tuple[int, str], int]:
    return {pair: number for number, pair in enumerate(_pairs(rows.table, "shard_id", "key"))}


def _pairs(table: pa.Table, shard: str, key: str) -> Sequence[tuple[int, str]]:
    return list(zip(table[shard].to_pylist(), table[key].to_pylist(), strict=True))
