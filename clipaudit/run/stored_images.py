"""Images of a stored run with the masks beside them in their shards: one request an image, no shard is read through."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from clipaudit.errors import ShardError, ShardUnreadable
from clipaudit.run.reader import Run
from clipaudit.shards.stored import check_shard, read_piece
from clipaudit.shards.tar import BLOCK, EndedEarly, NotATar, TarReader

Sample: TypeAlias = tuple[int, int]
"""Shard id and index."""

MAX_BYTES: Final = 64 * 2**20
"""Of an image, and of the part of a shard in which its mask is looked for."""
_COLUMNS: Final = ("shard_id", "index", "key", "phash", "offset", "nbytes")
_TAIL: Final = 2**20
"""Bytes behind a shard's last image in which its mask is looked for."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an image lies in its shard, and between which bytes the other members of its sample can lie."""

    shard_id: int
    url: str
    key: str
    phash: int | None
    """Equal for pictures that are equal to the eye."""
    offset: int
    """First byte of the image."""
    nbytes: int
    begin: int
    """The first tar header behind the image before it."""
    end: int
    """The first byte of the image behind it, or somewhat behind the shard's last one."""


class StoredImages:
    """Reads images of a run by their stored places, each with one more member of its sample. For any number of threads.

    Args:
        run: whose images.
        member: extension of what is wanted besides, such as `seg.png`; None for nothing.
    """

    def __init__(self, run: Run, member: str | None) -> None:
        self._run, self._wanted = run, None if member is None else member.lower()
        self._fault = cache(self._find_fault)

    def places(self, samples: Collection[Sample]) -> dict[Sample, Place]:
        """Places of samples, of those that the run has stored; one shard's plain columns are in memory at a time."""
        found: dict[Sample, Place] = {}
        for shard in sorted({shard for shard, _ in samples}):
            wanted = {index for there, index in samples if there == shard}
            found |= self._of_shard(shard, wanted)
        return found

    def read(self, place: Place) -> tuple[bytes, bytes | None]:
        """The bytes of an image; and of the wanted member, before or behind it, None when there is none.

        Raises ShardUnreadable when the shard is gone, changed or out of reach, or the image has more than 64 MiB.
        """
        if (fault := self._fault(place.shard_id)) is not None:
            raise ShardUnreadable(fault)
        if place.nbytes > MAX_BYTES:
            raise ShardUnreadable(f"{place.url}: {place.key} has more than {MAX_BYTES // 2**20} MiB")
        if self._wanted is None or place.end - place.begin > MAX_BYTES:
            return read_piece(place.url, place.offset, place.nbytes), None
        piece = read_piece(place.url, place.begin, place.end - place.begin)
        start = place.offset - place.begin
        return piece[start : start + place.nbytes], _member(piece, start, f"{place.key}.", self._wanted)

    def _find_fault(self, shard: int) -> str | None:
        """Why a shard's images are not to be had; looked up once."""
        there = self._run.manifest.shards[shard]
        try:
            check_shard(there)
        except ShardError as error:
            return f"{there.url}: {error}"
        return None

    def _of_shard(self, shard: int, wanted: Collection[int]) -> dict[Sample, Place]:
        table = self._run.table(_COLUMNS, [shard])
        index, keys, hashes = _ints(table["index"]), table["key"], table["phash"]
        offset, nbytes = _ints(table["offset"]), _ints(table["nbytes"])
        known = np.flatnonzero((offset >= 0) & (nbytes > 0))
        order = known[np.argsort(offset[known], kind="stable")]
        start, stop = offset[order], offset[order] + nbytes[order]
        begin = np.concatenate([[0], -(-stop // BLOCK) * BLOCK])
        end = np.concatenate([start[1:], stop[-1:] + _TAIL])
        return {
            (shard, int(index[row])): Place(
                shard_id=shard,
                url=self._run.manifest.shards[shard].url,
                key=keys[row].as_py(),
                phash=hashes[row].as_py(),
                offset=int(start[number]),
                nbytes=int(nbytes[row]),
                begin=int(begin[number]),
                end=int(end[number]),
            )
            for number, row in enumerate(order.tolist())
            if int(index[row]) in wanted
        }


def _member(piece: bytes, image: int, key: str, wanted: str) -> bytes | None:
    """The member of the sample whose image begins at byte `image` of a tar's piece, which may end anywhere."""

    def wants(name: str) -> bool:
        return name.startswith(key) and name[len(key) :].lower() == wanted

    found: bytes | None = None
    seen: set[str | None] = set()
    with contextlib.suppress(NotATar, EndedEarly):
        for member in TarReader(io.BytesIO(piece), len(piece), wants=wants):
            extension = member.name[len(key) :].lower() if member.name.startswith(key) else None
            if extension is None or extension in seen:  # another sample, perhaps of the same key
                if member.offset > image:
                    break
                found, seen = None, set()
            seen.add(extension)
            found = member.data if member.data is not None else found
    return found


def _ints(column: Any) -> npt.NDArray[np.int64]:  # noqa: ANN401 - pyarrow has no types
    return np.asarray(column.fill_null(-1).to_numpy(), np.int64)
