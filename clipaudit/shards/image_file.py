"""A header's image opened by Pillow's own plugin, upright, and not when a decoder would have to work too long at it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Final

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from clipaudit.shards.image_header import Header

# The plugins themselves, not Image.open: that warns about large images by a limit that is global to the process.
_PLUGINS: Final[dict[str, Callable[[io.BytesIO], Image.Image]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
# What Pillow's decoders raise for broken files.
BROKEN: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MOST_PASSES: Final = 64  # over the largest image: a few seconds, where a file of 1 MB can ask for minutes


def too_large(header: Header, max_pixels: int) -> str | None:
    """Why an image must not be decoded, in words; None when it may. `max_pixels`: the most that one may have."""
    width, height, scans = header.width, header.height, header.scans
    if width * height > max_pixels:
        return f"{width} x {height} pixels are more than the limit of {max_pixels}"
    if width * height * scans > _MOST_PASSES * max_pixels:
        return f"{scans} scans of {width} x {height} pixels are more than a decoder should be asked for"
    return None


def open_plain(header: Header) -> Image.Image:
    """The image, not decoded yet and as it is stored; raises what Pillow raises."""
    return _PLUGINS[header.format](io.BytesIO(header.pixels))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image as it is displayed, by its EXIF orientation (1 to 8)."""
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])
