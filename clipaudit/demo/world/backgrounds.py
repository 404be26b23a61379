"""Twelve procedural backgrounds: each a function of a random generator, 64 x 64 pixels.

Only additions, multiplications and comparisons on float32, and Pillow's integer resizing, are used: the pixels are the
same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = 64
"""Width and height of a scene, px."""

Pixels = npt.NDArray[np.float32]
"""(SIZE, SIZE, 3) sRGB in 0..255, or (SIZE, SIZE) weights."""
Painter = Callable[[np.random.Generator], Pixels]

_BANK_SIZE = 192
_BANK_FIELDS = 24
_y, _x = (axis.astype(np.float32) for axis in np.mgrid[0:SIZE, 0:SIZE])


def background(name: str, rng: np.random.Generator) -> Pixels:
    """(SIZE, SIZE, 3) float32 in 0..255; `name` is one of nouns.BACKGROUNDS."""
    pixels = _PAINTERS[name](rng)
    grainy: Pixels = np.clip(pixels + _noise(rng, 2, 2)[..., None] * 4, 0, 255)
    return grainy


@cache
def _bank(rows: int, columns: int) -> npt.NDArray[np.float32]:
    """(_BANK_FIELDS, _BANK_SIZE, _BANK_SIZE) smooth noise in -1..1 with grain `rows` x `columns` px."""
    rng = np.random.Generator(np.random.PCG64(1000 * rows + columns))
    fields = np.empty((_BANK_FIELDS, _BANK_SIZE, _BANK_SIZE), np.float32)
    for field in fields:
        coarse = rng.integers(0, 256, (_BANK_SIZE // rows + 2, _BANK_SIZE // columns + 2), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((_BANK_SIZE, _BANK_SIZE), Image.Resampling.BICUBIC)
        field[:] = (np.asarray(image).astype(np.float32) - 128) / 128
    return fields


def _noise(rng: np.random.Generator, rows: int, columns: int) -> Pixels:
    field, top, left = (int(value) for value in rng.integers(0, (_BANK_FIELDS, _BANK_SIZE - SIZE, _BANK_SIZE - SIZE)))
    noise: Pixels = _bank(rows, columns)[field, top : top + SIZE, left : left + SIZE]
    return noise


def _colour(rng: np.random.Generator, red: int, green: int, blue: int, spread: int = 14) -> npt.NDArray[np.float32]:
    return (np.array((red, green, blue)) + rng.integers(-spread, spread + 1, 3)).astype(np.float32)


def _mix(first: Pixels, second: Pixels, weight: Pixels) -> Pixels:
    """`first` where `weight` is 0, `second` where it is 1; colours or images, weight (SIZE, SIZE)."""
    return first + (second - first) * np.clip(weight, 0, 1)[..., None]


def _gradient(top: Pixels, bottom: Pixels) -> Pixels:
    return _mix(top, bottom, _y * np.float32(1 / SIZE))


def _below(line: float | Pixels) -> Pixels:
    below: Pixels = (_y >= line).astype(np.float32)
    return below


def _sky(rng: np.random.Generator, top: tuple[int, int, int] = (110, 175, 235)) -> Pixels:
    return _gradient(_colour(rng, *top), _colour(rng, 205, 228, 245, 8))


def _ocean(rng: np.random.Generator) -> Pixels:
    horizon = int(rng.integers(8, 26))
    deep, light = _colour(rng, 10, 60, 130), _colour(rng, 35, 125, 185)
    waves = _noise(rng, 3, 12) * np.float32(0.6) + _noise(rng, 6, 24) * np.float32(0.4)
    water = _mix(light, deep, (_y - horizon) * np.float32(1 / (SIZE - horizon)) + waves * np.float32(0.35))
    water = _mix(water, _colour(rng, 235, 245, 250, 6), (waves > 0.42).astype(np.float32) * np.float32(0.8))
    return _mix(_sky(rng), water, _below(horizon))


def _lake(rng: np.random.Generator) -> Pixels:
    shore = int(rng.integers(18, 34))
    hills = shore - 9 - _noise(rng, 16, 16)[:1] * 7
    image = _mix(_sky(rng), _colour(rng, 70, 120, 75), _below(hills))
    image = _mix(image, _colour(rng, 190, 175, 125), _below(shore - 2))
    ripples = _noise(rng, 2, 24)
    water = _mix(_colour(rng, 130, 195, 200), _colour(rng, 60, 140, 150), (_y - shore) * np.float32(1 / (SIZE - shore)))
    water = _mix(water, _colour(rng, 80, 125, 95), (_y < shore + 7) * np.float32(0.55))
    water = water + ripples[..., None] * 14
    return _mix(image, water, _below(shore))


def _forest(rng: np.random.Generator) -> Pixels:
    leaves = _noise(rng, 6, 6) * np.float32(0.6) + _noise(rng, 3, 3) * np.float32(0.5)
    image = _mix(_colour(rng, 14, 52, 22, 8), _colour(rng, 60, 125, 50), leaves + np.float32(0.4))
    ground = int(rng.integers(46, 58))
    image = _mix(image, _colour(rng, 80, 58, 34) + leaves[..., None] * 22, _below(ground))
    bark = _colour(rng, 82, 54, 32)
    for _ in range(int(rng.integers(4, 7))):
        left, width = (int(value) for value in rng.integers((-2, 4), (62, 9)))
        trunk = np.s_[: ground + 3, max(left, 0) : left + width]
        shade = (_x[trunk] - left) * np.float32(1 / width)
        image[trunk] += _mix(bark + 26, bark - 26, shade) - image[trunk]
    return image


def _bamboo(rng: np.random.Generator) -> Pixels:
    image = _mix(_colour(rng, 40, 95, 40), _colour(rng, 95, 150, 70), _noise(rng, 12, 6) + np.float32(0.5))
    pitch, offset = int(rng.integers(8, 12)), int(rng.integers(0, 12))
    width = pitch - int(rng.integers(3, 5))
    column, inside = np.divmod(_x + offset, np.float32(pitch))
    node = (_y + column * 7) % int(rng.integers(13, 19)) < 2
    stalk, dark = _colour(rng, 165, 200, 80), _colour(rng, 105, 150, 45)
    stalks = _mix(stalk, dark, inside * np.float32(1 / width))
    stalks = _mix(stalks, _colour(rng, 225, 230, 150, 8), node.astype(np.float32))
    return _mix(image, stalks, (inside < width).astype(np.float32))


def _grass(rng: np.random.Generator) -> Pixels:
    horizon = int(rng.integers(0, 16))
    blades = _noise(rng, 8, 2)
    meadow = _mix(
        _colour(rng, 120, 195, 70), _colour(rng, 65, 150, 40), _y * np.float32(1 / SIZE) + blades * np.float32(0.6)
    )
    flowers = (_noise(rng, 3, 3) > 0.72).astype(np.float32) * _below(horizon + 6)
    meadow = _mix(meadow, _colour(rng, 250, 235, 110, 8), flowers)
    return _mix(_sky(rng), meadow, _below(horizon))


def _desert(rng: np.random.Generator) -> Pixels:
    horizon = int(rng.integers(14, 30))
    image = _gradient(_colour(rng, 235, 190, 130), _colour(rng, 255, 230, 180, 8))
    for step in range(3):
        line = horizon + step * 13 + _noise(rng, 24, 24)[:1] * 9
        sand = _colour(rng, 225 - 14 * step, 170 - 16 * step, 95 - 12 * step, 8)
        ripple = _noise(rng, 2, 12) * np.float32(0.5) + np.float32(0.4)
        image = _mix(image, _mix(sand, sand - 22, ripple), _below(line))
    return image


def _snow(rng: np.random.Generator) -> Pixels:
    line = int(rng.integers(14, 34)) + _noise(rng, 24, 24)[:1] * 7
    ground = _mix(_colour(rng, 246, 249, 253, 4), _colour(rng, 205, 220, 240, 8), _noise(rng, 12, 24) * np.float32(0.8))
    image = _mix(_gradient(_colour(rng, 165, 180, 205), _colour(rng, 205, 215, 230, 8)), ground, _below(line))
    flakes = (_noise(rng, 2, 2) > 0.8).astype(np.float32)
    return _mix(image, np.full(3, 255, np.float32), flakes)


def _sky_background(rng: np.random.Generator) -> Pixels:
    clouds = _noise(rng, 16, 24) + _noise(rng, 6, 12) * np.float32(0.45)
    image = _gradient(_colour(rng, 55, 135, 225), _colour(rng, 150, 205, 245, 8))
    return _mix(image, _colour(rng, 250, 252, 255, 4), clouds * np.float32(1.6) - np.float32(0.2))


def _night(rng: np.random.Generator) -> Pixels:
    image = _gradient(_colour(rng, 10, 12, 42, 8), _colour(rng, 42, 38, 92))
    image = _mix(image, np.full(3, 240, np.float32), (_noise(rng, 2, 2) > 0.83).astype(np.float32))
    x, y, radius = (int(value) for value in rng.integers((8, 6, 5), (56, 20, 9)))
    moon = ((_x - x) * (_x - x) + (_y - y) * (_y - y) < radius * radius).astype(np.float32)
    image = _mix(image, _colour(rng, 245, 240, 205, 6), moon)
    hills = 54 - _noise(rng, 16, 16)[:1] * 6
    return _mix(image, _colour(rng, 14, 18, 26, 6), _below(hills))


def _city(rng: np.random.Generator) -> Pixels:
    image = _gradient(_colour(rng, 170, 185, 200), _colour(rng, 230, 220, 210, 8))
    left = -int(rng.integers(0, 8))
    while left < SIZE:
        width, top, grey, lit = (int(value) for value in rng.integers((10, 6, 70, 0), (18, 34, 150, 4)))
        wall = np.float32(grey) + _colour(rng, 0, 0, 8, 10)
        house = np.s_[top:, max(left, 0) : left + width - 1]
        windows = ((_x[house] - left) % 4 >= 2) & ((_y[house] - top) % 5 >= 3)
        pane = _colour(rng, 245, 225, 140, 8) if lit else _colour(rng, 60, 75, 100, 8)
        image[house] += _mix(wall, pane, windows.astype(np.float32)) - image[house]
        left += width
    return _mix(image, _colour(rng, 85, 85, 90, 6), _below(int(rng.integers(54, 60))))


def _room(rng: np.random.Generator) -> Pixels:
    floor = int(rng.integers(42, 52))
    wall = _colour(rng, 225, 210, 190, 20)
    image = np.broadcast_to(wall, (SIZE, SIZE, 3)) - _x[..., None] * np.float32(0.3)
    left, top, width, height = (int(value) for value in rng.integers((3, 4, 14, 12), (42, 10, 20, 20)))
    for inset, colour in ((0, _colour(rng, 120, 80, 50)), (2, _colour(rng, 175, 215, 240))):
        frame = (_x >= left + inset) & (_x < left + width - inset)
        frame &= (_y >= top + inset) & (_y < top + height - inset)
        image = _mix(image, colour, frame.astype(np.float32))
    boards = ((_x + (_y - floor) * (_x - 32) * np.float32(0.02)) % 9 < 1).astype(np.float32)
    planks = _mix(_colour(rng, 165, 110, 65), _colour(rng, 105, 65, 38, 6), boards)
    image = _mix(image, planks, _below(floor))
    return _mix(image, _colour(rng, 245, 240, 232, 6), _below(floor - 2) * (1 - _below(floor)))


def _brick(rng: np.random.Generator) -> Pixels:
    height, width, shift = (int(value) for value in rng.integers((6, 12, 0), (9, 17, 12)))
    row, y = np.divmod(_y, np.float32(height))
    column, x = np.divmod(_x + shift + row % 2 * np.float32(width // 2), np.float32(width))
    tone = (row * 37 + column * 53 + int(rng.integers(0, 50))) % 11 * np.float32(1 / 11)
    bricks = _mix(_colour(rng, 150, 62, 45), _colour(rng, 190, 95, 65), tone)
    return _mix(bricks, _colour(rng, 205, 198, 188, 8), ((y < 1) | (x < 1)).astype(np.float32))


_PAINTERS: dict[str, Painter] = {
    "bamboo": _bamboo,
    "brick": _brick,
    "city": _city,
    "desert": _desert,
    "forest": _forest,
    "grass": _grass,
    "lake": _lake,
    "night": _night,
    "ocean": _ocean,
    "room": _room,
    "sky": _sky_background,
    "snow": _snow,
}
