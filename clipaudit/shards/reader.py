"""Shard patterns to shards, and one shard to its samples: one reader per tar, never chained."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Final, Self, cast

from clipaudit.errors import ShardChanged, ShardError, ShardUnreadable, UsageError
from clipaudit.schema import BAD_NAME, DUPLICATE_KEY, OK, Shard
from clipaudit.shards.listing import Stat, is_local, stat_open, stat_shard
from clipaudit.shards.tar import EndedEarly, NotATar, TarMember, TarReader
from clipaudit.storage.remote import LOCAL_PROTOCOLS, PatientFile, open_filesystem, protocols_of, remote_errors, retried

_READ_AHEAD: Final = 8 * 2**20  # bytes per request to an object store
_ESTIMATE_BYTES: Final = 4 * 2**20  # read of each of the shards that stand for all
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_META: Final = re.compile(r"__[^/]*__($|/)")  # webdataset's `skip_meta`
_UNSAFE: Final = re.compile(r"\.\.|[^\w. -]")


@dataclass(frozen=True, slots=True)
class Member:
    """One wanted file of a sample."""

    data: bytes | None
    """None when the file is longer than `max_member_bytes`."""
    offset: int
    """Of the data, in bytes from the start of the tar."""
    nbytes: int


@dataclass(slots=True)
class Group:
    """Adjacent members with one key: a sample before its fields are read."""

    key: str
    status: str = OK
    """`ok`, `bad_name` or `duplicate_key`; the last two carry no members."""
    detail: str = ""
    members: dict[str, Member] = field(default_factory=dict)
    """Wanted members by lower-case extension (all that follows the first dot of the file name), in tar order."""


def verify_unchanged(shard: Shard) -> None:
    """Compare a shard with what was recorded of it: one stat.

    Raises ShardUnreadable when it is gone or out of reach, ShardChanged when its size or etag differs.
    """
    try:
        now = stat_shard(shard.url)
    except UsageError as error:
        raise ShardUnreadable(str(error)) from error
    if now is None:
        raise ShardUnreadable(f"shard {shard.url} does not exist any more")
    _refuse_change(shard, now)


def _refuse_change(shard: Shard, now: Stat) -> None:
    if now.size != shard.size:
        raise ShardChanged(f"shard {shard.url} has {now.size} bytes now; the run recorded {shard.size}")
    if now.etag != shard.etag:
        raise ShardChanged(f"shard {shard.url} was rewritten: its etag is {now.etag}; the run recorded {shard.etag}")


def estimate_samples(shards: Sequence[Shard]) -> int:
    """About how many samples there are, from the beginnings of up to three shards and the sizes of all; 0 if unknown.

    A shard that cannot be read is left out here: the job itself will name it.
    """
    chosen = sorted({0, len(shards) // 2, len(shards) - 1}) if shards else []
    samples = read = 0
    for shard in (shards[position] for position in chosen):
        try:
            counted = _count_head(shard)
        except ShardError:
            continue
        samples, read = samples + counted[0], read + counted[1]
    return round(samples * sum(shard.size for shard in shards) / read) if read else 0


def _count_head(shard: Shard) -> tuple[int, int]:
    """Samples at the beginning of a shard and the bytes that they take."""
    count = position = 0
    with ShardReader(shard, wants=lambda _: False, complete=lambda _: True, max_member_bytes=0) as reader:
        for _ in reader:
            count, position = count + 1, reader.bytes_good
            if position >= _ESTIMATE_BYTES:
                return count, position
    return count, shard.size


class ShardReader:
    """The groups of one shard in tar order; a context manager that is iterated once.

    webdataset's semantics: the key is the path up to the first dot of the file name, extensions are lower-cased,
    directories, links, hidden files, `__meta__` files and names without an extension are left out, and a group is a run
    of adjacent members. Beyond webdataset's: a key that comes again, or a wanted extension that comes again within a
    group, begins a new group of status `duplicate_key`; so a field can never be paired with another sample's image.

    When the tar is cut or holds junk, the reading ends there and `truncated` says where. Groups before it are kept. The
    last one is kept when the next group's header was still read or when `complete(members)` holds; otherwise it may
    lack members and is left out.
    """

    def __init__(
        self,
        shard: Shard,
        *,
        wants: Callable[[str], bool],
        complete: Callable[[Mapping[str, Member]], bool],
        max_member_bytes: int,
    ) -> None:
        """Open `shard`; `wants(extension)` tells which members are read, `complete` whether none of them is missing.

        Raises ShardUnreadable when the file cannot be opened or is empty, ShardChanged when it is another file now.
        """
        # Imported here: webdataset imports torch, which the listing of shards must not wait for.
        from webdataset.tariterators import base_plus_ext

        self._base_plus_ext = base_plus_ext
        self._shard = shard
        self._wants = wants
        self._complete = complete
        verify_unchanged(shard)
        if shard.size == 0:
            raise ShardUnreadable(f"shard {shard.url} is empty (0 bytes)")
        self._file = _open(shard)
        self._tar = TarReader(self._file, shard.size, wants=self._wants_name, max_member_bytes=max_member_bytes)
        self._seen: set[int] = set()
        self.truncated: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    @property
    def bytes_good(self) -> int:
        """Offset behind the last member that was read whole; the shard's size when nothing is wrong."""
        return self._tar.bytes_good

    def __iter__(self) -> Iterator[Group]:
        """Raises ShardUnreadable when the file is no tar or cannot be read to its end.

        A shard that was replaced or written to meanwhile raises ShardChanged at the end: its groups belong to two
        files, and all of them have to be thrown away.
        """
        try:
            yield from self._groups()
            self._verify_unchanged()
        except NotATar as error:
            raise ShardUnreadable(f"shard {self._shard.url} is not a plain tar: {error}") from None
        except EndedEarly as error:
            raise ShardUnreadable(f"shard {self._shard.url} could not be read to its end: {error}") from None
        except remote_errors() as error:
            raise ShardUnreadable(f"shard {self._shard.url} cannot be read: {error}") from error

    def _verify_unchanged(self) -> None:
        """Of a local file the one that is open, which may have another name by now, or have been written to."""
        if is_local(self._shard.url):
            _refuse_change(self._shard, stat_open(self._file, self._shard.url))
        else:
            verify_unchanged(self._shard)  # ranges of a remote file are requests of their own

    def _groups(self) -> Iterator[Group]:
        current: Group | None = None
        for member in self._tar:
            split = self._split(member.name)
            if split is None:
                continue
            key, extension, problem = split
            repeated = current is not None and self._wants(extension) and extension in current.members
            if current is None or key != current.key or repeated:
                if current is not None:
                    yield self._finished(current)
                current = Group(key, status=BAD_NAME if problem else OK, detail=problem)
            if self._wants(extension):
                current.members[extension] = _as_member(member)
        self.truncated = self._tar.truncated
        if current is None:
            return
        if self.truncated is None or self._is_whole(current):
            yield self._finished(current)
        else:
            self.truncated += f"; the sample {current.key!r} before it may be incomplete and is left out"

    def _finished(self, group: Group) -> Group:
        """The group with its key checked against those before it."""
        if group.status == OK:
            digest = int.from_bytes(hashlib.blake2b(group.key.encode(), digest_size=8).digest(), "little")
            if digest in self._seen:
                group.status = DUPLICATE_KEY
                group.detail = f"the key {group.key!r} came before in this shard"
            self._seen.add(digest)
        if group.status != OK:
            group.members = {}
        return group

    def _is_whole(self, group: Group) -> bool:
        """Whether the last group before a cut is known to have all its members."""
        if group.status != OK or self._complete(group.members):
            return True
        following = self._split(self._tar.cut_name) if self._tar.cut_name is not None else None
        return following is not None and following[0] != group.key

    def _wants_name(self, name: str) -> bool:
        split = self._split(name)
        return split is not None and not split[2] and self._wants(split[1])

    def _split(self, name: str) -> tuple[str, str, str] | None:
        """(key, lower-case extension, what is wrong with the name or "") of a member; None when it is left out."""
        key, extension = self._base_plus_ext(name)
        problem = _name_problem(name)
        if problem:
            return _sanitised(name if key is None else key), (extension or "").lower(), problem
        if key is None or _META.match(name) or name.rpartition("/")[2].startswith("."):
            return None
        return key, extension.lower(), ""


