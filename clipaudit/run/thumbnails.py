"""Small pictures of a run's images, cut out of the shards by their stored places: no shard is read through."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from PIL import Image

from clipaudit.errors import ShardUnreadable, UsageError
from clipaudit.run.reader import Run
from clipaudit.run.row import Row
from clipaudit.run.stored_images import StoredImages
from clipaudit.shards.image_file import open_plain, too_large, upright
from clipaudit.shards.image_header import HeaderError, read_header
from clipaudit.shards.image_plugins import BROKEN

MAX_SIDE: Final = 512
"""Pixels."""
_QUALITY: Final = 85
_CACHED: Final = 2048
"""Thumbnails in memory."""


class NoPicture(ValueError):
    """An image cannot be shown; carries a few words why."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small JPEG."""

    data: bytes
    width: int
    height: int

    @property
    def uri(self) -> str:
        """As a data URI, for a page that needs no other file."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.data).decode()}"


class Thumbnails:
    """A run's images, made small; the latest ones stay in memory. For any number of threads."""

    def __init__(self, run: Run, side: int = 160) -> None:
        """`side`: pixels of the longer side at most, 16 to 512; small images are not enlarged."""
        if not 16 <= side <= MAX_SIDE:
            raise UsageError(f"thumbnails have 16 to {MAX_SIDE} pixels a side, not {side}")
        self._side = side
        self._max_pixels = int(run.manifest.identity.get("max_image_pixels") or Image.MAX_IMAGE_PIXELS or 2**27)
        self._truncated = bool(run.manifest.identity.get("allow_truncated_images"))
        self._images = StoredImages(run)
        self._cached = lru_cache(_CACHED)(self._make)

    def __call__(self, row: Row) -> Thumbnail:
        """An image of the run; NoPicture when its shard is gone or changed, or its bytes are no image any more."""
        return self._cached(row.shard_id, row.offset, row.nbytes)

    def data(self, row: Row) -> bytes:
        """The image's file as it stands in the shard; NoPicture when the shard is gone or changed."""
        return self._read(row.shard_id, row.offset, row.nbytes)

    def _make(self, shard: int, offset: int | None, nbytes: int | None) -> Thumbnail:
        return shrink(self._read(shard, offset, nbytes), self._side, self._max_pixels, truncated=self._truncated)

    def _read(self, shard: int, offset: int | None, nbytes: int | None) -> bytes:
        if offset is not None and (fault := self._images.fault(shard)) is not None:
            raise NoPicture(fault)
        try:
            return self._images.read(shard, offset, nbytes)
        except ShardUnreadable as error:
            raise NoPicture(f"the image cannot be read ({error})") from error


def shrink(data: bytes, side: int, max_pixels: int, *, truncated: bool = False) -> Thumbnail:
    """An image file's bytes as a JPEG of at most `side` pixels; with `truncated` also of a JPEG that lacks its end.

    Raises NoPicture for files that cannot be decoded, and for those with more than `max_pixels` pixels, undecoded.
    """
    try:
        header = read_header(data)
    except HeaderError as error:
        raise NoPicture(str(error)) from error
    if (reason := too_large(header, max_pixels)) is not None:
        raise NoPicture(reason)
    try:
        image = open_plain(header, truncated=truncated)
        image.draft("RGB", (2 * side, 2 * side))  # JPEG only: decode at a fraction of the size
        image = _on_white(image)
        image.thumbnail((side, side))
        image = upright(image, header.orientation)
    except (*BROKEN, MemoryError) as error:
        raise NoPicture(f"the {header.format} cannot be decoded") from error
    return as_jpeg(image)


def as_jpeg(image: Image.Image) -> Thumbnail:
    """An RGB image as a small JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return Thumbnail(data=buffer.getvalue(), width=image.width, height=image.height)


def _on_white(image: Image.Image) -> Image.Image:
    """An RGB image; what is transparent becomes white."""
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
