"""JPEGs by simplejpeg where it is installed: the same pixels, sizes and verdicts as by Pillow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipaudit.config import DecodeConfig
from tests.make_shards import encode, jpeg_bytes, photo


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global PreprocessCfg, image_transform_v2, images_module, ImageDecoder, ImageTooLarge, ImageUndecodable
    global DECODER

    from open_clip.transform import PreprocessCfg, image_transform_v2

    from clipaudit.shards import decoder as images_module
    from clipaudit.shards.decoder import ImageDecoder, ImageTooLarge, ImageUndecodable

    DECODER = ImageDecoder(image_transform_v2(PreprocessCfg(size=32), is_train=False), DecodeConfig())


pytest.importorskip("simplejpeg", reason="the extra `fast` is not installed")


def both(data):
    """What the decoder makes of a file with simplejpeg and without it: an image or an error."""
    results = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (images_module.simplejpeg, None):
            patch.setattr(images_module, "simplejpeg", module)
            try:
                results.append(DECODER(data))
            except (ImageUndecodable, ImageTooLarge) as error:
                results.append(error)
    return results


def assert_alike(fast, slow):
    if isinstance(slow, ValueError):
        assert (type(fast), str(fast)) == (type(slow), str(slow))
        return
    assert np.array_equal(fast.image, slow.image)
    assert (fast.width, fast.height, fast.phash) == (slow.width, slow.height, slow.phash)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from([0, 1, 2]),
    progressive=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sound_files(size, mode, quality, subsampling, progressive, seed):
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    assert_alike(*both(jpeg_bytes(*size, mode=mode, seed=seed, quality=quality, progressive=progressive, **options)))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.booleans(), changes=st.integers(0, 20), progressive=st.booleans())
def test_damaged_files(seed, cut, changes, progressive):
    rng = np.random.default_rng(seed)
    data = bytearray(jpeg_bytes(60, 50, progressive=progressive))
    for place in rng.integers(2, len(data), changes):
        data[place] = rng.integers(256)
    assert_alike(*both(bytes(data[: rng.integers(2, len(data))] if cut else data)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_alike(*both(encode(photo(50, 80), "JPEG", exif=exif)))


def test_colours_that_are_stored_as_they_are():
    data = encode(photo(60, 40), "JPEG", keep_rgb=True, quality=95)
    assert_alike(*both(data))
    assert np.abs(DECODER(data).image.astype(int).mean() - photo(60, 40).mean()) < 15


def test_it_is_used(monkeypatch):
    calls = []
    real = images_module.simplejpeg.decode_jpeg

    class Spy:
        @staticmethod
        def decode_jpeg(data, **options):
            calls.append(len(data))
            return real(data, **options)

    monkeypatch.setattr(images_module, "simplejpeg", Spy)
    DECODER(jpeg_bytes(50, 40))
    DECODER(jpeg_bytes(50, 40, mode="L"))
    DECODER(jpeg_bytes(50, 40, mode="CMYK"))
    assert len(calls) == 2
