"""Format, size and orientation of an image file, read without decoding, and JPEG and PNG files without metadata."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from clipaudit.shards.image_plugins import plugin_of, size_and_orientation

Format: TypeAlias = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_XMP: Final = b"XML:com.adobe.xmp\0\0"  # the second zero: not compressed
_PNG_PIXEL_CHUNKS: Final = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_ORIENTATION_TAG: Final = 0x0112
_BYTE, _SHORT, _LONG = 1, 3, 4
_XMP_NAME: Final = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION: Final = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\b""")
_XMP_BYTES: Final = 2**20
# Formats that are recognised and not read, by how their files begin; `ftyp` boxes name their brand at byte 8.
_OTHER_FORMATS: Final = (
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"8BPS", "a Photoshop"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG"),
    (b"<?xml", "an XML or SVG"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"<!DOCTYPE", "an HTML"),
    (b"<!doctype", "an HTML"),
    (b"<html", "an HTML"),
    (b"PK\x03\x04", "a ZIP"),
)
_HEIF_BRANDS: Final = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


class HeaderError(ValueError):
    """The bytes are no image file of a format that is read, or its header is broken."""


@dataclass(frozen=True, slots=True)
class Header:
    """An image file's format, size and orientation."""

    format: Format
    width: int
    """Pixels as stored, before the EXIF orientation is applied."""
    height: int
    """Likewise."""
    orientation: int
    """EXIF or XMP orientation, 1 (upright) to 8."""
    pixels: bytes
    """The file without comments, EXIF, XMP, colour profiles and further frames (of WebP and others, the whole file).

    Metadata of a broken or hostile file can make a decoder warn, fail or decompress gigabytes, and none is needed.
    """
    components: int = 0
    """Colour components of a JPEG: 1 (grey), 3 or 4; 0 for other formats."""
    quantisation: bytes = b""
    """Contents of a JPEG's quantisation tables (DQT segments), one after another; empty for other formats."""
    scans: int = 1
    """Passes of the decoder over the picture: a progressive JPEG has about ten, a hostile one may have thousands."""


def read_header(data: bytes) -> Header:
    """Parse the header of a whole image file. Raises HeaderError with one sentence."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(_PNG_SIGNATURE):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        raise HeaderError("the image file is cut within its header") from None
    return _by_pillow(data)


def _by_pillow(data: bytes) -> Header:
    """Header of a file that Pillow's plugin parses: GIF, BMP, TIFF, AVIF."""
    name = plugin_of(data)
    if name is None:
        raise HeaderError(_not_read(data))
    try:
        width, height, orientation = size_and_orientation(name, data)
    except ValueError as error:
        raise HeaderError(str(error)) from None
    return _checked(Header(name, width, height, orientation, data))


def _not_read(data: bytes) -> str:
    """What a file that is not read is, in words."""
    name = next((name for magic, name in _OTHER_FORMATS if data.startswith(magic)), None)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        name = "a HEIC"
    if name is not None:
        return f"it is {name} file: convert it to JPEG, PNG or WebP"
    if not data:
        return "it is empty"
    return "it is no image of a format that is read (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF)"


