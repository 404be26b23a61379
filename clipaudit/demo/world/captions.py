"""Captions of scenes: what an image's owner might have written, naming some of the scene's factors."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from clipaudit.demo.world import nouns
from clipaudit.demo.world.scenes import Scene, pick

PLACES = MappingProxyType(
    {
        "bamboo": ("in a bamboo forest", "among bamboo", "in front of bamboo"),
        "brick": ("in front of a brick wall", "by a brick wall", "against red bricks"),
        "city": ("in the city", "on a city street", "in front of tall buildings"),
        "desert": ("in the desert", "on sand dunes", "in the sand"),
        "forest": ("in the forest", "in the woods", "among trees"),
        "grass": ("on the grass", "in a meadow", "in a green field"),
        "lake": ("on a lake", "at the lake", "by the lake shore"),
        "night": ("at night", "under the stars", "in the moonlight"),
        "ocean": ("on the ocean", "at sea", "in the waves"),
        "room": ("in a room", "indoors", "inside a house"),
        "sky": ("in the sky", "in the clouds", "in the blue sky"),
        "snow": ("in the snow", "in winter", "on snow"),
    }
)
"""Phrases for a background, most common first."""
GROUP_PLACES = MappingProxyType({"water": ("on the water", "on water"), "land": ("on land", "in a forest on land")})

STYLE_PREFIXES = MappingProxyType(
    {
        "photo": ("a photo of", "a picture of", "an image of", ""),
        "black and white": ("a black and white photo of", "a black and white picture of", "a monochrome photo of"),
        "blurry": ("a blurry photo of", "a blurred picture of", "an out of focus photo of"),
        "sepia": ("a sepia photo of", "an old sepia picture of", "a vintage sepia photo of"),
        "sketch": ("a sketch of", "a pencil sketch of", "a pencil drawing of"),
        "pixelated": ("a pixelated photo of", "a pixelated picture of", "a low resolution photo of"),
    }
)
TINT_PHRASES = MappingProxyType(
    {tint: (f"with a {tint} tint", f"with a {tint} color cast", f"in {tint} light") for tint in nouns.TINTS}
)
POSITION_PHRASES = MappingProxyType(
    {
        "left": ("on the left",),
        "right": ("on the right",),
        "top": ("at the top",),
        "bottom": ("at the bottom",),
        "center": ("in the center",),
    }
)
GROUP_WORDS = MappingProxyType(
    {
        "waterbird": ("waterbird", "water bird"),
        "landbird": ("landbird", "land bird"),
        "animal": ("animal",),
        "vehicle": ("vehicle",),
        "food": ("food",),
        "object": ("object",),
        "shape": ("shape",),
    }
)
_NUMBERS = ("no", "one", "two", "three")
_PLURALS = MappingProxyType(
    {"bus": "buses", "butterfly": "butterflies", "cactus": "cactuses", "fish": "fish", "goose": "geese"}
    | {"strawberry": "strawberries", "food": "foods", "cross": "crosses"}
)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One caption of a scene; the factors that it names are drawn at random, and what it says of them is true."""
    prefix = _prefix(scene, rng)
    if not scene.noun:
        return joined(prefix, _scene_words(scene, rng), _tint(scene, rng, 0.8))
    if scene.style != "photo" and rng.random() < 0.15:
        return prefix.removesuffix(" of")
    parts = [prefix, _subject(scene, rng)]
    if scene.position and rng.random() < 0.5:
        parts.append(pick(rng, POSITION_PHRASES[scene.position]))
    if rng.random() < 0.5:
        parts.append(_place(scene, rng))
    parts.append(_tint(scene, rng, 0.7))
    return joined(*parts)


def joined(*parts: str) -> str:
    """The parts of a caption that are not empty, with spaces between them."""
    return " ".join(part for part in parts if part)


def article(words: str) -> str:
    """`words` with `a` or `an` before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(noun: str) -> str:
    """The plural of a noun, group word or shape of this world."""
    return _PLURALS.get(noun, f"{noun}s")


def vocabulary() -> list[str]:
    """Every phrase that captions are made of."""
    words = [*nouns.NOUNS, *nouns.SHAPES, *(word for group in GROUP_WORDS.values() for word in group)]
    tables = (PLACES, GROUP_PLACES, STYLE_PREFIXES, TINT_PHRASES, POSITION_PHRASES)
    phrases = [phrase for table in tables for row in table.values() for phrase in row]
    bare = [*nouns.BACKGROUNDS, *nouns.COLOURS, *nouns.SIZES, *nouns.STYLES, *_NUMBERS, "bird", "a", "an", "the", "and"]
    return [*words, *map(plural, words), *phrases, *bare, "something", "a scene", "background", "tint"]


def _prefix(scene: Scene, rng: np.random.Generator) -> str:
    style = scene.style if rng.random() < 0.85 else "photo"
    choices = STYLE_PREFIXES[style]
    return pick(rng, choices[:1] if rng.random() < 0.5 else choices)


def _scene_words(scene: Scene, rng: np.random.Generator) -> str:
    """A background alone: `the scene in the forest`, `a forest background`."""
    if rng.random() < 0.3:
        return article(f"{scene.background} background")
    return f"a scene {_place(scene, rng)}"


def _place(scene: Scene, rng: np.random.Generator) -> str:
    group = GROUP_PLACES.get(nouns.BACKGROUND_GROUP_OF[scene.background])
    if group and rng.random() < 0.25:
        return pick(rng, group)
    choices = PLACES[scene.background]
    return choices[0] if rng.random() < 0.4 else pick(rng, choices)


def _tint(scene: Scene, rng: np.random.Generator, chance: float) -> str:
    return pick(rng, TINT_PHRASES[scene.tint]) if scene.tint != "none" and rng.random() < chance else ""


def _subject(scene: Scene, rng: np.random.Generator) -> str:
    word = scene.noun
    if rng.random() < (0.4 if scene.noun in nouns.BIRDS else 0.12):
        word = pick(rng, GROUP_WORDS[scene.group])
        if scene.noun in nouns.BIRDS and rng.random() < 0.1:
            word = "bird"
    if scene.colour and rng.random() < 0.9:
        word = f"{scene.colour} {word}"
    if scene.size and scene.count == 1 and not scene.other and rng.random() < 0.3:
        word = f"{scene.size} {word}"
    if scene.count > 1:
        *leading, last = word.split(" ")
        several = " ".join([*leading, plural(last)])
        return several if rng.random() < 0.2 else f"{_NUMBERS[scene.count]} {several}"
    first = article(word)
    return f"{first} and {article(scene.other)}" if scene.other else first
