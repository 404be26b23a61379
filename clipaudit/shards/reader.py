"""One shard to the groups of files that are its samples: one reader a tar, never a chain of tars."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from clipaudit.errors import ShardError, ShardUnreadable
from clipaudit.schema import BAD_NAME, DUPLICATE_KEY, OK, Shard
from clipaudit.shards.content import HashedStream, open_shard, refuse_change, verify_unchanged
from clipaudit.shards.listing import is_local, stat_open
from clipaudit.shards.tar import EndedEarly, NotATar, TarMember, TarReader
from clipaudit.storage.remote import remote_errors

_ESTIMATE_BYTES: Final = 4 * 2**20  # read of each shard that samples are counted in
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_NAMED_EXTENSIONS: Final = 6
_NAMED_MEMBERS: Final = 5
_MAX_LINKS: Final = 8  # from link to link
_META: Final = re.compile(r"__[^/]*__($|/)")  # webdataset leaves these out too, by `skip_meta`
_META_KEY: Final = re.compile(r"(.*/)?__[^/]*__")
_ARCHIVE: Final = re.compile(r"(.*\.)?(tar|tgz|tar\.\w+|zip|7z|rar)")
_UNSAFE: Final = re.compile(r"\.\.|[^\w. -]")


@dataclass(frozen=True, slots=True)
class Member:
    """One wanted file of a sample."""

    data: bytes | None
    """None when the file is longer than `max_member_bytes`, or is no plain file."""
    offset: int
    """Of the data, in bytes from the start of the tar."""
    nbytes: int
    """Bytes of the data, also where it was not read."""
    problem: str = ""
    """Why a link or a sparse file could not be read."""


class OtherMembers:
    """Members that are no files of a sample, counted by kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """By `meta_file`, `hidden_file`, `nested_archive`, `nameless_file`."""
        self.names: dict[str, list[str]] = {}
        """The first few of each kind."""

    def add(self, kind: str, name: str) -> None:
        """Count one member."""
        self.counts[kind] += 1
        names = self.names.setdefault(kind, [])
        if len(names) < _NAMED_MEMBERS:
            names.append(name)


@dataclass(slots=True)
class Group:
    """Adjacent members with one key: a sample before its fields are read."""

    key: str
    """Path of the files up to the first dot of the file name."""
    status: str = OK
    """`ok`, `bad_name` or `duplicate_key`; a group of the last two has no members."""
    detail: str = ""
    """Why the status is not `ok`, one sentence."""
    members: dict[str, Member] = field(default_factory=dict)
    """Wanted members by lower-case extension (all that follows the first dot of the file name), in tar order."""
    others: list[str] = field(default_factory=list)
    """The first extensions that are not wanted, for messages."""

    @property
    def extensions(self) -> list[str]:
        """Of the wanted members, then of the others."""
        return [*self.members, *self.others]

    @property
    def foreign_kind(self) -> str | None:
        """`meta_file` or `nested_archive` for a group that is no sample unless it has an image; None for others."""
        if self.status != OK:
            return None
        if _META_KEY.fullmatch(self.key):
            return "meta_file"
        return "nested_archive" if all(map(_ARCHIVE.fullmatch, self.extensions)) else None