def _jpeg(data: bytes) -> Header:
    """Walk the segments (marker, length, content) up to the first scan, as in ITU-T T.81, annex B."""
    pixels = bytearray(b"\xff\xd8")
    size: tuple[int, int] | None = None
    orientation, by_xmp, components = 0, 1, 0
    quantisation = b""
    position = 2
    while True:
        # Like libjpeg: skip all bytes before the next marker, and its fill bytes.
        position = data.find(b"\xff", position)
        if position < 0:
            raise HeaderError("the JPEG ends before its image begins")
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        if marker in (0xDA, 0xD9):
            break
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position : position + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if size is not None:
                raise HeaderError("the JPEG has two frame headers")
            size, components = struct.unpack_from(">HH", segment, 3), segment[7]
        if marker == 0xE1 and segment[2:8] == b"Exif\0\0" and not orientation:
            orientation = _orientation(segment[8:])
        elif marker == 0xE1 and segment[2:].startswith(_XMP_NAME):
            by_xmp = _xmp_orientation(segment)
        if marker == 0xDB:
            quantisation += segment[2:]
        # APP0 (E0) and APP14 (EE) say what the colour space is; the other APPn and comments (FE) are metadata.
        if not (0xE1 <= marker <= 0xEF and marker != 0xEE) and marker != 0xFE:
            pixels += b"\xff" + bytes([marker]) + segment
        position += max(length, 2)
    if size is None or marker == 0xD9:
        raise HeaderError("the JPEG has no image in it")
    pixels += b"\xff\xda" + data[position:]
    height, width = size
    # In compressed data every FF is followed by a 00, so that FF DA there can only be the marker of another scan.
    scans = 1 + data.count(b"\xff\xda", position)
    upright = orientation or by_xmp
    return _checked(Header("JPEG", width, height, upright, bytes(pixels), components, quantisation, scans))


def _png(data: bytes) -> Header:
    """Walk the chunks (length, kind, content, checksum), and drop those that are not needed for the pixels."""
    width, height = struct.unpack_from(">II", data, 16)
    if data[12:16] != b"IHDR":
        raise HeaderError("the PNG does not begin with its header")
    pixels = bytearray(_PNG_SIGNATURE)
    orientation, by_xmp = 0, 1
    position = len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 12 + length
        if kind in _PNG_PIXEL_CHUNKS:
            pixels += data[position:end]
        elif kind == b"eXIf":
            orientation = _orientation(data[position + 8 : end - 4])
        elif kind == b"iTXt" and data[position + 8 :].startswith(_PNG_XMP):
            by_xmp = _xmp_orientation(data[position + 8 : end - 4])
        position = end
        if kind == b"IEND":
            break
    return _checked(Header("PNG", width, height, orientation or by_xmp, bytes(pixels)))


def _webp(data: bytes) -> Header:
    """Read the first chunk: lossy (`VP8 `), lossless (`VP8L`) or extended (`VP8X`), each with its own size fields."""
    kind, body = data[12:16], data[20:]
    orientation = 1
    if kind == b"VP8 ":
        if body[3:6] != b"\x9d\x01\x2a":
            raise HeaderError("the WebP file's frame header is broken")
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
        orientation = _webp_orientation(data)
    else:
        raise HeaderError("the WebP file has no image in it")
    return _checked(Header("WEBP", width, height, orientation, data))


def _webp_orientation(data: bytes) -> int:
    """The orientation in the EXIF chunk, else in the XMP chunk, else 1; chunks begin at even offsets."""
    position, by_xmp = 12, 1
    while position + 8 <= len(data):
        kind = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        if kind == b"EXIF":
            orientation = _orientation(data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0"))
            if orientation:
                return orientation
        if kind == b"XMP ":
            by_xmp = _xmp_orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return by_xmp


def _orientation(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF structure; 0 when there is none or it cannot be read.

    EXIF asks for a SHORT; writers that store a LONG or a BYTE are read by viewers too.
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 0
    kinds = {_BYTE: "B", _SHORT: "H", _LONG: "I"}
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * min(count, 512), 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, at)
            if tag == _ORIENTATION_TAG and kind in kinds:
                (value,) = struct.unpack_from(order + kinds[kind], tiff, at + 8)
                return value if 1 <= value <= 8 else 0
    except struct.error:
        pass
    return 0


def _xmp_orientation(packet: bytes) -> int:
    """The orientation in an XMP packet, or 1."""
    match = _XMP_ORIENTATION.search(packet[:_XMP_BYTES])
    return int(match[1]) if match else 1


def _checked(header: Header) -> Header:
    if header.width < 1 or header.height < 1:
        raise HeaderError(f"the image has {header.width} x {header.height} pixels")
    return header
