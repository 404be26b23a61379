"""The shipped emoji art as premultiplied 8-bit arrays, at any size."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clipaudit.demo.world.nouns import ARTS, HELD_OUT_ART, NOUNS

FOLDER = Path(__file__).parent.parent / "sprites"
SPRITE_SIZE = 64
"""Width and height of a shipped sprite, px."""


@cache
def arts_of(noun: str) -> tuple[str, ...]:
    """The arts that have the noun, held-out art last."""
    return tuple(art for art in (*ARTS, HELD_OUT_ART) if (FOLDER / art / f"{noun}.webp").is_file())


def nouns_of(art: str) -> tuple[str, ...]:
    """The nouns that an art has."""
    return tuple(noun for noun in NOUNS if art in arts_of(noun))


@lru_cache(maxsize=8192)
def sprite(noun: str, art: str, size: int) -> npt.NDArray[np.uint8]:
    """(size, size, 4) uint8: red, green, blue premultiplied by alpha, and alpha."""
    return _premultiplied(_drawing(noun, art), size)


@cache
def _drawing(noun: str, art: str) -> Image.Image:
    with Image.open(FOLDER / art / f"{noun}.webp") as image:
        return image.convert("RGBa")


@lru_cache(maxsize=8192)
def shape(name: str, colour: tuple[int, int, int], size: int) -> npt.NDArray[np.uint8]:
    """A plain shape like `sprite`: (size, size, 4) uint8, premultiplied."""
    return _premultiplied(_shape(name, colour), size)


@cache
def _shape(name: str, colour: tuple[int, int, int]) -> Image.Image:
    large = 4 * SPRITE_SIZE
    image = Image.new("RGBA", (large, large))
    draw = ImageDraw.Draw(image)
    if name in ("circle", "heart", "square"):
        _round(draw, name, colour, large)
    else:
        draw.polygon([(x * large, y * large) for x, y in _CORNERS[name]], fill=colour)
    return image.convert("RGBa")


def _round(draw: ImageDraw.ImageDraw, name: str, colour: tuple[int, int, int], large: int) -> None:
    if name == "circle":
        draw.ellipse((0, 0, large - 1, large - 1), fill=colour)
    elif name == "square":
        draw.rectangle((large * 0.06, large * 0.06, large * 0.94, large * 0.94), fill=colour)
    else:
        draw.ellipse((0, large * 0.05, large * 0.54, large * 0.6), fill=colour)
        draw.ellipse((large * 0.46, large * 0.05, large - 1, large * 0.6), fill=colour)
        draw.polygon([(large * x, large * y) for x, y in ((0.05, 0.44), (0.95, 0.44), (0.5, 0.98))], fill=colour)


_CORNERS = {
    "triangle": ((0.5, 0.04), (1.0, 0.94), (0.0, 0.94)),
    "cross": (
        *((0.35, 0.0), (0.65, 0.0), (0.65, 0.35), (1.0, 0.35), (1.0, 0.65), (0.65, 0.65)),
        *((0.65, 1.0), (0.35, 1.0), (0.35, 0.65), (0.0, 0.65), (0.0, 0.35), (0.35, 0.35)),
    ),
    "star": (
        *((0.5, 0.0), (0.62, 0.36), (1.0, 0.38), (0.7, 0.61), (0.81, 0.98)),
        *((0.5, 0.76), (0.19, 0.98), (0.3, 0.61), (0.0, 0.38), (0.38, 0.36)),
    ),
}


def _premultiplied(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    # Pillow resizes 8-bit images in integers, so the pixels are the same on every machine.
    resized = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized).copy()
    pixels.flags.writeable = False  # cached and shared by all callers
    return pixels
