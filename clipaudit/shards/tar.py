"""A tar stream as members with offsets. Unlike Python's tarfile it reports where a damaged archive is cut or broken."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

BLOCK: Final = 512
_CHUNK: Final = 2**20
_MAX_EXTENDED_HEADER: Final = 2**20  # bytes of a long name or PAX record; a larger one is junk that parses by chance
_MAX_NESTED_HEADERS: Final = 16
_GNU_SPARSE: Final = b"S"
_NO_MEMBERS: Final = (b"V", b"D", b"N")  # of GNU tar: label of a volume, names in a directory, long names of old
_EXTENDED: Final = (b"L", b"K", b"x", b"X", b"g")
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Stream(Protocol):
    """A file object for sequential reads."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...


class NotATar(ValueError):
    """The file's first block is not a tar header."""


class EndedEarly(OSError):
    """The stream ended before the size that the file is known to have."""


class Damage(Exception):
    """The archive cannot be read beyond byte `offset`; the message says why, and is completed by "at byte ..."."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class TarMember:
    """One regular file, link, sparse file or device of the archive."""

    name: str
    """Bytes that are not UTF-8 appear as `\\xNN`, so every name can be stored as text."""
    offset: int
    """Of the data, in bytes from the start of the archive."""
    nbytes: int
    """Bytes of the data."""
    data: bytes | None
    """None when it was not wanted, or is longer than the limit."""
    link: str | None = None
    """For a hard or symbolic link, the name that it leads to; a link has no data."""
    sparse: bool = False
    """Whether its data is stored with holes left out, and so cannot be used."""
    special: bool = False
    """Whether it is a device, a pipe, or of a type that only some programs know; it has no data then."""


@dataclass(slots=True)
class _Pending:
    """What the extended headers before a member say of it, in place of its own header."""

    name: str | None = None
    link: str | None = None
    size: int | None = None
    sparse: bool = False


class TarReader:
    """Reads one plain tar sequentially, without seeking; memory is bounded by one member.

    After the iteration `truncated` is None, or one sentence with the byte offset about a cut or about junk;
    `bytes_good` is the offset behind the last member that was read whole (the file's size when nothing is wrong);
    `cut_name` is the name of the member in which the file was cut, if its header could still be read.
    """

    def __init__(
        self, stream: Stream, size: int, *, wants: Callable[[str], bool], max_member_bytes: int = 2**62
    ) -> None:
        """`size` is the file's size in bytes; `wants(name)` says whether a member's data is read."""
        self._stream = stream
        self._size = size
        self._wants = wants
        self._max_member_bytes = max_member_bytes
        self._position = 0
        self._block = b""
        self.bytes_good = 0
        self.truncated: str | None = None
        self.cut_name: str | None = None

    def __iter__(self) -> Iterator[TarMember]:
        """Members in archive order; directories are left out.

        Raises NotATar when the first block is not a header, EndedEarly when the stream is shorter than `size`.
        """
        try:
            while (member := self._next()) is not None:
                if isinstance(member, TarMember):
                    yield member
                self.bytes_good = min(self._position, self._size)
        except Damage as damage:
            self.truncated = f"{damage} at byte {damage.offset} of {self._size}"
        else:
            self.bytes_good = self._size

    def _next(self) -> TarMember | bool | None:
        """The next member, True for a directory or a label, None at the end-of-archive mark.

        Raises Damage.
        """
        pending = _Pending()
        for _ in range(_MAX_NESTED_HEADERS):
            start = self._position
            header = self._header(start)
            if header is None:
                return None
            if header.type in _EXTENDED:
                self._extend(header, pending, start)
                continue
            if header.type == _GNU_SPARSE:
                self._skip_sparse_map(start)
            size = header.size if pending.size is None else pending.size
            if size < 0:
                raise Damage(start, "junk instead of a tar header")
            # As in tarfile: other types have no data, whatever their size field says.
            name = header.name if pending.name is None else pending.name
            if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
                target = header.linkname if pending.link is None else pending.link
                return TarMember(_text(name), self._position, 0, None, link=_target(header.type, name, target))
            if header.isdir() or (header.type in tarfile.SUPPORTED_TYPES and not header.isreg()):
                return True if header.isdir() else TarMember(_text(name), self._position, 0, None, special=True)
            # Directories of old archives are files whose names end in a slash; volume labels and lists of names are
            # no members.
            listed = not name.endswith("/") and header.type not in _NO_MEMBERS
            body = self._body(_text(name), size, start, listed, header.type == _GNU_SPARSE or pending.sparse)
            if isinstance(body, TarMember) and not header.isreg():
                return replace(body, data=None, special=True)
            return body
        raise Damage(start, "junk instead of a tar header")

    def _body(self, name: str, size: int, start: int, listed: bool, sparse: bool) -> TarMember | bool:
        """Read or skip the data of the member whose headers begin at `start`."""
        offset = self._position
        if offset + size > self._size:
            self.cut_name = name if listed else None
            what = "cut inside" if size <= 2**40 else "an impossible size for"
            raise Damage(start, f"{what} the member {name!r} that begins")
        data = None
        if listed and not sparse and size <= self._max_member_bytes and self._wants(name):
            data = self._read(size)
        else:
            self._skip(size)
        # A file may be cut in the padding behind the data: then the member itself is whole.
        self._skip(min(-size % BLOCK, self._size - self._position))
        return TarMember(name, offset, size, data, sparse=sparse) if listed else True

    def _header(self, start: int) -> tarfile.TarInfo | None:
        """The header at the current position; None for the end-of-archive mark."""
        left = self._size - start
        if left < BLOCK:
            self._skip(left)
            if start == 0:
                raise NotATar(f"it has {left} bytes only")
            raise Damage(start, "cut, without the end-of-archive mark,")
        block = self._block = self._read(BLOCK)
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            self._check_tail()
            return None
        except (tarfile.HeaderError, ValueError):
            if start == 0:
                kinds = [kind for magic, kind in _COMPRESSED.items() if block.startswith(magic)]
                reason = f"it is compressed with {kinds[0]}" if kinds else "it does not begin with a tar header"
                raise NotATar(reason) from None
            raise Damage(start, "junk instead of a tar header") from None

    def _check_tail(self) -> None:
        """Raise Damage when anything but zeros follows the end-of-archive mark, such as a second archive."""
        while self._position < self._size:
            start = self._position
            chunk = self._read(min(_CHUNK, self._size - start))
            if chunk.count(0) != len(chunk):
                first = len(chunk) - len(chunk.lstrip(b"\0"))
                raise Damage(start + first, "data behind the end-of-archive mark, begins")

    def _extend(self, header: tarfile.TarInfo, pending: _Pending, start: int) -> None:
        """Read a GNU long name or a PAX record into `pending`."""
        if not 0 <= header.size <= _MAX_EXTENDED_HEADER:
            raise Damage(start, "junk instead of a tar header")
        if self._position + header.size > self._size:
            raise Damage(start, "cut inside an extended header that begins")
        data = self._read(header.size)
        self._skip(min(-header.size % BLOCK, self._size - self._position))
        if header.type == b"L":
            pending.name = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        elif header.type == b"K":
            pending.link = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        elif header.type in (b"x", b"X"):
            records = _pax_records(data, start)
            if b"path" in records:
                pending.name = records[b"path"].decode("utf-8", "surrogateescape")
            if b"linkpath" in records:
                pending.link = records[b"linkpath"].decode("utf-8", "surrogateescape")
            if b"GNU.sparse.name" in records:
                pending.name = records[b"GNU.sparse.name"].decode("utf-8", "surrogateescape")
            if b"size" in records:
                if not records[b"size"].isdigit():
                    raise Damage(start, "a PAX header with a size that is no number")
                pending.size = int(records[b"size"])
            pending.sparse = any(key.startswith(b"GNU.sparse.") for key in records)

    def _skip_sparse_map(self, start: int) -> None:
        """Skip the blocks between the header of a sparse file (old GNU format) and its data."""
        # Byte 482 of the header, and byte 504 of each further block, says whether another block of the map follows.
        more = self._block[482]
        while more:
            if self._size - self._position < BLOCK:
                raise Damage(start, "cut inside a sparse member that begins")
            more = self._read(BLOCK)[504]

    def _read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises EndedEarly."""
        parts = []
        left = size
        while left:
            part = self._stream.read(left)
            if not part:
                raise EndedEarly(f"the stream ended after {self._position} of {self._size} bytes")
            self._position += len(part)
            left -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._read(min(size, _CHUNK)))


def _pax_records(data: bytes, start: int) -> dict[bytes, bytes]:
    """Records `LENGTH KEY=VALUE\\n` as a dictionary; the length is that of the whole record. Raises Damage."""
    records = {}
    while data and data[0]:
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or len(length) > 8 or not len(length) + 2 < int(length) <= len(data):
            raise Damage(start, "a PAX header that cannot be read")
        key, equals, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if not equals:
            raise Damage(start, "a PAX header that cannot be read")
        records[key] = value
        data = data[int(length) :]
    return records


def _text(name: str) -> str:
    """A name with its undecodable bytes (surrogates) written as `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _target(kind: bytes, name: str, target: str) -> str:
    """The member that a link leads to: a hard link names it, a symbolic link's path begins in its own directory."""
    path = target if kind == tarfile.LNKTYPE else posixpath.join(posixpath.dirname(name), target)
    return _text(path if kind == tarfile.LNKTYPE else posixpath.normpath(path))
