"""GIF, BMP, TIFF and AVIF, orientations that other writers store, and JPEGs without their end."""

import contextlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from clipaudit.config import DecodeConfig
from tests.make_shards import encode, jpeg_bytes, photo


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global PreprocessCfg, image_transform_v2, ImageDecoder, ImageTooLarge, ImageUndecodable

    from open_clip.transform import PreprocessCfg, image_transform_v2

    from clipaudit.shards.decoder import ImageDecoder, ImageTooLarge, ImageUndecodable


def transform():
    return image_transform_v2(PreprocessCfg(size=32), is_train=False)


def decoder(*, fast=True, limit=178_956_970):
    return ImageDecoder(transform(), DecodeConfig(max_image_pixels=limit), fast=fast)


def difference(first, second):
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def picture(width=64, height=48):
    return Image.fromarray(photo(width, height))


JPEGS = {
    "jpeg": jpeg_bytes(200, 120),
    "jpeg progressive": jpeg_bytes(100, 80, progressive=True),
    "jpeg grey": jpeg_bytes(100, 80, mode="L"),
    "jpeg cmyk": jpeg_bytes(100, 80, mode="CMYK"),
}


def animated(format):
    """Two frames, of which the first is `photo()`."""
    out = io.BytesIO()
    picture().save(out, format, save_all=True, append_images=[Image.new("RGB", (64, 48), "red")])
    return out.getvalue()


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", ["GIF", "BMP", "TIFF", "AVIF"])
def test_other_formats_are_read_as_pillow_reads_them(name, fast):
    if name == "AVIF":
        pytest.importorskip("PIL.AvifImagePlugin", reason="the installed Pillow reads no AVIF")
    data = encode(picture(), name)
    with Image.open(io.BytesIO(data)) as image:
        expected = encode(image.convert("RGB"), "PNG")
    image = decoder(fast=fast)(data)
    assert (image.width, image.height) == (64, 48)
    assert difference(image.image, decoder(fast=fast)(expected).image) <= 1


@pytest.mark.parametrize("name", ["GIF", "TIFF", "AVIF"])
def test_of_an_animation_or_a_stack_the_first_frame_is_taken(name):
    if name == "AVIF":
        pytest.importorskip("PIL.AvifImagePlugin", reason="the installed Pillow reads no AVIF")
    assert difference(decoder()(animated(name)).image, decoder()(encode(picture(), name)).image) <= 24


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "YCbCr"])
def test_tiffs_of_every_mode_are_read(mode):
    assert decoder()(encode(picture().convert(mode), "TIFF")).image.shape == (32, 32, 3)


def test_tiffs_of_16_bits_are_scaled():
    grey = np.linspace(0, 65535, 3000).astype(np.uint16).reshape(50, 60)
    image = decoder()(encode(Image.fromarray(grey), "TIFF")).image
    assert image.min() < 10
    assert image.max() > 245


def test_tiffs_of_fractions_are_refused():
    with pytest.raises(ImageUndecodable, match="fractions"):
        decoder()(encode(Image.new("F", (60, 50)), "TIFF"))


def exif_of_type(kind, value):
    """A TIFF structure with an orientation of a type of its own: 1 BYTE, 3 SHORT, 4 LONG."""
    field = {1: struct.pack(">BBBB", value, 0, 0, 0), 3: struct.pack(">HH", value, 0), 4: struct.pack(">I", value)}
    return b"MM\0*" + struct.pack(">IHHHI", 8, 1, 0x0112, kind, 1) + field[kind] + bytes(4)


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_orientations_of_every_type_are_read(kind):
    upright = jpeg_bytes(80, 50)
    app1 = b"Exif\0\0" + exif_of_type(kind, 6)
    turned = upright[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + upright[2:]
    assert (decoder()(turned).width, decoder()(turned).height) == (50, 80)


XMP = {
    "attribute": b'<rdf:Description tiff:Orientation="6" xmp:Rating="1"/>',
    "element": b"<tiff:Orientation>6</tiff:Orientation>",
}


@pytest.mark.parametrize("form", XMP)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientations_in_xmp_are_read(kind, form):
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + XMP[form] + b"</x:xmpmeta>"
    out = io.BytesIO()
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet.decode())
        picture(80, 50).save(out, kind, pnginfo=text)
    else:
        picture(80, 50).save(out, kind, xmp=packet)
    image = decoder()(out.getvalue())
    assert (image.width, image.height) == (50, 80)


def test_exif_counts_more_than_xmp():
    exif = Image.Exif()
    exif[0x0112] = 1
    out = io.BytesIO()
    picture(80, 50).save(out, "JPEG", exif=exif, xmp=b'<x tiff:Orientation="6"/>')
    assert decoder()(out.getvalue()).width == 80


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_are_upright(orientation):
    out = io.BytesIO()
    picture(80, 50).save(out, "TIFF", tiffinfo={0x0112: orientation})
    image = decoder()(out.getvalue())
    assert (image.width, image.height) == ((80, 50) if orientation < 5 else (50, 80))
    with Image.open(io.BytesIO(out.getvalue())) as opened:
        upright = ImageOps.exif_transpose(opened)
    assert difference(image.image, decoder()(encode(upright, "PNG")).image) <= 1


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", JPEGS)
def test_jpegs_without_their_end_are_read_when_asked_for(name, fast):
    data = JPEGS[name]
    config = DecodeConfig(allow_truncated_images=True)
    lenient = ImageDecoder(transform(), config, fast=fast)
    cut = lenient(data[: len(data) * 6 // 10])
    assert (cut.truncated, cut.image.shape) == (True, (32, 32, 3))
    whole = lenient(data)
    assert not whole.truncated
    np.testing.assert_array_equal(whole.image, ImageDecoder(transform(), DecodeConfig(), fast=fast)(data).image)
    if "progressive" not in name:
        assert difference(cut.image[:8], whole.image[:8]) <= 2, "what is there is as it was"
    with pytest.raises(ImageUndecodable):
        lenient(encode(picture(), "PNG")[:-300])


@pytest.mark.parametrize("name", ["GIF", "BMP", "TIFF", "AVIF"])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), share=st.floats(0.3, 1)
)
@settings(max_examples=60, deadline=None)
def test_broken_files_of_other_formats_raise_nothing_else(name, changes, share):
    if name == "AVIF":
        pytest.importorskip("PIL.AvifImagePlugin", reason="the installed Pillow reads no AVIF")
    data = bytearray(encode(picture(), name))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    with contextlib.suppress(ImageUndecodable, ImageTooLarge):
        assert decoder(limit=10**6)(bytes(data[: int(share * len(data))])).image.shape == (32, 32, 3)
