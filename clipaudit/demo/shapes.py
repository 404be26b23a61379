"""Coloured shapes on patterned backgrounds, as WebDataset shards: enough to try every command without a download."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIZE = 224
SHAPES = ("circle", "cross", "hexagon", "ring", "square", "star", "triangle")
COLOURS = {
    "black": (20, 20, 20),
    "blue": (40, 80, 220),
    "brown": (120, 75, 40),
    "green": (40, 160, 70),
    "orange": (240, 140, 30),
    "purple": (130, 60, 170),
    "red": (215, 45, 40),
    "white": (245, 245, 245),
    "yellow": (245, 215, 50),
}
BACKGROUNDS = ("checkerboard", "dots", "gradient", "noise", "plain", "stripes")


def write_shards(out: Path, *, count: int, shard_size: int, seed: int) -> list[Path]:
    """Write `count` images as `out/shapes-000000.tar` and so on; the same seed gives the same bytes.

    A sample has `jpg`, `cls` (index into SHAPES), `json` (shape, colour, background, split) and `txt` (a caption).
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, first in enumerate(range(0, count, shard_size)):
        path = out / f"shapes-{number:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(first, min(first + shard_size, count)):
                for suffix, data in _members(np.random.default_rng((seed, index))):
                    info = tarfile.TarInfo(f"{index:08d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        paths.append(path)
    return paths


def _members(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    shape = SHAPES[rng.integers(len(SHAPES))]
    colour, other = rng.permutation(list(COLOURS))[:2]
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    image = _draw(rng, shape, COLOURS[str(colour)], background, COLOURS[str(other)])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    factors = {
        "shape": shape,
        "colour": str(colour),
        "background": background,
        "split": "train" if rng.random() < 0.8 else "test",
    }
    yield "jpg", buffer.getvalue()
    yield "cls", str(SHAPES.index(shape)).encode()
    yield "json", json.dumps(factors).encode()
    yield "txt", f"a {colour} {shape} on a {background} background".encode()


def _draw(
    rng: np.random.Generator, shape: str, colour: tuple[int, ...], background: str, other: tuple[int, ...]
) -> Image.Image:
    """The shape at a random place and size, drawn at twice the size and halved for smooth edges."""
    large = 2 * SIZE
    image = Image.fromarray(_background(rng, background, np.array(other), large))
    radius = rng.uniform(0.18, 0.32) * large
    x, y = rng.uniform(1.1 * radius, large - 1.1 * radius, size=2)
    draw = ImageDraw.Draw(image)
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "ring":
        draw.ellipse(box, outline=colour, width=int(radius * 0.4))
    elif shape == "cross":
        third = radius / 3
        draw.rectangle((x - third, y - radius, x + third, y + radius), fill=colour)
        draw.rectangle((x - radius, y - third, x + radius, y + third), fill=colour)
    else:
        draw.polygon(_corners(shape, x, y, radius, rng.uniform(0, 2 * np.pi)), fill=colour)
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def _corners(shape: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    count, inner = {"triangle": (3, 1.0), "square": (4, 1.0), "hexagon": (6, 1.0), "star": (10, 0.45)}[shape]
    radii = [radius * (inner if corner % 2 else 1.0) for corner in range(count)]
    angles = [turn + 2 * np.pi * corner / count for corner in range(count)]
    return [(x + r * float(np.cos(a)), y + r * float(np.sin(a))) for r, a in zip(radii, angles, strict=True)]


def _background(rng: np.random.Generator, name: str, colour: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint8]:
    """(size, size, 3) uint8: `colour` blended with grey by the pattern's weight in 0..1."""
    rows, columns = np.mgrid[0:size, 0:size] / size
    period = rng.uniform(6, 12)
    weight = np.ones((size, size))  # plain
    match name:
        case "gradient":
            weight = rows
        case "stripes":
            weight = (np.sin(2 * np.pi * period * columns) > 0).astype(float)
        case "checkerboard":
            weight = (np.floor(rows * period) + np.floor(columns * period)) % 2
        case "dots":
            weight = ((rows * period % 1 - 0.5) ** 2 + (columns * period % 1 - 0.5) ** 2 < 0.08).astype(float)
        case "noise":
            weight = rng.random((size, size))
    weight = weight[..., None]
    blended: npt.NDArray[np.uint8] = (0.5 * (weight * colour + (1 - weight) * 170) + 64).clip(0, 255).astype(np.uint8)
    return blended
