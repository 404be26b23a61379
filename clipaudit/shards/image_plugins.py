"""GIF, BMP, TIFF and AVIF files, whose headers Pillow's own plugins parse: format, size and orientation."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import PIL
from PIL import BmpImagePlugin, GifImagePlugin, Image, TiffImagePlugin

try:
    from PIL import AvifImagePlugin
except ImportError:  # Pillow before 11.3
    AvifImagePlugin = None  # type: ignore[assignment]

PluginFormat: TypeAlias = Literal["GIF", "BMP", "TIFF", "AVIF"]


class _StoredTiff(TiffImagePlugin.TiffImageFile):
    """A TIFF as it is stored: Pillow's own turns it upright when it is loaded, in some versions."""

    def load_end(self) -> None:
        """Called by Pillow once the pixels are loaded."""


def _avif(file: io.BytesIO) -> Image.Image:
    if AvifImagePlugin is None or not AvifImagePlugin.SUPPORTED:
        raise ValueError(f"it is an AVIF file, which the installed Pillow {PIL.__version__} does not read")
    return AvifImagePlugin.AvifImageFile(file)


PLUGINS: Final[dict[str, Callable[[io.BytesIO], Image.Image]]] = {
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": _StoredTiff,
    "AVIF": _avif,
}
BROKEN: Final = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(struct.error, zlib.error, RuntimeError, Warning, Image.DecompressionBombError),
)
"""The exceptions that Pillow's plugins raise for broken files."""
_ORIENTATION: Final = 0x0112
_WIDTH: Final = 0x0100
_HEIGHT: Final = 0x0101


def plugin_of(data: bytes) -> PluginFormat | None:
    """The format of a file by how it begins; None for other files."""
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:2] == b"BM":
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    return "AVIF" if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis") else None


def size_and_orientation(name: PluginFormat, data: bytes) -> tuple[int, int, int]:
    """(width, height, orientation) of a file, without its pixels. ValueError, one sentence, for a broken header."""
    try:
        image = PLUGINS[name](io.BytesIO(data))
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            tags = image.tag_v2
            orientation = int(tags.get(_ORIENTATION, 1))
            width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])  # some versions give the size as displayed
        else:
            orientation = int(image.getexif().get(_ORIENTATION, 1))
    except (*BROKEN, MemoryError) as error:
        sentence = str(error) or type(error).__name__
        raise ValueError(
            sentence if "AVIF" in sentence else f"it is a {name} that cannot be read: {sentence}"
        ) from None
    return width, height, orientation if 1 <= orientation <= 8 else 1
