"""Image properties against their definitions, on pictures whose values are known."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from clipaudit.schema import IMAGE_PROPERTIES
from clipaudit.shards.image_header import read_header
from clipaudit.shards.image_properties import image_properties, jpeg_quality


def measured(rgb, nbytes=1000, quantisation=b""):
    values = image_properties(np.ascontiguousarray(rgb), nbytes, quantisation)
    return dict(zip(IMAGE_PROPERTIES, values, strict=True))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def textured(side=200, seed=0):
    """A picture with structure at every scale, as photographs have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for step in (1, 4, 16, 64):
        coarse = rng.normal(0, step**0.5, (side // step + 1, side // step + 1, 3))
        total += np.kron(coarse, np.ones((step, step, 1)))[:side, :side]
    return np.clip(128 + 12 * total, 0, 255).astype(np.uint8)


def test_flat_colours_have_the_values_of_the_definitions():
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 200
    values = measured(red)
    assert values["brightness"] == pytest.approx(0.299 * 200 / 255, abs=0.5 / 255)
    assert (values["contrast"], values["saturation"], values["border"]) == (0, 1, 1)
    assert (values["aspect"], values["megapixels"], values["kilobytes"]) == (1.5, 0.0024, 1.0)
    assert np.isnan(values["sharpness"])
    assert np.isnan(values["jpeg_quality"])
    black = measured(np.zeros((40, 60, 3), np.uint8))
    assert (black["brightness"], black["saturation"]) == (0, 0)
    assert np.isnan(black["contrast"])


def test_two_halves_have_the_contrast_of_two_values():
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 100
    assert measured(halves)["contrast"] == pytest.approx(1)
    assert measured(halves)["brightness"] == pytest.approx(50 / 255)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (900, 1), (2, 3), (3, 3), (127, 129), (500, 375), (1500, 2100)])
def test_any_shape_has_finite_values_where_they_are_defined(shape):
    values = measured(noise(*shape))
    named = {name for name in IMAGE_PROPERTIES if name not in ("sharpness", "jpeg_quality")}
    assert all(np.isfinite(values[name]) for name in named)
    assert 0 <= values["border"] <= 1
    assert 0 <= values["saturation"] <= 1


@pytest.mark.parametrize("scale", [1, 3, 7])
def test_a_large_picture_has_the_values_of_the_small_one(scale):
    small = textured(120)
    large = np.repeat(np.repeat(small, scale, 0), scale, 1)
    for name in ("brightness", "contrast", "saturation", "border", "sharpness"):
        assert measured(large)[name] == pytest.approx(measured(small)[name], rel=0.02, abs=0.01)


@pytest.mark.parametrize("side", [64, 300, 900])
def test_blur_is_less_sharp_and_a_darker_picture_is_not(side):
    picture = textured(side)
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(side / 100)))
    assert measured(blurred)["sharpness"] < 0.6 * measured(picture)["sharpness"]
    dark = (picture * 0.5).astype(np.uint8)
    assert measured(dark)["contrast"] == pytest.approx(measured(picture)["contrast"], rel=0.02)
    assert measured(dark)["sharpness"] == pytest.approx(measured(picture)["sharpness"], rel=0.1)
    assert measured(dark)["brightness"] == pytest.approx(0.5 * measured(picture)["brightness"], abs=0.01)


def test_a_frame_is_uniform_whatever_its_colour_and_noise():
    picture = noise(100, 140)
    assert measured(picture)["border"] < 0.1
    framed = picture.copy()
    for side in (np.s_[:4], np.s_[-4:], np.s_[:, :4], np.s_[:, -4:]):
        framed[side] = (200, 30, 60)
    assert measured(framed)["border"] == 1
    framed[0] = 90  # one of the four sides
    assert 0.55 < measured(framed)["border"] < 0.85


@pytest.mark.parametrize("quality", [1, 10, 37, 50, 75, 90, 95, 100])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_quality_of_a_jpeg_is_the_one_it_was_saved_with(quality, mode):
    buffer = io.BytesIO()
    Image.fromarray(noise(32, 32)).convert(mode).save(buffer, "JPEG", quality=quality)
    assert jpeg_quality(read_header(buffer.getvalue()).quantisation) == quality


@pytest.mark.parametrize("content", [b"", b"\0", b"\0" + b"\1" * 10, b"\x10" + b"\1" * 64])
def test_broken_tables_have_no_quality(content):
    assert np.isnan(jpeg_quality(content))


def test_a_decoder_measures_the_whole_picture_and_not_the_model_s_crop():
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from clipaudit.config import DecodeConfig
    from clipaudit.shards.decoder import ImageDecoder

    wide = np.zeros((50, 400, 3), np.uint8)
    wide[:, 175:225] = 255  # all that a centred square of the height has
    for form, quality in (("JPEG", 85), ("PNG", None), ("WEBP", None)):
        buffer = io.BytesIO()
        Image.fromarray(wide).save(buffer, form, **({"quality": quality} if quality else {}))
        decoder = ImageDecoder(image_transform_v2(PreprocessCfg(size=32), is_train=False), DecodeConfig())
        decoded = decoder(buffer.getvalue())
        values = dict(zip(IMAGE_PROPERTIES, decoded.properties, strict=True))
        assert values["brightness"] == pytest.approx(1 / 8, abs=0.02)
        assert (values["aspect"], values["kilobytes"]) == (8, len(buffer.getvalue()) / 1000)
        assert np.array_equal(values["jpeg_quality"], quality or np.nan, equal_nan=True)