def estimate_samples(shards: Sequence[Shard]) -> int:
    """About how many samples the shards hold; 0 when none of those that are looked into can be read.

    The samples a byte at the beginning of the first, the middle and the last shard, times the bytes of all shards. A
    shard that cannot be read is left out: the job itself reports it.
    """
    positions = sorted({0, len(shards) // 2, len(shards) - 1}) if shards else []
    samples = nbytes = 0
    for shard in (shards[position] for position in positions):
        try:
            shard_samples, shard_bytes = _count_head(shard)
        except ShardError:
            continue
        samples, nbytes = samples + shard_samples, nbytes + shard_bytes
    return round(samples * sum(shard.size for shard in shards) / nbytes) if nbytes else 0


def _count_head(shard: Shard) -> tuple[int, int]:
    """(samples in the first 4 MiB of a shard, bytes that they take)."""
    count = position = 0
    with ShardReader(shard, wants=lambda _: False, complete=lambda _: True, max_member_bytes=0) as reader:
        for _ in reader:
            count, position = count + 1, reader.bytes_good
            if position >= _ESTIMATE_BYTES:
                return count, position
    return count, shard.size


class ShardReader:
    """The groups of one shard in tar order; a context manager that is iterated once.

    As in webdataset the key is the path up to the first dot of the file name, extensions are lower-cased, directories,
    hidden files, `__meta__` files and names without an extension are left out, and adjacent members with one key are a
    group. `left_out` counts what is left out, but for directories. Links to members of the same tar are followed.
    Stricter than webdataset: a key that comes again, or a wanted extension that comes again within a group, begins a
    new group of status `duplicate_key`, so that a field is never paired with another sample's image.

    When the tar is cut or holds junk, reading ends there and `truncated` says where. The groups before that are given
    out, the last one only if it is known to be whole: when the header of the next group was still read, or when
    `complete(members)` holds.
    """

    def __init__(
        self,
        shard: Shard,
        *,
        wants: Callable[[str], bool],
        complete: Callable[[Mapping[str, Member]], bool],
        max_member_bytes: int,
        hashed: bool = False,
    ) -> None:
        """Open `shard`; with `hashed` the iteration also takes the `sha256` of the whole file.

        `wants(extension)` says which members are read, `complete(members)` whether a group has all that are needed;
        members of more than `max_member_bytes` are not read. Raises ShardUnreadable when the file cannot be opened or
        is empty, and ShardChanged when its size or etag is no longer the recorded one.
        """
        # Imported late: webdataset imports torch, which takes seconds and is not needed to list shards.
        from webdataset.tariterators import base_plus_ext

        self._base_plus_ext = base_plus_ext
        self._shard = shard
        self._wants = wants
        self._complete = complete
        verify_unchanged(shard)
        if shard.size == 0:
            raise ShardUnreadable(f"shard {shard.url} is empty (0 bytes)")
        self._file = open_shard(shard)
        self._hashed = HashedStream(self._file) if hashed else None
        stream = self._hashed or self._file
        self._tar = TarReader(stream, shard.size, wants=self._wants_name, max_member_bytes=max_member_bytes)
        self._max_member_bytes = max_member_bytes
        self._by_name: dict[str, TarMember] | None = None
        self._key_digests: set[int] = set()
        self.truncated: str | None = None
        self.sha256 = ""
        """Of the whole file, hex digits, once the iteration has ended; empty unless it was asked for."""
        self.left_out = OtherMembers()

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
        """Raises ShardUnreadable when the file is not a tar or cannot be read to its end.

        Raises ShardChanged at the end when the shard was replaced or written to while it was read: its groups may be of
        two files, and none of them can be used.
        """
        try:
            yield from self._groups()
            if self._hashed is not None:
                self.sha256 = self._hashed.finish()
            self._verify_unchanged()
        except NotATar as error:
            raise ShardUnreadable(f"shard {self._shard.url} is not a plain tar: {error}") from None
        except EndedEarly as error:
            raise ShardUnreadable(f"shard {self._shard.url} could not be read to its end: {error}") from None
        except remote_errors() as error:
            raise ShardUnreadable(f"shard {self._shard.url} cannot be read: {error}") from error

    def _verify_unchanged(self) -> None:
        """Compare the shard with its record once more, after the last read."""
        if is_local(self._shard.url):
            # The file that is open, which is the one that was read even if another has its name by now.
            refuse_change(self._shard, stat_open(self._file, self._shard.url))
        else:
            verify_unchanged(self._shard)  # each range of a remote file is a request by name

    def _groups(self) -> Iterator[Group]:
        current: Group | None = None
        for member in self._tar:
            split = self._split(member.name)
            if split is None:
                self.left_out.add(_kind(member.name), member.name)
                continue
            key, extension, problem = split
            repeated = current is not None and self._wants(extension) and extension in current.members
            if current is None or key != current.key or repeated:
                if current is not None:
                    yield self._finished(current)
                current = Group(key, status=BAD_NAME if problem else OK, detail=problem)
            if self._wants(extension):
                current.members[extension] = self._as_member(member)
            elif len(current.others) < _NAMED_EXTENSIONS:
                current.others.append(extension)
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
            # Hashes of 64 bits take less memory than keys; among 10^6 keys two collide with a chance of 3e-8.
            digest = int.from_bytes(hashlib.blake2b(group.key.encode(), digest_size=8).digest(), "little")
            if digest in self._key_digests:
                group.status = DUPLICATE_KEY
                group.detail = (
                    f"the key {group.key!r} came before in this shard: the files of a sample must be next to each other"
                    " (repack with `tar --sort=name`)"
                )
            self._key_digests.add(digest)
        if group.status != OK:
            group.members = {}
        return group

    def _as_member(self, member: TarMember) -> Member:
        """The member; a link within the archive is followed."""
        if member.special:
            problem = "it is a device, a pipe or of a special type, not a file"
            return Member(data=None, offset=member.offset, nbytes=member.nbytes, problem=problem)
        if member.sparse:
            problem = "it is a sparse file: repack the tar without --sparse"
            return Member(data=None, offset=member.offset, nbytes=member.nbytes, problem=problem)
        if member.link is None:
            return Member(data=member.data, offset=member.offset, nbytes=member.nbytes)
        target = self._linked(member)
        if target is None:
            problem = f"it is a link to {member.link!r}, which is not in this shard"
            return Member(data=None, offset=member.offset, nbytes=0, problem=problem)
        data = self._read_at(target) if target.nbytes <= self._max_member_bytes else None
        return Member(data=data, offset=target.offset, nbytes=target.nbytes)

    def _linked(self, member: TarMember) -> TarMember | None:
        """The regular member that a link leads to; None when it is not in this archive."""
        if self._by_name is None:
            # Only shards with links pay for this: one more pass over the headers.
            with open_shard(self._shard) as file:
                entries = TarReader(file, self._shard.size, wants=lambda _: False)
                # `./a.jpg` and `a.jpg` are one file.
                self._by_name = {posixpath.normpath(entry.name): entry for entry in entries}
        entry: TarMember | None = member
        for _ in range(_MAX_LINKS):
            if entry is None or entry.link is None:
                return entry
            entry = self._by_name.get(posixpath.normpath(entry.link))
        return None

    def _read_at(self, member: TarMember) -> bytes:
        with open_shard(self._shard) as file:
            file.seek(member.offset)
            return bytes(file.read(member.nbytes))

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
        """(key, lower-case extension, problem of the name or "") of a member; None when it is left out."""
        key, extension = self._base_plus_ext(name)
        problem = _name_problem(name)
        if problem:
            return _sanitised(name if key is None else key), (extension or "").lower(), problem
        if key is None or _META.match(name) or name.rpartition("/")[2].startswith("."):
            return None
        return key, extension.lower(), ""


def _kind(name: str) -> str:
    """Why a member belongs to no sample."""
    if _META.match(name):
        return "meta_file"
    return "hidden_file" if name.rpartition("/")[2].startswith(".") else "nameless_file"


def _name_problem(name: str) -> str:
    """Why a member's name leads out of the archive, or ""; a program that unpacks the tar could be misled by it."""
    path = name.replace("\\", "/")
    if "\0" in name:
        return "the member name holds a NUL"
    if path.startswith("/") or _DRIVE.match(path):
        return "the member name is an absolute path"
    if ".." in path.split("/"):
        return "the member name leaves the archive with '..'"
    return ""


def _sanitised(key: str) -> str:
    """A key with its separators, pairs of dots and control characters written as `\\xNN`."""
    return _UNSAFE.sub(lambda match: "".join(f"\\x{ord(character):02x}" for character in match[0]), key)
