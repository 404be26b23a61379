"""Members of a plain USTAR archive as bytes: the same content gives the same archive, wherever it is written."""

from __future__ import annotations

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


def member(name: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, data and padding of one file.

    `name` is ASCII, of at most 100 bytes. Raises ValueError for a longer name, or for data beyond 8 GiB.
    """
    size = len(data)
    if not 0 < len(name) <= MAX_NAME_BYTES or size > MAX_MEMBER_BYTES:
        raise ValueError(f"the member {name!r} of {size} bytes does not fit a USTAR header")
    length = b"%011o\0" % size
    # The sum of the header's 512 bytes; only name and size differ from file to file.
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(name) + sum(length))
    return _HEADER % (name, _ZEROS[len(name)], length, checksum), data, _PADDING[size % BLOCK]


def stored_bytes(size: int) -> int:
    """Bytes that a file of `size` bytes takes in the archive, with its header."""
    return BLOCK + size + -size % BLOCK
