"""Renders the emoji art to the shipped sprites: `python -m clipaudit.demo.training.render_sprites NODE_MODULES`.

Only needed to make the sprites anew: install the npm packages `@iconify-json/noto`, `@iconify-json/noto-v1`,
`@iconify-json/fluent-emoji-flat`, `@lobehub/fluent-emoji-3d`, `emojibase-data` and the extra `clipaudit[art]`.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from clipaudit.demo.world.nouns import ARTS, EMOJI, HELD_OUT_ART, NOUNS
from clipaudit.demo.world.sprites import FOLDER, SPRITE_SIZE

_SETS = {"noto": "noto", "fluent-flat": "fluent-emoji-flat", "noto-v1": "noto-v1"}
_OTHER_NAMES = {"spouting-whale": "whale", "sailboat": "boat", "red-apple": "apple"}
_OVERSAMPLING = 4


def main(node_modules: Path) -> None:
    """Write `sprites/ART/NOUN.webp` for every art and noun that exists."""
    hexcodes = _hexcodes(node_modules)
    for art in (*ARTS, HELD_OUT_ART):
        folder = FOLDER / art
        folder.mkdir(parents=True, exist_ok=True)
        for noun in NOUNS:
            image = (
                _emoji_3d(node_modules, hexcodes[EMOJI[noun]]) if art == "fluent-3d" else _icon(node_modules, art, noun)
            )
            if image is None:
                print(f"{art} has no {noun}")
            else:
                _fit(image).save(folder / f"{noun}.webp", lossless=True, quality=100, method=6)


def _hexcodes(node_modules: Path) -> dict[str, str]:
    entries = json.loads((node_modules / "emojibase-data/en/data.json").read_text("utf-8"))
    return {entry["label"].replace(" ", "-"): entry["hexcode"].lower() for entry in entries}


def _icon(node_modules: Path, art: str, noun: str) -> Image.Image | None:
    import resvg_py

    icons: dict[str, Any] = json.loads((node_modules / f"@iconify-json/{_SETS[art]}/icons.json").read_text("utf-8"))
    names = [EMOJI[noun], _OTHER_NAMES.get(EMOJI[noun], ""), noun]
    for name in names:
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
        if name in icons["icons"]:
            icon = icons["icons"][name]
            width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
            left, top = icon.get("left", 0), icon.get("top", 0)
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
            )
            png = resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_SIZE * _OVERSAMPLING)
            return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return None


def _emoji_3d(node_modules: Path, hexcode: str) -> Image.Image | None:
    for name in (hexcode, f"{hexcode}-fe0f"):
        path = node_modules / f"@lobehub/fluent-emoji-3d/assets/{name}.webp"
        if path.is_file():
            return Image.open(path).convert("RGBA")
    return None


def _fit(image: Image.Image) -> Image.Image:
    """The visible part, centred in a square of SPRITE_SIZE."""
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()
    image = image.crop(box)
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.convert("RGBa").resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS).convert("RGBA")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
