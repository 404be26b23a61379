"""A shard's bytes: opened for sequential reads, hashed, and compared with what is recorded of them."""

from __future__ import annotations

import hashlib
from typing import IO, Any, Final, cast

from clipaudit.errors import ShardChanged, ShardUnreadable, UsageError
from clipaudit.schema import Shard
from clipaudit.shards.listing import Stat, stat_shard
from clipaudit.storage.remote import LOCAL_PROTOCOLS, PatientFile, open_filesystem, protocols_of, remote_errors, retried

_READ_AHEAD_BYTES: Final = 8 * 2**20  # of one request to an object store
_HASHED_BYTES: Final = 4 * 2**20  # of one read that only hashes


def verify_unchanged(shard: Shard) -> None:
    """Compare a shard's size and etag with the recorded ones, by one stat.

    Raises ShardUnreadable when it does not exist or cannot be reached, ShardChanged when its size or etag differs.
    """
    try:
        now = stat_shard(shard.url)
    except UsageError as error:
        raise ShardUnreadable(str(error)) from error
    if now is None:
        raise ShardUnreadable(f"shard {shard.url} does not exist any more")
    refuse_change(shard, now)


def refuse_change(shard: Shard, now: Stat) -> None:
    """ShardChanged when the size or the etag is not the recorded one."""
    if now.size != shard.size:
        raise ShardChanged(f"shard {shard.url} has {now.size} bytes now; the run recorded {shard.size}")
    if now.etag != shard.etag:
        raise ShardChanged(f"shard {shard.url} was rewritten: its etag is {now.etag}; the run recorded {shard.etag}")


class HashedStream:
    """A file object for sequential reads that hashes what is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def finish(self) -> str:
        """Read on to the end, behind a tar's last member or a place where it is damaged; the hex sha256 of it all."""
        while self.read(_HASHED_BYTES):
            pass
        return self._hash.hexdigest()


def shard_sha256(shard: Shard) -> str:
    """The hex sha256 of a shard as it is now; ShardUnreadable when it cannot be read, ShardChanged when its size is not
    the recorded one.
    """
    try:
        now = stat_shard(shard.url)
        if now is None:
            raise ShardUnreadable(f"shard {shard.url} does not exist any more")
        if now.size != shard.size:
            raise ShardChanged(f"shard {shard.url} has {now.size} bytes now; the run recorded {shard.size}")
        with open_shard(shard) as file:
            return HashedStream(file).finish()
    except UsageError as error:
        raise ShardUnreadable(str(error)) from error
    except remote_errors() as error:
        raise ShardUnreadable(f"shard {shard.url} cannot be read: {error}") from error


def open_shard(shard: Shard) -> IO[bytes]:
    """The shard's file, for sequential reads. Raises ShardUnreadable."""
    try:
        fs, path = open_filesystem(shard.url)
        if LOCAL_PROTOCOLS.intersection(protocols_of(fs)):
            local: IO[bytes] = fs.open(path, "rb")
            return local
        options: dict[str, Any] = {"block_size": _READ_AHEAD_BYTES, "cache_type": "readahead"}
        file: IO[bytes] = retried(lambda: fs.open(path, "rb", **options), shard.url)
    except remote_errors() as error:
        raise ShardUnreadable(f"shard {shard.url} cannot be opened: {error}") from error
    try:
        file.seek(1)
        file.seek(0)
    except (ValueError, OSError):
        return file  # a stream without ranges: when it breaks, the attempt starts again at byte 0
    return cast(IO[bytes], PatientFile(file, shard.url))
