"""The reader of a run's images: their files cut out of the shards by stored places, with a member beside each."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Ints
from clipaudit.errors import ShardChanged, ShardError, ShardUnreadable, UsageError
from clipaudit.run.reader import Run
from clipaudit.run.row import ImageId
from clipaudit.shards.stored import check_shard, has_content, read_piece
from clipaudit.shards.tar import BLOCK, EndedEarly, NotATar, TarReader

MAX_BYTES: Final = 64 * 2**20
"""Of an image's file, and of the part of a shard in which its mask is looked for."""
_COLUMNS: Final = ("shard_id", "index", "key", "phash", "offset", "nbytes")
_THREADS: Final = 16
_HEADERS: Final = 8 * BLOCK
"""Bytes in front of a file in which its tar headers are looked for: one, or more for a long name."""
_TAIL: Final = 2**20
"""Bytes behind a shard's last image in which its mask is looked for."""


@dataclass(frozen=True, kw_only=True)
class StoredPlace:
    """Where an image lies in its shard, and between which bytes the other members of its sample can lie."""

    shard_id: int
    url: str
    key: str
    phash: int | None
    """Equal for pictures that are equal to the eye."""
    offset: int
    """First byte of the image's file."""
    nbytes: int
    begin: int
    """The first tar header behind the image before it."""
    end: int
    """The first byte of the image behind it, or somewhat behind the shard's last one."""


