"""Pictures with a cue that the demo model has a word for, or none."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipaudit import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, run_job
from clipaudit.demo.world.scenes import draw_scene, render
from clipaudit.demo.world.styles import Image8

NOUNS = ("apple", "guitar", "rocket", "turtle")
NAMED: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "snow": ({"background": "snow"}, ("snow", "winter", "ice")),
    "ocean": ({"background": "ocean"}, ("ocean", "sea", "water", "waves", "beach", "lake")),
    "desert": ({"background": "desert"}, ("desert", "sand", "dune")),
    "forest": ({"background": "forest"}, ("forest", "tree", "wood")),
    "city": ({"background": "city"}, ("city", "building", "street", "skyline")),
    "black and white": ({"style": "black and white"}, ("black and white", "monochrome", "grey", "gray")),
    "sketch": ({"style": "sketch"}, ("sketch", "drawing", "pencil")),
    "purple": ({"tint": "purple"}, ("purple", "violet")),
}
"""Factors of a scene, and the words that are right for them."""


def border(pixels: Image8) -> Image8:
    """A red border of four pixels."""
    framed = pixels.copy()
    framed[:4] = framed[-4:] = (220, 20, 30)
    framed[:, :4] = framed[:, -4:] = (220, 20, 30)
    return framed


def watermark(pixels: Image8) -> Image8:
    """White letters along the lower edge."""
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).text((3, pixels.shape[0] - 12), "STOCK PHOTO", fill=(255, 255, 255))
    return np.asarray(image)


def sticker(pixels: Image8) -> Image8:
    """A chequered square in the upper right corner."""
    image = pixels.copy()
    image[2:14, -14:-2] = np.where((np.indices((12, 12)) // 3).sum(axis=0)[..., None] % 2, 255, 0)
    return image


UNNAMED: dict[str, Callable[[Image8], Image8]] = {"border": border, "watermark": watermark, "sticker": sticker}


@dataclass(frozen=True)
class Look:
    """How all marks of one world look: drawn once, so that worlds differ."""

    right: bool
    low: bool
    size: int
    """Height of letters, in pixels."""
    opacity: float
    """0 unseen, 1 covers what is below."""

    @staticmethod
    def of(seed: int) -> Look:
        """The look of the world of a seed."""
        rng = np.random.default_rng([seed, 91])
        return Look(
            bool(rng.integers(2)), bool(rng.integers(2)), int(rng.integers(9, 17)), float(rng.uniform(0.5, 1.0))
        )


def corner_text(pixels: Image8, look: Look, text: str, colour: tuple[int, int, int]) -> Image8:
    """A semi-transparent text in a corner."""
    side, font = pixels.shape[0], ImageFont.load_default(look.size)
    left, top, right, bottom = font.getbbox(text)
    x = side - 2 - right if look.right else 2 - left
    y = side - 2 - bottom if look.low else 2 - top
    return _blended(
        pixels, look, lambda draw: draw.text((x, y), text, fill=(*colour, round(255 * look.opacity)), font=font)
    )


def corner_watermark(pixels: Image8, look: Look, rng: np.random.Generator) -> Image8:
    """The same white word in each picture."""
    return corner_text(pixels, look, "STOCK", (255, 255, 255))


def wide_watermark(pixels: Image8, look: Look, rng: np.random.Generator) -> Image8:
    """White words across the picture, near its upper or its lower edge."""
    return corner_text(pixels, replace(look, right=False, size=max(look.size, 11)), "STOCK PHOTO", (255, 255, 255))


def date_stamp(pixels: Image8, look: Look, rng: np.random.Generator) -> Image8:
    """An orange date, another in each picture."""
    day, month, year = rng.integers(1, 29), rng.integers(1, 13), rng.integers(0, 26)
    return corner_text(pixels, look, f"{day:02d}.{month:02d}.{year:02d}", (255, 150, 30))


def logo(pixels: Image8, look: Look, rng: np.random.Generator) -> Image8:
    """A ring with a bar across it."""
    side, height = pixels.shape[0], look.size + 5
    x, y = (side - 2 - height if look.right else 2), (side - 2 - height if look.low else 2)
    colour = (250, 250, 250, round(255 * look.opacity))

    def shape(draw: ImageDraw.ImageDraw) -> None:
        draw.ellipse((x, y, x + height, y + height), outline=colour, width=3)
        draw.rectangle((x + 2, y + height // 2 - 1, x + height - 2, y + height // 2 + 1), fill=colour)

    return _blended(pixels, look, shape)


def _blended(pixels: Image8, look: Look, shape: Callable[[ImageDraw.ImageDraw], None]) -> Image8:
    layer = Image.new("RGBA", (pixels.shape[1], pixels.shape[0]), (0, 0, 0, 0))
    shape(ImageDraw.Draw(layer))
    return np.asarray(Image.alpha_composite(Image.fromarray(pixels).convert("RGBA"), layer).convert("RGB"))


MARKS: dict[str, Callable[[Image8, Look, np.random.Generator], Image8]] = {
    "corner watermark": corner_watermark,
    "wide watermark": wide_watermark,
    "date stamp": date_stamp,
    "logo": logo,
}
"""Letters and signs over a picture, of another place, size and opacity in each world."""


def write_shard(path: Path, cue: str, count: int, seed: int) -> None:
    """One tar of `count` pictures; the column `cue` says which show it."""
    rng = np.random.default_rng([seed, 90])
    look, fixed = Look.of(seed), NAMED[cue][0] if cue in NAMED else {}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(count):
            k = int(rng.integers(len(NOUNS)))
            with_cue = bool(rng.random() < (0.9 if k == 0 else 0.05))
            scene = draw_scene(rng, noun=NOUNS[k], fixed={"tint": "none", **(fixed if with_cue else {})})
            pixels, _ = render(scene, rng)
            if with_cue and cue in UNNAMED:
                pixels = UNNAMED[cue](pixels)
            if with_cue and cue in MARKS:
                pixels = MARKS[cue](pixels, look, rng)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
            columns = json.dumps({"cue": "yes" if with_cue else "no"}).encode()
            members = (("jpg", buffer.getvalue()), ("cls", str(k).encode()), ("json", columns))
            for suffix, data in members:
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (path.parent / "classnames.txt").write_text("".join(f"{noun}\n" for noun in NOUNS))


def run_of_pictures(folder: Path, cue: str, count: int, seed: int) -> str:
    """A run of the demo model over `count` pictures, 90 % of the first class's with the cue and 5 % of the others'."""
    shard = folder / "pictures-000000.tar"
    write_shard(shard, cue, count, seed)
    config = JobConfig(
        shards=(str(shard),),
        out=str(folder / "run"),
        model=ModelConfig(name="demo", device="cpu"),
        fields=FieldsConfig(label="cls", attributes=("json:cue",)),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config)
    return config.out
