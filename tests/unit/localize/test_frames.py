"""Frames agree with what the decoder really cuts out; overlays keep shapes, places and order."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from clipaudit.config import DecodeConfig
from clipaudit.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global image_transform, coloured, Frame, PictureReader, entire, seen_by, MapPanel, overlaid, sheet
    global describe_tower, ImageDecoder, tiny

    from open_clip.transform import image_transform

    from clipaudit.localize.colours import coloured
    from clipaudit.localize.frames import Frame, PictureReader, entire, seen_by
    from clipaudit.localize.overlay import MapPanel, overlaid, sheet
    from clipaudit.model import describe_tower
    from clipaudit.shards.decoder import ImageDecoder
    from tests.tiny_models import tiny


SIZES = [(64, 64), (300, 200), (200, 301), (90, 400), (1000, 333)]


def transform(mode: str, size: int = 96):
    return image_transform(size, is_train=False, resize_mode=mode, mean=(0.5,) * 3, std=(0.25,) * 3)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def with_square(size: tuple[int, int], y: int, x: int, side: int) -> np.ndarray:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[y : y + side, x : x + side] = 255
    return pixels


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", SIZES)
def test_a_frame_is_where_the_decoder_cuts(mode, size):
    steps = transform(mode)
    side = min(size) // 4
    y, x = size[0] // 2 - side // 3, size[1] // 2 - side // 2
    seen = ImageDecoder(steps, DecodeConfig(max_image_pixels=10**7))(png(with_square(size, y, x, side))).image
    weights = seen[..., 0].astype(float)
    rows, columns = np.mgrid[: seen.shape[0], : seen.shape[1]] + 0.5
    found_row, found_column = (weights * rows).sum() / weights.sum(), (weights * columns).sum() / weights.sum()
    frame = seen_by(steps, size)
    place = frame.place(found_row / seen.shape[0], found_column / seen.shape[1])
    pixel = max(frame.bottom - frame.top, frame.right - frame.left) / 96  # one pixel of the model's, in the picture
    assert place == pytest.approx((x + side / 2, y + side / 2), abs=0.6 * pixel)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_maps_are_spread_over_what_was_seen(mode):
    size = (200, 300)
    frame = seen_by(transform(mode), size)
    spread = frame.spread(np.arange(9, dtype=np.float32).reshape(3, 3), "nearest")
    assert spread.shape == size
    seen = ~np.isnan(spread)
    assert seen.mean() == pytest.approx({"shortest": 2 / 3, "longest": 1, "squash": 1}[mode], abs=0.01)
    if mode == "shortest":
        assert seen[:, 50:250].all()
        assert not seen[:, :49].any()
        # The middle patch of the crop lies in the middle of the picture.
        assert set(np.unique(spread[70:130, 120:180])) == {4.0}
    if mode == "longest":  # padded above and below: the outer rows of patches hang over
        assert (spread[0, :90], spread[-1, :90]) == (pytest.approx(0), pytest.approx(6))


def test_bilinear_maps_keep_the_patches_values_at_their_centres():
    scores = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    spread = entire((30, 50)).spread(scores)
    centres = (spread[:, 4::10, 4::10] + spread[:, 5::10, 5::10]) / 2
    assert np.abs(centres - scores).max() < 0.25 * np.abs(scores).max()
    flat = entire((30, 50)).spread(np.full((3, 5), 7, np.float32))
    assert np.allclose(flat, 7)


def test_a_whole_picture_keeps_its_shape():
    visual = tiny("ViT-B-32-quickgelu", layers=1)
    reader = PictureReader(transform("shortest"), describe_tower(visual), whole=True, display_side=100)
    for size, seen in {(100, 300): (96, 288), (640, 427): (128, 96), (20, 2000): (32, 1152)}.items():
        picture = reader.read(png(np.zeros((*size, 3), np.uint8)), "a.png")
        assert picture.seen.shape[:2] == seen
        assert (picture.frame.bottom, picture.frame.right) == size
        assert max(picture.display.shape) == 100
    finer = PictureReader(transform("shortest"), describe_tower(visual), side=200).read(
        png(with_square((100, 150), 0, 0, 9)), "a"
    )
    assert finer.seen.shape[:2] == (192, 288)


def test_unreadable_pictures_are_one_sentence(tmp_path):
    reader = PictureReader(transform("shortest"), describe_tower(tiny("ViT-B-32-quickgelu", layers=1)))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        reader.open(str(tmp_path / "none.png"))
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"bad\.png: "):
        reader.open(str(tmp_path / "bad.png"))


def test_colours_rise_in_brightness():
    brightness = coloured(np.linspace(0, 1, 256)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(brightness[::8]) > 0).all()
    assert coloured([np.nan, 0.5])[0].tolist() == [0, 0, 0]
    assert (coloured([2.0, -1.0]) == coloured([1.0, 0.0])).all()
    assert coloured([0.5, 1.0]).tolist() == [[204, 65, 72], [252, 254, 164]]


def test_an_overlay_is_brightest_where_the_score_is():
    picture = np.full((120, 240, 3), 128, np.uint8)
    scores = np.zeros((3, 6), np.float32)
    scores[1, 4] = 1
    out = overlaid(picture, scores, entire((60, 120)), low=0, high=1, marks=[(0, 0)], smooth=False)
    assert out.shape == picture.shape
    bright = out[..., 0].astype(int)
    bright[:41, :41] = 0  # the mark
    rows, columns = np.nonzero(bright == bright.max())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 79, 160, 199)
    assert (out[0, 0] == 255).all()
    flat = overlaid(picture, np.ones((3, 6), np.float32), entire((60, 120)), low=1, high=1)
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1


def test_what_was_not_seen_is_the_darkened_picture():
    picture = np.full((100, 200, 3), 100, np.uint8)
    frame = Frame(size=(100, 200), top=0, bottom=100, left=50, right=150)
    out = overlaid(picture, np.ones((2, 2), np.float32), frame, low=0, high=1)
    assert (out[:, :50] == 35).all()
    assert (out[:, 150:] == 35).all()
    assert (out[:, 50:150, 0] > 100).all()


def test_a_grid_repeats_its_picture_and_its_labels():
    picture = np.full((60, 150, 3), (10, 200, 30), np.uint8)
    panel = MapPanel(title="a text", scores=np.ones((2, 5), np.float32), low=0, high=1)
    one, three = (sheet(picture, [[panel]] * rows, entire((60, 150)), names=["L01H02"] * rows) for rows in (1, 3))
    green = [int((np.asarray(image) == (10, 200, 30)).all(axis=-1).sum()) for image in (one, three)]
    assert green == [60 * 150, 3 * 60 * 150]
    ink = [int((np.asarray(image) == (25, 25, 25)).all(axis=-1).sum()) for image in (one, three)]
    assert ink[1] == 3 * ink[0] > 0


def test_zero_is_marked_where_the_scale_has_it():
    picture, scores = np.zeros((60, 201, 3), np.uint8), np.ones((2, 5), np.float32)

    def marks(low):
        panel = MapPanel(title="", scores=scores, low=low, high=1.0)
        drawn = np.asarray(sheet(picture, [[panel]], entire((60, 201))))
        return np.flatnonzero((drawn[-36:-28] == (25, 25, 25)).all(axis=-1).any(axis=0))

    assert marks(0.5).size == 0
    (left, *_), (middle, *_) = marks(-0.25), marks(-1.0)
    assert middle - left == pytest.approx(0.3 * 200, abs=2)


def test_letters_that_no_font_has_are_spelled(monkeypatch):
    from clipaudit.localize import lettering

    monkeypatch.setattr(lettering, "_FONTS", ())
    lettering._lettered.cache_clear()
    assert lettering._lettered("na\u00efve caf\u00e9")[0] in ("na\u00efve caf\u00e9", "naive cafe")
    assert lettering._lettered("\u6c7d\u8f66 2")[0] == "?? 2"
    assert not lettering.is_drawable("\u6c7d")
    assert lettering.is_drawable("a dog")
    lettering._lettered.cache_clear()


def test_a_sheet_holds_all_panels():
    picture = np.zeros((60, 90, 3), np.uint8)
    long = "a text that is by far too long for one line and even for two or three of them, it goes on and on " * 3
    panel = MapPanel(title=long, scores=np.ones((2, 3), np.float32), low=0, high=1, note="n")
    small = sheet(picture, [[panel]], entire((60, 90)))
    grid = sheet(picture, [[panel] * 3] * 2, entire((60, 90)), names=["L01H02", "L03H04"], caption=long)
    assert grid.width > 2 * small.width - 60
    assert grid.height > small.height + 60
