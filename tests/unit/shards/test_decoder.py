"""Image bytes to model-size pixels: every kind of file, against open_clip's own transform."""

import io
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from clipaudit.config import DecodeConfig
from clipaudit.errors import UsageError
from tests.make_shards import encode, huge_png_bytes, jpeg_bytes, photo, png_bytes, png_chunk, webp_bytes


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global PreprocessCfg, image_transform_v2, ImageDecoder, ImageTooLarge, ImageUndecodable, perceptual_hash

    from open_clip.transform import PreprocessCfg, image_transform_v2

    from clipaudit.shards.decoder import ImageDecoder, ImageTooLarge, ImageUndecodable, perceptual_hash


def transform(size=32, **config):
    return image_transform_v2(PreprocessCfg(size=size, **config), is_train=False)


def decoder(size=32, *, fast=True, limit=178_956_970, **config):
    return ImageDecoder(transform(size, **config), DecodeConfig(max_image_pixels=limit), fast=fast)


def reference(data, size=32, **config):
    """(H, W, 3) uint8 by open_clip's transform alone, from the upright image."""
    steps = transform(size, **config)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    mean, std = np.array(steps.transforms[-1].mean), np.array(steps.transforms[-1].std)
    pixels = steps(upright).numpy().transpose(1, 2, 0) * std + mean
    return (pixels * 255).round().astype(np.uint8)


def difference(first, second):
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())


FILES = {
    "jpeg": jpeg_bytes(200, 120),
    "jpeg portrait": jpeg_bytes(61, 211),
    "jpeg progressive": jpeg_bytes(100, 80, progressive=True),
    "jpeg 4:4:4": jpeg_bytes(99, 77, subsampling=0),
    "jpeg small": jpeg_bytes(9, 7),
    "jpeg of one pixel": jpeg_bytes(1, 1),
    "jpeg grey": jpeg_bytes(100, 80, mode="L"),
    "jpeg cmyk": jpeg_bytes(100, 80, mode="CMYK"),
    "jpeg with a profile": jpeg_bytes(100, 80, icc_profile=b"no profile at all"),
    "png": png_bytes(90, 64),
    "png grey": png_bytes(90, 64, mode="L"),
    "png with alpha": encode(np.dstack([photo(90, 64), photo(90, 64, 1)[..., :1]]), "PNG"),
    "png grey with alpha": encode(Image.fromarray(photo(90, 64)).convert("LA"), "PNG"),
    "webp": webp_bytes(90, 64),
    "webp with alpha": encode(np.dstack([photo(90, 64), photo(90, 64, 1)[..., :1]]), "WEBP", lossless=True),
}
SHAPES = {
    "shortest": {},
    "longest": {"resize_mode": "longest"},
    "squash": {"resize_mode": "squash"},
    "not square": {"size": (24, 40)},
    "bilinear": {"interpolation": "bilinear"},
    "filled": {"resize_mode": "longest", "fill_color": 90},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FILES)
def test_pixels_are_the_transforms(name, shape):
    data, config = FILES[name], SHAPES[shape]
    expected = reference(data, **config)
    image = decoder(fast=False, **config)(data)
    assert difference(image.image, expected) == 0
    with Image.open(io.BytesIO(data)) as opened:
        assert (image.width, image.height) == opened.size
    fast = decoder(**config)(data)
    assert difference(fast.image, expected) <= 1
    assert fast.image.dtype == np.uint8
    assert fast.image.flags["C_CONTIGUOUS"]
    assert fast.image.shape[:2] == decoder(**config).size


def test_mean_std_and_size_come_from_the_transform():
    made = decoder(48, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert made.mean == (0.1, 0.2, 0.3)
    assert made.std == (0.4, 0.5, 0.6)
    assert made.size == (48, 48)
    assert decoder((24, 40)).size == (24, 40)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(kind, orientation, fast):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(50, 80), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    image = decoder(fast=fast)(data)
    assert difference(image.image, reference(data)) <= 1
    assert (image.width, image.height) == ((50, 80) if orientation < 5 else (80, 50))


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0XX"]
)
def test_broken_exif_is_no_failure(exif):
    data = jpeg_bytes(50, 40)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    image = decoder()(data[:2] + segment + data[2:])
    assert difference(image.image, decoder()(data).image) == 0


def test_adobe_cmyk_is_inverted():
    data = jpeg_bytes(64, 64, mode="CMYK", quality=95)
    assert b"Adobe" in data
    assert np.abs(decoder(64)(data).image.astype(int) - photo(64, 64)).mean() < 12


