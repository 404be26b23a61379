"""Image files opened by Pillow: which are refused before decoding, by which plugin they are opened, and upright."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from clipaudit.shards.image_header import Header
from clipaudit.shards.image_plugins import PLUGINS

# The plugins themselves, not Image.open, which warns about large images by a limit that is global to the process.
_PLUGINS: Final[dict[str, Callable[[io.BytesIO], Image.Image]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    **PLUGINS,
}
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_END_OF_IMAGE: Final = b"\xff\xd9"
_MAX_PASSES: Final = 64  # over the largest allowed image: a few seconds; a hostile file of 1 MB can ask for minutes


def too_large(header: Header, max_pixels: int) -> str | None:
    """Why an image of more than `max_pixels` pixels, or of too many scans, must not be decoded; None when it may be."""
    width, height, scans = header.width, header.height, header.scans
    if width * height > max_pixels:
        return f"{width} x {height} pixels are more than the limit of {max_pixels}"
    if width * height * scans > _MAX_PASSES * max_pixels:
        return f"{scans} scans of {width} x {height} pixels take too long to decode"
    return None


def open_plain(header: Header, *, truncated: bool = False) -> Image.Image:
    """The image as it is stored, not decoded yet; the first frame. Raises one of BROKEN for a broken file.

    With `truncated` a JPEG may lack its end, which becomes grey.
    """
    # libjpeg fills what is missing when it meets the marker of the end; behind a complete picture it reads no marker.
    end = _END_OF_IMAGE if truncated and header.format == "JPEG" else b""
    return _PLUGINS[header.format](io.BytesIO(header.pixels + end))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image as it is displayed, by its EXIF orientation (1 to 8)."""
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])
