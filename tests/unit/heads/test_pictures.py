"""Small pictures on a page of heads: each shows its own image, and a head's sheet stays small whatever they are."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from clipaudit.heads.extremes import Ends, Extreme
from clipaudit.heads.pictures import SIDE, HeadPictures
from clipaudit.run.row import Row
from clipaudit.run.thumbnails import NoPicture, as_jpeg


def colour(index):
    return (10 * index % 256, 255 - 10 * index % 256, 40 * index % 256)


def plain(row):
    """An image of one colour, wider than high; every tenth cannot be read."""
    if row.index % 10 == 9:
        raise NoPicture("the shard is gone")
    return as_jpeg(Image.new("RGB", (2 * SIDE, SIDE + 20), colour(row.index)))


def noise(row):
    pixels = np.random.default_rng(row.index).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), dtype=np.uint8)
    return as_jpeg(Image.fromarray(pixels))


def ends_of(*indices):
    """Ends with three images each: the given ones, and the 20 later ones."""

    def images(numbers):
        return tuple(Extreme(row=Row(shard_id=0, index=n, key=f"<k{n}>"), value=2.0) for n in numbers)

    return Ends(high=images(indices), low=images(n + 20 for n in indices))


def sheet_of(pictures):
    rule = str(pictures.rule("L00H00"))
    assert rule.startswith("#L00H00 .picture:not(.none) { background-image: url(data:image/jpeg;base64,")
    return base64.b64decode(re.search(r"base64,([^)]*)\)", rule)[1])


def test_every_picture_shows_its_own_image():
    missing = {}
    ends = [ends_of(0, 1, 2), ends_of(2, 3, 4), ends_of(5, 6, 9), ends_of(10, 11, 12)]
    pictures = HeadPictures(plain, ends, missing)
    with Image.open(io.BytesIO(sheet_of(pictures))) as sheet:
        assert sheet.width == 8 * SIDE  # 22 different images that can be read
        assert sheet.height == 3 * SIDE
        for pair in ends:
            cells = re.findall(r'<span class="picture( none)?"[^>]*>', str(pictures.strip(pair)))
            assert len(cells) == 6
            html = str(pictures.strip(pair))
            matches = re.findall(
                r'aria-label="&lt;k(\d+)&gt;: \+2\.0[^"]*" title="[^"]*" style="[^"]*: (\S+)% (\S+)%"', html
            )
            assert len(matches) == 6 - html.count("picture none")
            for number, x, y in matches:
                # background-position: 0 % is the first column or row, 100 % the last
                across, down = round(float(x) / 100 * 7), round(float(y) / 100 * 2)
                pixel = sheet.getpixel((SIDE * across + SIDE // 2, SIDE * down + SIDE // 2))
                assert pixel == pytest.approx(colour(int(number)), abs=6)
    assert set(missing) == {"the shard is gone"}


def test_hostile_keys_are_escaped_and_missing_pictures_say_why():
    missing = {}
    pictures = HeadPictures(plain, [ends_of(9, 19, 29)], missing)
    html = str(pictures.strip(ends_of(9, 19, 29)))
    assert html.count('class="picture none"') == 6
    assert "(the shard is gone)" in html
    assert "<k9>" not in html
    assert missing == {"the shard is gone": 6}
    assert pictures.rule("L00H00") == ""


def test_the_sheets_of_24_heads_take_at_most_3_megabytes():
    ends = [ends_of(*range(start, start + 3)) for start in range(0, 200, 40)]
    ends += [ends_of(*range(start, start + 3)) for start in range(3, 200, 40)]
    pictures = HeadPictures(noise, ends, {})  # ten texts, and nothing compresses worse than noise
    rule = str(pictures.rule("L00H00"))
    assert 24 * len(rule) <= 3_000_000 * 0.96  # texts take the rest
    with Image.open(io.BytesIO(sheet_of(pictures))) as sheet:
        assert sheet.size == (8 * SIDE, 8 * SIDE)