def _as_member(member: TarMember) -> Member:
    return Member(data=member.data, offset=member.offset, nbytes=member.nbytes)


def _name_problem(name: str) -> str:
    """Why a member name escapes the archive, or ""; nothing is ever written under it, but nobody else should either."""
    path = name.replace("\\", "/")
    if "\0" in name:
        return "the member name holds a NUL"
    if path.startswith("/") or _DRIVE.match(path):
        return "the member name is an absolute path"
    if ".." in path.split("/"):
        return "the member name leaves the archive with '..'"
    return ""


def _sanitised(key: str) -> str:
    """A key without separators, dot pairs and control characters: each such character as `\\xNN`."""
    return _UNSAFE.sub(lambda match: "".join(f"\\x{ord(character):02x}" for character in match[0]), key)


def _open(shard: Shard) -> IO[bytes]:
    """The shard's file, for sequential reads."""
    try:
        fs, path = open_filesystem(shard.url)
        if LOCAL_PROTOCOLS.intersection(protocols_of(fs)):
            local: IO[bytes] = fs.open(path, "rb")
            return local
        options: dict[str, Any] = {"block_size": _READ_AHEAD, "cache_type": "readahead"}
        file: IO[bytes] = retried(lambda: fs.open(path, "rb", **options), shard.url)
    except remote_errors() as error:
        raise ShardUnreadable(f"shard {shard.url} cannot be opened: {error}") from error
    try:
        file.seek(1)
        file.seek(0)
    except (ValueError, OSError):
        return file  # a plain stream: when it breaks, the shard is read again from byte 0
    return cast(IO[bytes], PatientFile(file, shard.url))