def test_palettes_are_expanded_before_they_are_resized():
    picture = Image.fromarray(photo(90, 64))
    palette = picture.quantize(64)
    data = encode(palette, "PNG")
    expected = decoder()(encode(palette.convert("RGB"), "PNG")).image
    assert difference(decoder()(data).image, expected) == 0
    for transparency in (3, bytes(range(0, 256, 4))):
        data = encode(palette, "PNG", transparency=transparency)
        with Image.open(io.BytesIO(data)) as opened:
            expected = decoder()(encode(opened.convert("RGBA"), "PNG")).image
        assert difference(decoder()(data).image, expected) == 0


def test_one_bit_images_become_grey():
    bits = Image.fromarray(photo(90, 64)).convert("1")
    image = decoder()(encode(bits, "PNG")).image
    assert difference(image, decoder()(encode(bits.convert("L"), "PNG")).image) == 0
    assert len(np.unique(image)) > 2


def test_sixteen_bits_are_scaled_and_not_clipped():
    grey = photo(90, 64)[..., 0]
    data = encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    assert difference(decoder()(data).image, decoder()(encode(grey, "PNG")).image) == 0


def test_a_colour_key_changes_nothing():
    for mode, key in [("L", 7), ("RGB", (1, 2, 3))]:
        plain = Image.fromarray(photo(90, 64)).convert(mode)
        data = encode(plain, "PNG", transparency=key)
        assert difference(decoder()(data).image, decoder()(encode(plain, "PNG")).image) == 0


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation_counts(kind):
    frames = [Image.fromarray(photo(60, 40, seed)) for seed in range(3)]
    options = {"save_all": True, "append_images": frames[1:]} | ({"lossless": True} if kind == "WEBP" else {})
    image = decoder()(encode(frames[0], kind, **options))
    assert difference(image.image, decoder()(encode(frames[0], "PNG")).image) <= 1


def test_metadata_that_inflates_or_warns_is_not_looked_at():
    data = png_bytes(60, 40)
    chunks = [(b"zTXt", b"x\0\0\x78\x9cjunk"), (b"acTL", bytes(8)), (b"iCCP", b"??")]
    bomb = b"".join(png_chunk(kind, content) for kind, content in chunks)
    at = 8 + 25
    image = decoder()(data[:at] + bomb + data[at:])
    assert difference(image.image, decoder()(data).image) == 0


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "it is empty"),
        (b"hello, I am no photograph", "it is no image of a format that is read"),
        (encode(photo(), "GIF")[:20], "it is a GIF that cannot be (read|decoded)"),
        (encode(photo(), "TIFF")[:100], "TIFF.* cannot be (read|decoded)"),
        (encode(photo(), "BMP")[:20], "it is a BMP that cannot be read"),
        (b"\0\0\0\x1cftypheic" + bytes(60), "it is a HEIC file: convert it"),
        (b"%PDF-1.7 ...", "it is a PDF file"),
        (b"<html>404</html>", "it is an HTML file"),
        (encode(photo(), "JPEG2000"), "it is a JPEG 2000 file"),
        (b"\xff\xd8\xff", "cut within its header"),
        (b"\xff\xd8 and then text", "the JPEG ends before its image begins"),
        (b"\xff\xd8\xff\xd9", "the JPEG has no image in it"),
        (b"\x89PNG\r\n\x1a\n", "cut within its header"),
        (b"RIFF\0\0\0\0WEBPXXXX" + bytes(40), "the WebP file has no image in it"),
    ],
)
def test_what_is_no_image(data, sentence):
    with pytest.raises(ImageUndecodable, match=sentence):
        decoder()(data)


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "jpeg grey", "jpeg cmyk", "png", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_cut_files_are_undecodable(name, share):
    data = FILES[name]
    with pytest.raises(ImageUndecodable):
        decoder()(data[: int(len(data) * share)])


def test_corrupt_png_data_is_undecodable():
    data = bytearray(FILES["png"])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageUndecodable, match="the PNG cannot be decoded"):
        decoder()(bytes(data))


