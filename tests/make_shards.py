"""Small tars and images for tests, good and bad ones.

write_shard(tmp_path / "a.tar", {"000": {"jpg": jpeg_bytes(seed=0), "cls": 3, "json": {"place": "sea"}}})
"""

from __future__ import annotations

import functools
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

Value: TypeAlias = bytes | str | int | Mapping[str, Any] | list[Any]
Samples: TypeAlias = Mapping[str, Mapping[str, Value]] | Iterable[tuple[str, Mapping[str, Value]]]


def write_shard(path: Path | str, samples: Samples, *, format: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar of `{key: {extension: value}}`, or of such pairs (for keys that repeat); returns its path.

    Bytes are written as they are, text as UTF-8, integers as decimal text, everything else as json.
    """
    pairs = samples.items() if isinstance(samples, Mapping) else samples
    members = [(f"{key}.{extension}", value) for key, parts in pairs for extension, value in parts.items()]
    return write_members(path, members, format=format)


def write_members(
    path: Path | str, members: Iterable[tuple[str, Value]], *, format: int = tarfile.USTAR_FORMAT
) -> Path:
    """Write a tar of (member name, value) pairs in that order; the names are not checked."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, value in members:
            data = as_bytes(value)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_photos(path: Path | str, count: int = 8, *, prefix: str = "photo", side: int = 48, classes: int = 2) -> Path:
    """Write `count` ordinary samples: a photo-like JPEG, `cls`, and json with `place` and `number`."""
    return write_shard(
        path,
        {
            f"{prefix}_{i:04d}": {
                "jpg": jpeg_bytes(side, side, seed=i),
                "cls": i % classes,
                "json": {"place": "sea" if i % 2 else "land", "number": i},
            }
            for i in range(count)
        },
    )


def as_bytes(value: Value) -> bytes:
    match value:
        case bytes():
            return value
        case str() | int():
            return str(value).encode()
        case _:
            return json.dumps(value).encode()


# Damage


def cut(path: Path, size: int) -> Path:
    """Keep the first `size` bytes of a file."""
    with path.open("r+b") as file:
        file.truncate(size)
    return path


def overwrite(path: Path, offset: int, data: bytes) -> Path:
    """Write junk over a file's bytes from `offset` on."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def append(path: Path, data: bytes) -> Path:
    """Write junk behind a file's end."""
    with path.open("ab") as file:
        file.write(data)
    return path


def member_offsets(path: Path) -> dict[str, tuple[int, int]]:
    """Name to (offset of the header, offset of the data) of every member."""
    with tarfile.open(path) as tar:
        return {member.name: (member.offset, member.offset_data) for member in tar}


# Images


def photo(width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: smooth blobs of colour with a little noise, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return (smooth + rng.integers(-4, 5, smooth.shape)).clip(0, 255).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, format: str, **options: Any) -> bytes:
    """An image file in memory; `options` are Pillow's."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg_bytes(
    width: int = 64,
    height: int = 48,
    *,
    seed: int = 0,
    quality: int = 90,
    mode: str = "RGB",
    orientation: int = 1,
    **options: Any,
) -> bytes:
    """A JPEG of `photo`; `orientation` is written as EXIF without turning the pixels."""
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    return encode(Image.fromarray(photo(width, height, seed)).convert(mode), "JPEG", quality=quality, **options)


def png_bytes(width: int = 64, height: int = 48, *, seed: int = 0, mode: str = "RGB", **options: Any) -> bytes:
    """A PNG of `photo` in any mode that PNG has."""
    return encode(Image.fromarray(photo(width, height, seed)).convert(mode), "PNG", **options)


def webp_bytes(width: int = 64, height: int = 48, *, seed: int = 0, **options: Any) -> bytes:
    """A WebP of `photo`."""
    return encode(Image.fromarray(photo(width, height, seed)), "WEBP", **options)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@functools.cache
def huge_png_bytes(width: int = 30_000, height: int = 30_000) -> bytes:
    """A valid 1-bit PNG of that many black pixels, about 100 KB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
