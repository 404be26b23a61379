"""Members of a plain USTAR archive as bytes: the same content gives the same archive, wherever it is written."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

BLOCK: Final = 512
MAX_MEMBER_BYTES: Final = 8**11 - 1
"""The largest size that a USTAR header can say: 8 GiB less a byte."""
MAX_NAME_BYTES: Final = 100
END_OF_ARCHIVE: Final = bytes(2 * BLOCK)

_MODE_TO_GROUP: Final = b"0000644\0" + b"0000000\0" * 2
_TIME: Final = b"00000000000\0"  # 1970: the time of writing must not change the bytes
_SPACES: Final = b" " * 8  # the checksum field counts as spaces
_REST: Final = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
_FIXED_SUM: Final = sum(_MODE_TO_GROUP) + sum(_TIME) + sum(_SPACES) + sum(_REST)
_HEADER: Final = b"%s%s" + _MODE_TO_GROUP + b"%s" + _TIME + b"%s" + _REST
_ZEROS: Final = tuple(bytes(MAX_NAME_BYTES - size) for size in range(MAX_NAME_BYTES + 1))
_PADDING: Final = tuple(bytes(-size % BLOCK) for size in range(BLOCK))


class SampleMembers:
    """The files of one sample, `KEY.jpg`, `KEY.cls` and so on, as bytes of the archive.

    Of a header's checksum the part of the key is summed once a sample, and those of extensions and sizes once a
    process: a header costs a microsecond.
    """

    __slots__ = ("_key", "_sum", "parts")

    def __init__(self, key: str) -> None:
        """`key` is ASCII."""
        self._key = key.encode()
        self._sum = _FIXED_SUM + sum(self._key)
        self.parts: list[bytes] = []
        """Header, data and padding of one file after another."""

    def add(self, extension: str, data: bytes) -> None:
        """Add `KEY.EXTENSION`, a name of at most 100 bytes; ValueError for a longer one, or for data beyond 8 GiB."""
        size = len(data)
        suffix, suffix_sum = _suffix(extension)
        length, length_sum = _length(size)
        name = self._key + suffix
        if len(name) > MAX_NAME_BYTES:
            raise ValueError(f"the member {name!r} does not fit a USTAR header")
        # The sum of the header's 512 bytes; only name and size differ from file to file.
        checksum = b"%06o\0 " % (self._sum + suffix_sum + length_sum)
        self.parts += (_HEADER % (name, _ZEROS[len(name)], length, checksum), data, _PADDING[size % BLOCK])


@lru_cache(maxsize=256)
def _suffix(extension: str) -> tuple[bytes, int]:
    suffix = f".{extension}".encode()
    return suffix, sum(suffix)


@lru_cache(maxsize=65536)
def _length(size: int) -> tuple[bytes, int]:
    """The size field of a header and its sum."""
    if size > MAX_MEMBER_BYTES:
        raise ValueError(f"a member of {size} bytes does not fit a USTAR header")
    length = b"%011o\0" % size
    return length, sum(length)


def stored_bytes(size: int) -> int:
    """Bytes that a file of `size` bytes takes in the archive, with its header."""
    return BLOCK + size + -size % BLOCK
