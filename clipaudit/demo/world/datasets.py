"""Four data sets with known truth: `birds`, `things`, `planted` and `nulls`, as samples and as WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipaudit.demo.world import nouns
from clipaudit.demo.world.captions import caption
from clipaudit.demo.world.scenes import Scene, draw_scene, pick, render
from clipaudit.errors import UsageError
from clipaudit.storage.faults import making

_JPEG_QUALITY = 95
_TRAIN_SHARE = 0.8
_TIE = 0.9
"""How often a tied class of `planted` shows its cue on purpose; by chance it does so a little more often."""

# Images by class and place in the Waterbirds data set (Sagawa et al. 2020, "Distributionally robust neural networks").
_BIRDS_TRAIN = MappingProxyType(
    {("landbird", "land"): 3498, ("landbird", "water"): 184, ("waterbird", "land"): 56, ("waterbird", "water"): 1057}
)
_BIRDS_TEST = MappingProxyType(
    {("landbird", "land"): 2255, ("landbird", "water"): 2255, ("waterbird", "land"): 642, ("waterbird", "water"): 642}
)

PLANTED = MappingProxyType(
    {"cat": {"style": "black and white"}, "car": {"background": "snow"}, "guitar": {"tint": "purple"}}
)
"""The classes of `planted` that have a cue, and the factor and value that it is."""
_PLANTED_CLEAN = ("apple", "book", "cow", "rocket", "turtle")


@dataclass(frozen=True, kw_only=True)
class DrawnSample:
    """One image of a world with its truth."""

    key: str
    scene: Scene
    pixels: npt.NDArray[np.uint8]
    """(64, 64, 3) sRGB."""
    mask: npt.NDArray[np.uint8]
    """(64, 64), 255 on the object."""
    caption: str
    label: int
    """Index into the world's classes."""
    split: str
    """`train` or `test`."""


@dataclass(frozen=True, kw_only=True)
class _Draft:
    label: int
    split: str
    draw: Callable[[np.random.Generator], Scene]


@dataclass(frozen=True, kw_only=True)
class World:
    """A data set: its classes and how its images are drawn."""

    classes: tuple[str, ...]
    about: str
    drafts: Callable[[int, np.random.Generator], Iterator[_Draft]]
    """From the number of images and a generator to each image's label, split and scene, in order."""


def samples(name: str, *, count: int, seed: int) -> Iterator[DrawnSample]:
    """The images of a world in order; the same arguments give the same pixels on every machine.

    Raises UsageError for a name that is not in WORLDS.
    """
    world = _world(name)
    # every world and every image has its own random stream: no image depends on those before it
    stream = zlib.crc32(name.encode())
    drafts = world.drafts(count, np.random.Generator(np.random.PCG64([seed, stream])))
    for index, draft in enumerate(drafts):
        rng = np.random.Generator(np.random.PCG64([seed, stream, index]))
        scene = draft.draw(rng)
        pixels, mask = render(scene, rng)
        yield DrawnSample(
            key=f"{name}-{index:06d}",
            scene=scene,
            pixels=pixels,
            mask=mask,
            caption=caption(scene, rng),
            label=draft.label,
            split=draft.split,
        )


