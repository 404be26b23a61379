"""Pictures with a cue that the demo model has a word for, or none."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

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


def write_shard(path: Path, cue: str, count: int, seed: int) -> None:
    """One tar of `count` pictures; the column `cue` says which show it."""
    rng = np.random.default_rng([seed, 90])
    fixed = NAMED[cue][0] if cue in NAMED else {}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(count):
            k = int(rng.integers(len(NOUNS)))
            with_cue = bool(rng.random() < (0.9 if k == 0 else 0.05))
            scene = draw_scene(rng, noun=NOUNS[k], fixed={"tint": "none", **(fixed if with_cue else {})})
            pixels, _ = render(scene, rng)
            if with_cue and cue in UNNAMED:
                pixels = UNNAMED[cue](pixels)
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