@given(name=st.sampled_from(sorted(FILES)), data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_decode_or_are_refused(name, data):
    content = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    try:
        image = decoder(limit=10**6)(bytes(content))
    except (ImageUndecodable, ImageTooLarge):
        return
    assert image.image.shape == (32, 32, 3)


def test_a_huge_png_costs_nothing():
    data = huge_png_bytes(30_000, 30_000)
    made = decoder()
    tracemalloc.start()
    with pytest.raises(ImageTooLarge, match="30000 x 30000 pixels are more than the limit of 178956970"):
        made(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_the_limit_is_exact_and_pillows_own_plays_no_part(monkeypatch):
    data = jpeg_bytes(60, 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1100)  # Image.open would refuse the file
    assert decoder(limit=3000)(data).width == 60
    with pytest.raises(ImageTooLarge):
        decoder(limit=2999)(data)


def jpeg_of_scans(side, scans):
    """A grey progressive JPEG whose every scan is a few bytes long and goes through the whole picture."""

    def segment(marker, body):
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    blocks = (side // 8) ** 2
    table = bytes([1] + [0] * 15)  # one code, of one bit
    frame = struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])
    tables = segment(0xC4, b"\x00" + table + b"\x00") + segment(0xC4, b"\x10" + table + b"\xe0")
    first = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(blocks // 8)
    run = int("0" + format(blocks - 2**14, "014b") + "1", 2).to_bytes(2, "big").replace(b"\xff", b"\xff\x00")
    rest = segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + run
    return (
        b"\xff\xd8"
        + segment(0xDB, bytes([0] + [1] * 64))
        + segment(0xC2, frame)
        + tables
        + first
        + rest * scans
        + b"\xff\xd9"
    )


@pytest.mark.parametrize("fast", [True, False])
def test_a_jpeg_of_thousands_of_scans_is_refused_undecoded(fast):
    """1 MB of such scans over the largest image take more than a minute; threads cannot be interrupted."""
    few, many = jpeg_of_scans(1024, 60), jpeg_of_scans(1024, 5000)
    assert len(many) < 100_000
    assert decoder(fast=fast, limit=2**20)(few).width == 1024
    with pytest.raises(ImageTooLarge, match="5001 scans of 1024 x 1024 pixels"):
        decoder(fast=fast, limit=2**20)(many)
    assert decoder(fast=fast)(many).width == 1024, "small for the default limit, and done in a moment"


@pytest.mark.parametrize("config", [{}, {"resize_mode": "longest"}, {"size": (24, 40)}])
def test_thin_strips_are_not_blown_up(config):
    data = png_bytes(1, 40_000)
    with pytest.raises(ImageTooLarge, match="too long and narrow"):
        decoder(**config, limit=10**6)(data)
    assert decoder(resize_mode="squash", limit=10**6)(data).height == 40_000


def test_many_threads_give_the_same():
    made = decoder()
    alone = {name: made(data).image for name, data in FILES.items()}
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda name: (name, made(FILES[name]).image), list(FILES) * 8))
    assert all(difference(image, alone[name]) == 0 for name, image in together)


def test_transforms_of_another_kind():
    with pytest.raises(UsageError, match="does not end in ToTensor and Normalize"):
        ImageDecoder(image_transform_v2(PreprocessCfg(), is_train=False).transforms[0], DecodeConfig())


def test_an_unknown_step_is_left_to_pillow():
    class Flip:
        def __call__(self, image):
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    steps = transform()
    steps.transforms.insert(0, Flip())
    data = jpeg_bytes(64, 48)
    image = ImageDecoder(steps, DecodeConfig())(data).image
    assert difference(image[:, ::-1], decoder(fast=False)(data).image) <= 1


# Perceptual hash


def distance(first, second):
    return ((first ^ second) & (2**64 - 1)).bit_count()


def test_hashes_of_edits_are_near_and_of_others_far():
    hashes = []
    for seed in range(12):
        pixels = photo(224, 224, seed)
        original = perceptual_hash(pixels)
        brighter = perceptual_hash((pixels.astype(int) * 1.08 + 8).clip(0, 255).astype(np.uint8))
        again = decoder(224)(encode(pixels, "JPEG", quality=50)).phash
        smaller = decoder(224)(encode(Image.fromarray(pixels).resize((150, 150)), "JPEG", quality=80)).phash
        assert max(distance(original, edit) for edit in (brighter, again, smaller)) <= 8
        hashes.append(original)
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) >= 14
    assert all(-(2**63) <= value < 2**63 for value in hashes)


def test_flat_images_have_no_bits():
    for grey in (0, 3, 128, 255):
        assert perceptual_hash(np.full((32, 32, 3), grey, np.uint8)) == 0
