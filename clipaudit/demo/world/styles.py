"""Photographic styles and colour casts of a whole scene, in integer arithmetic (the same pixels on every machine)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from clipaudit.demo.world.nouns import TINTS

Image8 = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 sRGB."""


def apply_style(pixels: Image8, style: str, rng: np.random.Generator) -> Image8:
    """`pixels` in a style of nouns.STYLES; unchanged for `photo`."""
    return pixels if style == "photo" else _STYLES[style](pixels, rng)


def apply_tint(pixels: Image8, tint: str) -> Image8:
    """`pixels` with a colour cast of nouns.TINTS; unchanged for `none`."""
    if tint == "none":
        return pixels
    gains = np.array(TINTS[tint], np.int32)
    # Half of the brightness goes into the cast, so that dark and bright places both show it.
    cast = (pixels.astype(np.int32) * gains + 40 * (gains - 160)) >> 8
    toned: Image8 = np.clip(cast, 0, 255).astype(np.uint8)
    return toned


def _luma(pixels: Image8) -> npt.NDArray[np.int32]:
    """(H, W) int32 in 0..255, ITU-R 601."""
    wide = pixels.astype(np.int32)
    luma: npt.NDArray[np.int32] = (wide[..., 0] * 77 + wide[..., 1] * 150 + wide[..., 2] * 29) >> 8
    return luma


def _black_and_white(pixels: Image8, rng: np.random.Generator) -> Image8:
    return np.repeat(_luma(pixels).astype(np.uint8)[..., None], 3, axis=2)


def _sepia(pixels: Image8, rng: np.random.Generator) -> Image8:
    tinted = (_luma(pixels)[..., None] * np.array((276, 225, 165), np.int32)) >> 8
    toned: Image8 = np.clip(tinted + np.array((12, 6, 0), np.int32), 0, 255).astype(np.uint8)
    return toned


def _blurry(pixels: Image8, rng: np.random.Generator) -> Image8:
    radius = int(rng.integers(2, 4))
    image = Image.fromarray(pixels).filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius - 1))
    return np.asarray(image)


def _sketch(pixels: Image8, rng: np.random.Generator) -> Image8:
    luma = np.pad(_luma(pixels), 1, mode="edge")
    edges = np.abs(luma[1:-1, 2:] - luma[1:-1, :-2]) + np.abs(luma[2:, 1:-1] - luma[:-2, 1:-1])
    paper = 250 - np.minimum(edges * int(rng.integers(2, 4)), 220)
    return np.repeat(np.clip(paper, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _pixelated(pixels: Image8, rng: np.random.Generator) -> Image8:
    block = 4
    small = pixels.reshape(pixels.shape[0] // block, block, pixels.shape[1] // block, block, 3)
    means = (small.astype(np.int32).sum(axis=(1, 3)) // (block * block)).astype(np.uint8)
    blocks: Image8 = means.repeat(block, axis=0).repeat(block, axis=1)
    return blocks


_STYLES: dict[str, Callable[[Image8, np.random.Generator], Image8]] = {
    "black and white": _black_and_white,
    "blurry": _blurry,
    "sepia": _sepia,
    "sketch": _sketch,
    "pixelated": _pixelated,
}
