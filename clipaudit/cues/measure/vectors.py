"""Vector columns of a run at chosen rows, a few shards at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Ints
from clipaudit.run.reader import Run

_BLOCK_ROWS: Final = 131_072


def read_vectors(run: Run, name: str, position: Ints) -> npt.NDArray[np.float16]:
    """(n, length) float16 of one vector column at places among the run's ok rows, a few shards at a time."""
    vectors = np.empty((len(position), run.spec.vectors[name]), np.float16)
    for shards, start, stop in shard_blocks(run):
        # positions ascend: those of a block of shards are one slice
        first, last = np.searchsorted(position, (start, stop))
        if last > first:
            values = run.vectors(name, (), shards).values
            vectors[first:last] = values[position[first:last] - start]
    return vectors


def shard_blocks(run: Run) -> Iterator[tuple[list[int], int, int]]:
    """Groups of shards with about as many ok rows as fit well into memory: their ids, first and last row + 1."""
    sizes = [(shard, record.ok) for shard, record in run.records.items()]
    start, block, rows = 0, [], 0
    for (shard, count), following in itertools.zip_longest(sizes, sizes[1:]):
        block.append(shard)
        rows += count
        if following is None or rows + following[1] > _BLOCK_ROWS:
            yield block, start, start + rows
            start, block, rows = start + rows, [], 0
