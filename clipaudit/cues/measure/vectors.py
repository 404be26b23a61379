"""Vector columns of a run at chosen rows, a few shards at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Ints
from clipaudit.run.reader import Run

_BLOCK_ROWS: Final = 131_072
_GROUP_BYTES: Final = 2**26
"""Of the columns that are read at once; one column may be larger."""


def read_vectors(run: Run, name: str, position: Ints) -> npt.NDArray[np.float16]:
    """(n, length) float16 of one vector column at places among the run's ok rows, a few shards at a time."""
    return _read(run, (name,), position)[name]


def each_of_vectors(run: Run, names: Sequence[str], position: Ints) -> Iterator[tuple[str, npt.NDArray[np.float16]]]:
    """(name, (n, length) float16) of each column, in order: what `read_vectors` gives of it.

    Small columns are read together: opening a file takes longer than reading a few megabytes of it.
    """
    for group in _groups(run, names, len(position)):
        values = _read(run, group, position)
        for name in group:
            yield name, values.pop(name)


def _groups(run: Run, names: Sequence[str], rows: int) -> Iterator[tuple[str, ...]]:
    """Columns that together take at most `_GROUP_BYTES`, and at least one."""
    bytes_per_number = 2 * (rows + min(len(run), _BLOCK_ROWS))
    group, size = list[str](), 0
    for name in names:
        length = run.spec.vectors[name]
        if group and (size + length) * bytes_per_number > _GROUP_BYTES:
            yield tuple(group)
            group, size = [], 0
        group.append(name)
        size += length
    if group:
        yield tuple(group)


def _read(run: Run, names: tuple[str, ...], position: Ints) -> dict[str, npt.NDArray[np.float16]]:
    vectors = {name: np.empty((len(position), run.spec.vectors[name]), np.float16) for name in names}
    for shards, start, stop in shard_blocks(run):
        # positions ascend: those of a block of shards are one slice
        first, last = np.searchsorted(position, (start, stop))
        if last > first:
            for name, read in run.vectors(names, (), shards).items():
                vectors[name][first:last] = read.values[position[first:last] - start]
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