class StoredImages:
    """Reads the files of a run's images, one request each; no shard is read through. For any number of threads.

    A shard is compared once with what the run recorded of it, by size and etag, where those differ by its hash: in a
    file that was rewritten since, the stored places hold something else. Every failure to read is a ShardUnreadable.

    Args:
        run: whose images.
        member: extension of what `read_with_member` reads besides, such as `seg.png`; None for nothing.
    """

    def __init__(self, run: Run, member: str | None = None) -> None:
        self._run, self._wanted = run, None if member is None else member.lower()
        self._faults: dict[int, str | None] = {}
        self._locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    def fault(self, shard_id: int) -> str | None:
        """Why no image of a shard can be read, in a few words, or None; looked up once, whichever thread asks first."""
        with self._locks[shard_id]:
            if shard_id not in self._faults:
                self._faults[shard_id] = self._find_fault(shard_id)
            return self._faults[shard_id]

    def read(self, shard_id: int, offset: int | None, nbytes: int | None) -> bytes:
        """The `nbytes` bytes of an image's file from byte `offset` of its shard, or fewer where the shard ends.

        Raises ShardUnreadable when the place is not stored, the file has more than 64 MiB, or the shard is gone,
        changed or out of reach.
        """
        url = self._run.manifest.shards[shard_id].url
        if offset is None or not nbytes:
            raise ShardUnreadable(f"{url}: the place of the image in the shard is not stored")
        self._check(shard_id, nbytes)
        return read_piece(url, offset, nbytes)

    def members(self, shard_id: int, keys: Sequence[str], offsets: Ints) -> list[str | None]:
        """The names in the tar of a shard's images, given their keys and the first bytes (n,) of their files.

        They are read from the tar headers in front of the files. None for all when the shard cannot be read, see
        `fault`, and for a file without a header that can be read.
        """
        if self.fault(shard_id) is not None:
            return [None] * len(keys)
        url = self._run.manifest.shards[shard_id].url

        def name(place: tuple[str, int]) -> str | None:
            key, offset = place
            first = max(offset - _HEADERS, 0)
            try:
                return _header_name(read_piece(url, first, offset - first), f"{key}.")
            except ShardError:
                return None

        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(name, zip(keys, offsets.tolist(), strict=True)))

    def read_with_member(self, place: StoredPlace) -> tuple[bytes, bytes | None]:
        """The bytes of an image's file, and of the wanted member of its sample, which may lie before or behind it.

        The second is None when there is no such member, or when it could lie in more than 64 MiB. Raises as `read`.
        """
        if self._wanted is None or place.end - place.begin > MAX_BYTES:
            return self.read(place.shard_id, place.offset, place.nbytes), None
        self._check(place.shard_id, place.nbytes)
        piece = read_piece(place.url, place.begin, place.end - place.begin)
        start = place.offset - place.begin
        return piece[start : start + place.nbytes], _member(piece, start, f"{place.key}.", self._wanted)

    def places(self, images: Collection[ImageId]) -> dict[ImageId, StoredPlace]:
        """Places of some images, of those that the run has stored; one shard's plain columns are in memory at a time.

        IntegrityError when a file of the run is missing or damaged.
        """
        places: dict[ImageId, StoredPlace] = {}
        for shard in sorted({shard for shard, _ in images}):
            places |= self._of_shard(shard, {index for of, index in images if of == shard})
        return places

    def _check(self, shard_id: int, nbytes: int) -> None:
        url = self._run.manifest.shards[shard_id].url
        if (fault := self.fault(shard_id)) is not None:
            raise ShardUnreadable(f"{url}: {fault}")
        if nbytes > MAX_BYTES:
            raise ShardUnreadable(f"{url}: a file of {nbytes:,} bytes, more than {MAX_BYTES // 2**20} MiB, is not read")

    def _find_fault(self, shard_id: int) -> str | None:
        shard, record = self._run.manifest.shards[shard_id], self._run.records.get(shard_id)
        try:
            try:
                check_shard(shard)
            except ShardChanged:
                # A copy of the data set has other times than the original, and the same content.
                if record is None or not has_content(shard, record.input_sha256):
                    raise
        except (ShardError, UsageError) as error:
            return str(error)
        return None

    def _of_shard(self, shard: int, wanted: Collection[int]) -> dict[ImageId, StoredPlace]:
        table = self._run.table(_COLUMNS, [shard])
        index, keys, hashes = _ints(table["index"]), table["key"], table["phash"]
        offset, nbytes = _ints(table["offset"]), _ints(table["nbytes"])
        known = np.flatnonzero((offset >= 0) & (nbytes > 0))
        order = known[np.argsort(offset[known], kind="stable")]
        start, stop = offset[order], offset[order] + nbytes[order]
        begin = np.concatenate([[0], -(-stop // BLOCK) * BLOCK])  # a tar pads each file to whole blocks
        end = np.concatenate([start[1:], stop[-1:] + _TAIL])
        return {
            (shard, int(index[row])): StoredPlace(
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


def _header_name(piece: bytes, key: str) -> str | None:
    """The name of the file that begins behind a piece of a tar; `key` is that of the sample, with the dot behind it."""
    try:
        header = tarfile.TarInfo.frombuf(piece[-BLOCK:], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return None
    if header.name.startswith(key):
        return header.name
    # a long name, or one that is not ASCII, stands in a header of its own in front of the file's
    if not 0 <= header.size <= MAX_BYTES:
        return None
    body = bytes(-(-header.size // BLOCK) * BLOCK)
    for start in range(0, len(piece), BLOCK):
        rest = piece[start:] + body
        with contextlib.suppress(NotATar, EndedEarly):
            member = next(iter(TarReader(io.BytesIO(rest), len(rest), wants=lambda name: False)), None)
            if member is not None and member.offset == len(piece) - start:
                return member.name
    return None


def _member(piece: bytes, image: int, key: str, wanted: str) -> bytes | None:
    """A member of the sample whose image begins at byte `image` of a piece of a tar, which may end anywhere.

    key: of the sample, with the dot behind it. wanted: the member's extension. None when it is not in the piece.
    """

    def wants(name: str) -> bool:
        return name.startswith(key) and name[len(key) :].lower() == wanted

    data: bytes | None = None
    seen: set[str | None] = set()
    with contextlib.suppress(NotATar, EndedEarly):
        for member in TarReader(io.BytesIO(piece), len(piece), wants=wants):
            extension = member.name[len(key) :].lower() if member.name.startswith(key) else None
            if extension is None or extension in seen:  # another sample, perhaps of the same key
                if member.offset > image:
                    break
                data, seen = None, set()
            seen.add(extension)
            data = member.data if member.data is not None else data
    return data


def _ints(column: Any) -> Ints:  # noqa: ANN401 - pyarrow has no types
    return np.asarray(column.fill_null(-1).to_numpy(), np.int64)