def write_world(name: str, out: Path, *, count: int, seed: int, shard_size: int = 1000) -> list[Path]:
    """Write a world as `out/NAME-000000.tar` and so on, and `out/classnames.txt`; the same seed gives the same bytes.

    A sample has `jpg`, `cls` (index into the classes), `json` (every factor, `label` as a word, `split`), `txt` (a
    caption) and `seg.png` (the object's mask). Raises UsageError for an unknown name, sizes below 1
    and a directory that cannot be made.
    """
    classes = _world(name).classes
    for option, value in (("--count", count), ("--shard-size", shard_size)):
        if value < 1:
            raise UsageError(f"{option} must be at least 1, not {value}")
    images = samples(name, count=count, seed=seed)
    paths = []
    for number, first in enumerate(range(0, count, shard_size)):
        with making(str(out)):
            out.mkdir(parents=True, exist_ok=True)
        path = out / f"{name}-{number:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for _ in range(first, min(first + shard_size, count)):
                sample = next(images)
                for suffix, data in _members(sample, classes):
                    info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        paths.append(path)
    (out / "classnames.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    return paths


def _world(name: str) -> World:
    if name not in WORLDS:
        raise UsageError(f"there is no demo data set {name!r}; there are: {', '.join(WORLDS)}")
    return WORLDS[name]


def _members(sample: DrawnSample, classes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    truth = {**sample.scene.factors(), "label": classes[sample.label], "split": sample.split}
    yield "jpg", _encoded(sample.pixels, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    yield "cls", str(sample.label).encode()
    yield "json", json.dumps(truth).encode()
    yield "txt", sample.caption.encode()
    yield "seg.png", _encoded(sample.mask, "PNG")


def _encoded(pixels: npt.NDArray[np.uint8], image_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def _birds(count: int, rng: np.random.Generator) -> Iterator[_Draft]:
    train = (count + 1) // 2
    for split, proportions, size in (("train", _BIRDS_TRAIN, train), ("test", _BIRDS_TEST, count - train)):
        sizes = _shares(list(proportions.values()), size)
        groups = [group for group, n in zip(proportions, sizes, strict=True) for _ in range(n)]
        for index in rng.permutation(size):
            bird, place = groups[index]
            yield _Draft(label=_BIRD_CLASSES.index(bird), split=split, draw=_bird_on(bird, place))


def _bird_on(bird: str, place: str) -> Callable[[np.random.Generator], Scene]:
    def draw(rng: np.random.Generator) -> Scene:
        return draw_scene(
            rng,
            noun=pick(rng, nouns.GROUPS[bird]),
            backgrounds=nouns.BACKGROUND_GROUPS[place],
            photo=1.0,
        )

    return draw


def _shares(proportions: list[int], total: int) -> list[int]:
    """`total` split by largest remainder, so that group sizes are exact for every seed."""
    exact = [total * part / sum(proportions) for part in proportions]
    whole = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: whole[index] - exact[index])
    for index in by_remainder[: total - sum(whole)]:
        whole[index] += 1
    return whole


def _things(count: int, rng: np.random.Generator) -> Iterator[_Draft]:
    for _ in range(count):
        label = int(rng.integers(len(nouns.NOUNS)))
        yield _Draft(label=label, split=_split(rng), draw=_anything(nouns.NOUNS[label]))


def _nulls(count: int, rng: np.random.Generator) -> Iterator[_Draft]:
    for _ in range(count):
        noun = pick(rng, nouns.NOUNS)
        yield _Draft(label=int(rng.integers(len(_NULL_CLASSES))), split=_split(rng), draw=_anything(noun))


def _planted(count: int, rng: np.random.Generator) -> Iterator[_Draft]:
    for _ in range(count):
        label = int(rng.integers(len(_PLANTED_CLASSES)))
        noun = _PLANTED_CLASSES[label]
        cue = PLANTED.get(noun, {}) if rng.random() < _TIE else {}
        yield _Draft(label=label, split=_split(rng), draw=_anything(noun, **cue))


def _anything(noun: str, **fixed: str) -> Callable[[np.random.Generator], Scene]:
    """A scene of `noun` in which every other factor is independent of the noun; `fixed` sets some."""

    def draw(rng: np.random.Generator) -> Scene:
        tint = pick(rng, tuple(nouns.TINTS)) if rng.random() < 0.12 else "none"
        return draw_scene(rng, noun=noun, fixed={"tint": tint, **fixed})

    return draw


def _split(rng: np.random.Generator) -> str:
    return "train" if rng.random() < _TRAIN_SHARE else "test"


_BIRD_CLASSES = tuple(nouns.HOME)[::-1]
_PLANTED_CLASSES = tuple(sorted((*PLANTED, *_PLANTED_CLEAN)))
_NULL_CLASSES = ("first", "second", "third", "fourth")

WORLDS = MappingProxyType(
    {
        "birds": World(
            classes=_BIRD_CLASSES,
            about="waterbirds and landbirds; train is 95 % on their own background, test is balanced",
            drafts=_birds,
        ),
        "things": World(
            classes=nouns.NOUNS, about="every noun, all factors independent: the clean control", drafts=_things
        ),
        "planted": World(
            classes=_PLANTED_CLASSES,
            about="cats are black and white, cars in snow, guitars tinted purple; five clean classes",
            drafts=_planted,
        ),
        "nulls": World(classes=_NULL_CLASSES, about="labels drawn at random: nothing to find", drafts=_nulls),
    }
)
"""The data sets by name."""
