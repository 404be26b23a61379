"""Properties of a picture that need no model: brightness, contrast, sharpness, saturation, frame, JPEG quality, sizes.

docs/columns.md defines each for users. All are measured on the decoded picture as displayed, thinned to every k-th row
and column, which keeps means and variances and costs little for large pictures.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image

from clipaudit.arrays import Uint8s
from clipaudit.schema import IMAGE_PROPERTIES

GREY_SIDE: Final = 112
"""Of a picture that has them, the thinned one has at least so many pixels on its longer side, and below twice that."""
COLOUR_SIDE: Final = 48
"""Likewise of the picture that saturation is measured on, and of the samples of each side of the frame."""
FRAME_TOLERANCE: Final = 16
"""Grey levels by which a channel of the frame may differ from the frame's median colour."""
_LEAST_MEAN: Final = 1.0
"""Grey levels; a picture with less is black, and has no contrast."""
_LEAST_VARIANCE: Final = 1.0
"""Of grey levels; a picture with less has no sharpness."""
# ITU-T T.81, table K.1 in the zigzag order of figure A.6, as a DQT segment has it
_LUMINANCE: Final = np.array(
    [
        *(16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40),
        *(26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51),
        *(56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87),
        *(95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99),
    ],
    np.int64,
)


def image_properties(rgb: Uint8s, nbytes: int, quantisation: bytes) -> tuple[float, ...]:
    """The properties of one picture, in the order of `IMAGE_PROPERTIES`; nan for one that it does not have.

    rgb: (H, W, 3) uint8, contiguous, the whole picture as displayed. nbytes: of its file. quantisation: the contents of
    a JPEG's DQT segments, empty for other formats.
    """
    height, width = rgb.shape[:2]
    thinned = _thinned(rgb, GREY_SIDE)
    # ITU-R BT.601 luma, as Pillow rounds it
    luma = Image.fromarray(thinned).convert("L")
    grey = np.asarray(luma)
    counts = np.array(luma.histogram(), np.float64)
    brightness = float(counts @ _LEVELS) / grey.size
    variance = max(float(counts @ _SQUARES) / grey.size - brightness * brightness, 0.0)
    values = {
        "brightness": brightness / 255,
        # relative to the mean (Kukkonen et al., Vision Research 1993), so that a dark picture does not lack contrast
        "contrast": variance**0.5 / brightness if brightness >= _LEAST_MEAN else float("nan"),
        "sharpness": _sharpness(grey, variance),
        "saturation": _saturation(_thinned(thinned, COLOUR_SIDE)),
        "border": _border(rgb),
        "aspect": width / height,
        "megapixels": width * height / 1e6,
        "kilobytes": nbytes / 1e3,
        "jpeg_quality": jpeg_quality(quantisation),
    }
    return tuple(values[name] for name in IMAGE_PROPERTIES)


def _thinned(pixels: Uint8s, side: int) -> Uint8s:
    """Every k-th row and column of (H, W, 3) pixels, so that the longer side has at least `side` and below 2 side."""
    step = max(1, max(pixels.shape[:2]) // side)
    if step == 1:
        return pixels
    # (H, W) of three bytes each: copied pixel by pixel, and not channel by channel
    whole = pixels.view(_PIXEL)[..., 0]
    # from the middle of the first step on, or of the side where that is shorter
    down, right = (min(step, side) // 2 for side in whole.shape)
    return np.ascontiguousarray(whole[down::step, right::step])[..., None].view(np.uint8)


_LEVELS: Final = np.arange(256, dtype=np.float64)
_SQUARES: Final = _LEVELS**2
_PIXEL: Final = np.dtype((np.void, 3))


def _sharpness(grey: Uint8s, variance: float) -> float:
    """Variance of the Laplacian of (h, w) grey levels over their own variance; nan for a flat or tiny picture.

    Pech-Pacheco et al., ICPR 2000, equation 7; divided by the variance, so that contrast does not count as sharpness.
    """
    if variance < _LEAST_VARIANCE or min(grey.shape) < 3:
        return float("nan")
    g = grey.astype(np.int16)
    laplacian = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
    # sums of integers: exact, and no BLAS, which would start threads in each decoding thread
    wide = laplacian.astype(np.int32)
    mean = float(wide.sum(dtype=np.int64)) / wide.size
    return (float(np.square(wide).sum(dtype=np.int64)) / wide.size - mean * mean) / variance


def _saturation(rgb: Uint8s) -> float:
    """Mean saturation of HSV (Smith, SIGGRAPH 1978) of (h, w, 3) pixels, weighted by their value: sum of max - min over
    sum of max. Dark pixels, whose saturation is noise, count little; 0 for a black picture."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    greatest = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    total = float(greatest.sum(dtype=np.int64))
    return (total - float(least.sum(dtype=np.int64))) / total if total else 0.0


def _border(rgb: Uint8s) -> float:
    """Share of the outermost pixels of (H, W, 3) whose channels all lie within 16 levels of their median colour."""
    down, right = (max(1, side // COLOUR_SIDE) for side in rgb.shape[:2])
    sides = (rgb[0, ::right], rgb[-1, ::right], rgb[::down, 0], rgb[::down, -1])
    frame = np.concatenate(sides).astype(np.int16)
    # the middle one of the sorted levels: np.median is several times slower
    middle = np.sort(frame, axis=0)[len(frame) // 2]
    return float((np.abs(frame - middle).max(axis=1) <= FRAME_TOLERANCE).mean())


@lru_cache(256)
def jpeg_quality(quantisation: bytes) -> float:
    """Quality 1..100 whose luminance table, as libjpeg scales that of ITU-T T.81 K.1, is nearest; nan without tables.

    quantisation: contents of DQT segments (T.81 B.2.4.1). Exact for files of libjpeg and its kin.
    """
    tables = _quantisation_tables(quantisation)
    if not tables:
        return float("nan")
    luminance = tables.get(0, next(iter(tables.values())))
    return float(np.abs(_SCALED - luminance).sum(axis=1).argmin() + 1)


def _quantisation_tables(content: bytes) -> dict[int, np.ndarray]:
    tables: dict[int, np.ndarray] = {}
    at = 0
    while at < len(content):
        wide, number = content[at] >> 4, content[at] & 15
        length = 128 if wide else 64
        values = content[at + 1 : at + 1 + length]
        if len(values) < length:
            break
        tables[number] = np.frombuffer(values, ">u2" if wide else np.uint8).astype(np.int64)
        at += 1 + length
    return tables


def _scaled_tables() -> np.ndarray:
    """(100, 64) int64: the luminance table at qualities 1 to 100 (libjpeg's jpeg_quality_scaling)."""
    quality = np.arange(1, 101)
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((_LUMINANCE * percent[:, None] + 50) // 100, 1, 255)


_SCALED: Final = _scaled_tables()
