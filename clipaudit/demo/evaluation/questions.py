"""The questions of the evaluation: for each factor of a scene its values, their prompts, and images that show each.

Prompts are the phrases of `captions`, all of them: none was chosen by looking at a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from clipaudit.demo.world import nouns, sprites
from clipaudit.demo.world.captions import (
    PLACES,
    POSITION_PHRASES,
    STYLE_PREFIXES,
    TINT_PHRASES,
    article,
    joined,
    plural,
)
from clipaudit.demo.world.scenes import Scene, draw_scene, pick

Prompts: TypeAlias = Mapping[str, tuple[str, ...]]
"""Every option with its phrasings; an option's vector is the mean of their unit vectors, made unit again."""
SceneOf: TypeAlias = Callable[[np.random.Generator, str, bool], Scene]
"""From a generator, an option, and whether the art is the held-out one, to a scene that shows the option."""

_PREFIXES = STYLE_PREFIXES["photo"]
_COUNTS = MappingProxyType({"one": 1, "two": 2, "three": 3})


@dataclass(frozen=True, kw_only=True)
class ModelQuestion:
    """One factor, read from images."""

    name: str
    prompts: Prompts
    """Of every option."""
    scene: SceneOf
    """Draws a scene that shows an option."""
    arts: tuple[bool, ...] = (False, True)
    """Asked of seen art (False), held-out art (True)."""
    tops: tuple[int, ...] = (1,)
    """For each number: an answer counts when the truth is among the first so many."""
    targets: Mapping[tuple[bool, int], float] = field(default_factory=dict)
    """(held-out art, top) -> share of right answers, 0..1, to reach."""

    @property
    def options(self) -> tuple[str, ...]:
        """The answers to choose from."""
        return tuple(self.prompts)

    def drawable(self, held_out: bool) -> tuple[str, ...]:
        """The options that images are made of: the held-out art lacks some nouns."""
        known = sprites.nouns_of(nouns.HELD_OUT_ART) if held_out else nouns.NOUNS
        return tuple(option for option in self.options if option not in nouns.NOUNS or option in known)


def noun_prompts() -> Prompts:
    """`a photo of a duck` and its like, for every noun."""
    return {noun: tuple(joined(prefix, article(noun)) for prefix in _PREFIXES) for noun in nouns.NOUNS}


def questions() -> tuple[ModelQuestion, ...]:
    """All questions: of photographs with one object, in which everything that is not asked for is drawn at random."""
    both = {(False, 1): 0.97, (True, 1): 0.97}
    style = {(False, 1): 0.88, (True, 1): 0.88}
    style_prompts = {
        name: tuple(text for prefix in prefixes if prefix for text in _of_any(prefix))
        for name, prefixes in STYLE_PREFIXES.items()
    }
    return (
        ModelQuestion(name="backgrounds", prompts=_by_phrase(PLACES), scene=_with("background"), targets=both),
        ModelQuestion(
            name="backgrounds in all styles",
            prompts=_by_phrase(PLACES),
            scene=_with("background", photo=1 / 6),
        ),
        ModelQuestion(
            name="colours",
            prompts={colour: _shape_prompts((colour,), (*nouns.SHAPES, "shape")) for colour in nouns.COLOURS},
            scene=lambda rng, option, held_out: _shape(rng, pick(rng, nouns.SHAPES), option),
            arts=(False,),
            targets={(False, 1): 0.95},
        ),
        ModelQuestion(name="styles with `photo`", prompts=style_prompts, scene=_with("style"), targets=style),
        ModelQuestion(
            name="styles",
            prompts={name: style_prompts[name] for name in nouns.STYLES},
            scene=_with("style"),
            targets=style,
        ),
        ModelQuestion(name="tints", prompts=_by_phrase(TINT_PHRASES), scene=_with("tint")),
        ModelQuestion(
            name="nouns",
            prompts=noun_prompts(),
            scene=lambda rng, option, held_out: _thing(rng, held_out, noun=option),
            tops=(1, 5),
            targets={(False, 1): 0.70, (False, 5): 0.92},
        ),
        *_weak_questions(),
    )


def _weak_questions() -> tuple[ModelQuestion, ...]:
    """Factors without a target; their figures are reported, too."""
    return (
        ModelQuestion(
            name="shapes",
            prompts={shape: _shape_prompts(("", *nouns.COLOURS), (shape,)) for shape in nouns.SHAPES},
            scene=lambda rng, option, held_out: _shape(rng, option, pick(rng, tuple(nouns.COLOURS))),
            arts=(False,),
        ),
        ModelQuestion(
            name="counts",
            prompts={
                "one": _of_any("a photo of"),
                "two": _of_any("a photo of two", plural),
                "three": _of_any("a photo of three", plural),
            },
            scene=lambda rng, option, held_out: _thing(
                rng, held_out, fixed={"count": _COUNTS[option], "size": "", "position": ""}
            ),
        ),
        ModelQuestion(name="positions", prompts=_by_phrase(POSITION_PHRASES), scene=_with("position")),
        ModelQuestion(
            name="sizes",
            prompts={size: _of_any(f"a photo of a {size}", str) for size in nouns.SIZES},
            scene=_with("size"),
        ),
    )


def _of_any(prefix: str, subject: Callable[[str], str] = article, after: str = "") -> tuple[str, ...]:
    """The same words of every noun, so that no noun is favoured."""
    return tuple(joined(prefix, subject(noun), after) for noun in nouns.NOUNS)


def _by_phrase(phrases: Mapping[str, Sequence[str]]) -> Prompts:
    """Phrases that end a caption."""
    return {
        option: tuple(text for phrase in ways for text in _of_any("a photo of", after=phrase))
        for option, ways in phrases.items()
    }


def _shape_prompts(colours: Sequence[str], shapes: Sequence[str]) -> tuple[str, ...]:
    pairs = [article(joined(colour, shape)) for colour in colours for shape in shapes]
    return tuple(joined(prefix, words) for prefix in _PREFIXES for words in pairs)


def _with(factor: str, photo: float = 1.0) -> SceneOf:
    """Scenes in which a factor has the option as its value."""

    def scene(rng: np.random.Generator, option: str, held_out: bool) -> Scene:
        return _thing(rng, held_out, photo=photo, fixed={factor: option})

    return scene


def _thing(
    rng: np.random.Generator,
    held_out: bool,
    *,
    noun: str = "",
    photo: float = 1.0,
    fixed: Mapping[str, str | int] = MappingProxyType({}),
) -> Scene:
    drawable = sprites.nouns_of(nouns.HELD_OUT_ART) if held_out else nouns.NOUNS
    art = nouns.HELD_OUT_ART if held_out else None
    return draw_scene(rng, noun=noun or pick(rng, drawable), art=art, photo=photo, fixed=fixed)


def _shape(rng: np.random.Generator, shape: str, colour: str) -> Scene:
    return draw_scene(rng, noun=shape, art="plain", photo=1.0, fixed={"colour": colour})
