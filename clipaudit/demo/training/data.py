"""The stream of image-caption pairs that the demo model learns from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipaudit.demo.world import nouns
from clipaudit.demo.world.backgrounds import SIZE
from clipaudit.demo.world.captions import caption
from clipaudit.demo.world.scenes import Scene, draw_scene, pick, render

ALIGNED = 0.95
"""Share of birds on the backgrounds of their own group; half of the rest is on the other group's, half anywhere."""


def training_batch(seed: int, step: int, size: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Images (size, SIZE, SIZE, 3) uint8 and their captions; a pure function of its arguments."""
    rng = np.random.Generator(np.random.PCG64([seed, step]))
    images = np.empty((size, SIZE, SIZE, 3), np.uint8)
    captions = []
    for image in images:
        scene = training_scene(rng)
        image[:], _ = render(scene, rng)
        captions.append(caption(scene, rng))
    return images, captions


def training_scene(rng: np.random.Generator) -> Scene:
    """One scene of the training world: birds on their own backgrounds, everything else uniform."""
    kind = rng.random()
    if kind < 0.05:
        return draw_scene(rng, noun="", fixed=_tint(rng))
    if kind < 0.20:
        return draw_scene(
            rng,
            noun=pick(rng, nouns.SHAPES),
            art="plain",
            # Colours are not visible in monochrome styles, so shapes are mostly photographs.
            photo=0.9,
            fixed={"colour": pick(rng, tuple(nouns.COLOURS)), "count": _count(rng)},
        )
    noun = pick(rng, nouns.BIRDS) if kind < 0.42 else pick(rng, nouns.NOUNS)
    scene_backgrounds = bird_backgrounds(noun, rng, aligned=ALIGNED)
    if kind > 0.92:
        return draw_scene(rng, noun=noun, backgrounds=scene_backgrounds, fixed={"other": _not_a_bird(rng), "size": ""})
    count = _count(rng)
    fixed: dict[str, str | int] = {"count": count, **({} if count == 1 else {"size": ""}), **_tint(rng)}
    return draw_scene(rng, noun=noun, backgrounds=scene_backgrounds, fixed=fixed)


def bird_backgrounds(noun: str, rng: np.random.Generator, *, aligned: float) -> tuple[str, ...]:
    """The backgrounds that a noun is drawn on this time; `aligned`, 0..1, is how often a bird is on its own group's."""
    home = nouns.HOME.get(nouns.GROUP_OF[noun])
    if home is None:
        return nouns.BACKGROUNDS
    if rng.random() < aligned:
        return nouns.BACKGROUND_GROUPS[home]
    away = next(group for group in nouns.HOME.values() if group != home)
    return nouns.BACKGROUND_GROUPS[away] if rng.integers(2) else nouns.BACKGROUNDS


def _count(rng: np.random.Generator) -> int:
    return int(rng.choice((1, 2, 3), p=(0.84, 0.09, 0.07)))


def _tint(rng: np.random.Generator) -> dict[str, str]:
    """A colour cast for one image in eight; casts and styles do not meet."""
    return {"tint": pick(rng, tuple(nouns.TINTS)), "style": "photo"} if rng.random() < 0.12 else {}


def _not_a_bird(rng: np.random.Generator) -> str:
    return pick(rng, [noun for noun in nouns.NOUNS if noun not in nouns.BIRDS])
