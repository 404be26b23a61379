"""Scenes with known truth: their factors, drawn as pixels with the object's mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from clipaudit.demo.world import nouns, sprites
from clipaudit.demo.world.backgrounds import SIZE, background
from clipaudit.demo.world.styles import Image8, apply_style, apply_tint

_SIDES = MappingProxyType({"small": (20, 27), "": (30, 43), "large": (46, 57)})
"""Width of a single object in px, lower bound included, upper excluded."""
_GROUP_SIDES = (22, 29)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The truth of one image. An empty string means: not specified, any."""

    noun: str = ""
    """A name in nouns.NOUNS or, with a colour, in nouns.SHAPES; empty for a background alone."""
    other: str = ""
    """A second noun beside the first."""
    art: str = ""
    """The noun's art, one of nouns.ARTS or nouns.HELD_OUT_ART; empty for shapes."""
    count: int = 1
    """How many of the noun, 0..3."""
    colour: str = ""
    """A name in nouns.COLOURS; only shapes have one."""
    position: str = ""
    """Where a single object is, one of nouns.POSITIONS."""
    size: str = ""
    """`small` or `large`; empty for in between."""
    style: str = "photo"
    """A name in nouns.STYLES, or `photo`."""
    tint: str = "none"
    """A colour cast of nouns.TINTS, or `none`."""
    background: str
    """A name in nouns.BACKGROUNDS."""

    @property
    def group(self) -> str:
        """The noun's group, `shape`, or empty."""
        return "shape" if self.colour else nouns.GROUP_OF.get(self.noun, "")

    def factors(self) -> dict[str, str | int]:
        """All of the truth as plain values, for a sample's json."""
        where = nouns.BACKGROUND_GROUP_OF[self.background]
        return {**asdict(self), "group": self.group, "place": where}


def render(scene: Scene, rng: np.random.Generator) -> tuple[Image8, npt.NDArray[np.uint8]]:
    """Draw a scene: pixels (SIZE, SIZE, 3) uint8 sRGB, and the object's mask (SIZE, SIZE) uint8, 255 on the object."""
    canvas = background(scene.background, rng).astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for noun, (x, y, side) in zip(_objects(scene), _places(scene, rng), strict=True):
        _paste(canvas, mask, _object(scene, noun, side, rng), x, y)
    return apply_tint(apply_style(canvas, scene.style, rng), scene.tint), mask


def draw_scene(
    rng: np.random.Generator,
    *,
    noun: str,
    backgrounds: Sequence[str] = nouns.BACKGROUNDS,
    art: str | None = None,
    photo: float = 0.6,
    fixed: Mapping[str, str | int] = MappingProxyType({}),
) -> Scene:
    """A scene of `noun` with everything else drawn at random.

    `photo` is the probability (0..1) of no style; the five styles share the rest. `fixed` sets fields of Scene.
    """
    fields: dict[str, str | int] = {
        "noun": noun,
        "background": pick(rng, backgrounds),
        "art": (art or pick(rng, [name for name in sprites.arts_of(noun) if name in nouns.ARTS])) if noun else "",
        "style": "photo" if rng.random() < photo else pick(rng, nouns.STYLES),
        "size": pick(rng, ("", "", "small", "large", "large")) if noun else "",
        "position": pick(rng, nouns.POSITIONS) if noun and rng.random() < 0.4 else "",
        "count": 1 if noun else 0,
    }
    return Scene(**{**fields, **fixed})  # type: ignore[arg-type]  # names and types are Scene's own


def pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    """One of `names`, each equally likely."""
    return names[int(rng.integers(len(names)))]


def _objects(scene: Scene) -> list[str]:
    return [scene.noun] * scene.count + ([scene.other] if scene.other else [])


def _object(scene: Scene, noun: str, side: int, rng: np.random.Generator) -> Image8:
    """(side, side, 4) uint8 premultiplied: the noun as it appears here, mirrored half of the time, lighting varied."""
    if scene.colour:
        return sprites.shape(noun, nouns.COLOURS[scene.colour], side)
    art = scene.art if noun == scene.noun or scene.art in sprites.arts_of(noun) else nouns.ARTS[0]
    pixels = sprites.sprite(noun, art, side)
    if rng.integers(2):
        pixels = pixels[:, ::-1]
    gains = rng.integers(200, 291, 3)
    lit = np.minimum((pixels[..., :3].astype(np.int32) * gains) >> 8, pixels[..., 3:])
    return np.concatenate([lit.astype(np.uint8), pixels[..., 3:]], axis=2)


def _places(scene: Scene, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(left, top, side) px of every object, wholly inside the image; several stand side by side."""
    total = len(_objects(scene))
    if total == 1:
        side = int(rng.integers(*_SIDES[scene.size]))
        return [(*_corner(scene.position, SIZE - side, rng), side)]
    places = []
    for slot in range(total):
        side = int(rng.integers(*_GROUP_SIDES)) if total > 2 or scene.size == "small" else int(rng.integers(26, 33))
        room = SIZE - side
        left = slot * room // max(total - 1, 1) + int(rng.integers(-3, 4))
        places.append((min(max(left, 0), room), int(rng.integers(room // 3, room + 1)), side))
    return places


def _corner(position: str, room: int, rng: np.random.Generator) -> tuple[int, int]:
    """The upper left corner (x, y) of an object that has `room` px to move in."""
    x, y = (int(value) for value in rng.integers(0, room + 1, 2))
    middle = int(room * rng.integers(40, 61) // 100)
    low, high = int(rng.integers(0, room // 6 + 1)), room - int(rng.integers(0, room // 6 + 1))
    return {
        "left": (low, middle),
        "right": (high, middle),
        "top": (middle, low),
        "bottom": (middle, high),
        "center": (middle, middle),
    }.get(position, (x, y))


def _paste(canvas: Image8, mask: npt.NDArray[np.uint8], pixels: Image8, x: int, y: int) -> None:
    """Alpha-blend premultiplied `pixels` onto `canvas` at (x, y), in place, and add what is mostly opaque to `mask`."""
    side = pixels.shape[0]
    window = canvas[y : y + side, x : x + side]
    alpha = pixels[..., 3:]
    behind = (window.astype(np.uint16) * (255 - alpha.astype(np.uint16)) + 127) // 255
    window[:] = np.minimum(behind + pixels[..., :3], 255).astype(np.uint8)
    region = mask[y : y + side, x : x + side]
    np.maximum(region, np.where(alpha[..., 0] > 127, 255, 0).astype(np.uint8), out=region)
