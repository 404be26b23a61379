"""Zero-shot recognition of every factor of freshly drawn scenes, and the model behind it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from open_clip import CLIP

from clipaudit.arrays import Float32s, Ints
from clipaudit.config import ModelConfig
from clipaudit.demo.evaluation.measured import Figure, Target, share
from clipaudit.demo.evaluation.questions import ModelQuestion
from clipaudit.demo.world.backgrounds import SIZE
from clipaudit.demo.world.scenes import Scene, render
from clipaudit.demo.world.styles import Image8
from clipaudit.errors import UsageError
from clipaudit.heads.texts.encoder import Tokenizer, encode_texts, load_tokenizer
from clipaudit.model.loading import LoadedModel, Normaliser, load_model
from clipaudit.model.names import resolve
from clipaudit.statistics import Proportion

_FRESH = 0x6672657368
"""First word of every seed here: no training batch, whose seeds are (seed, step), draws the same images."""
_BATCH = 64
"""Images encoded at a time."""


@dataclass(frozen=True, kw_only=True)
class ImageEncoder:
    """Encodes images and texts of the demo as unit vectors in R^D."""

    config: ModelConfig
    loaded: LoadedModel
    tokenizer: Tokenizer
    normalise: Normaliser
    cache: dict[str, Float32s] = field(default_factory=dict, repr=False)
    """(D,) by text: questions share many texts."""

    @classmethod
    def load(cls, config: ModelConfig) -> ImageEncoder:
        """Load the model that `config` names; UsageError when that fails or it takes images of another size."""
        loaded = load_model(config)
        preprocess = loaded.description["preprocess"]
        if preprocess["size"] not in (SIZE, [SIZE, SIZE]):
            raise UsageError(
                f"--model {config.name} takes images of {preprocess['size']} pixels, and the demo's have {SIZE}"
            )
        normalise = Normaliser(tuple(preprocess["mean"]), tuple(preprocess["std"]), loaded.device)
        return cls(config=config, loaded=loaded, tokenizer=load_tokenizer(config), normalise=normalise)

    @property
    def model(self) -> CLIP:
        """The loaded model; UsageError when it is not an open_clip `CLIP`."""
        model = self.loaded.model
        if not isinstance(model, CLIP):
            raise UsageError(f"{self.config.name} is not a CLIP model as the demo model is")
        return model

    def texts(self, texts: Sequence[str]) -> Float32s:
        """(T, D) float32 unit vectors of texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self.cache]
        self.cache.update(zip(new, encode_texts(self.loaded, self.tokenizer, new, batch_size=512), strict=True))
        return np.stack([self.cache[text] for text in texts])

    def options(self, prompts: Sequence[Sequence[str]]) -> Float32s:
        """(C, D) float32 unit vectors of options: the mean direction of each option's phrasings."""
        vectors = self.texts([text for texts in prompts for text in texts])
        ends = np.cumsum([len(texts) for texts in prompts])[:-1]
        means = np.stack([part.mean(axis=0, dtype=np.float64) for part in np.split(vectors, ends)])
        unit: Float32s = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
        return unit

    @torch.inference_mode()
    def images(self, pixels: Sequence[Image8]) -> Float32s:
        """(n, D) float32 unit vectors of n images, (64, 64, 3) uint8 sRGB each."""
        features = self.model.encode_image(self.normalise(list(pixels)), normalize=True)
        vectors: Float32s = features.float().cpu().numpy()
        return vectors


def fresh(seed: int, name: str) -> np.random.Generator:
    """A random generator for one purpose (`name`), independent of others and of every training."""
    return np.random.Generator(np.random.PCG64([_FRESH, seed, zlib.crc32(name.encode())]))


def drawn(question: ModelQuestion, held_out: bool, count: int, seed: int) -> Iterator[tuple[int, Scene, Image8]]:
    """`count` images in turn of every option: the option's number, the scene, and (64, 64, 3) uint8 pixels."""
    rng = fresh(seed, f"{question.name}, {'held-out' if held_out else 'seen'} art")
    options = question.drawable(held_out)
    for number in range(count):
        option = options[number % len(options)]
        scene = question.scene(rng, option, held_out)
        yield question.options.index(option), scene, render(scene, rng)[0]


def answers(
    encoder: ImageEncoder, question: ModelQuestion, classes: Float32s, held_out: bool, *, count: int, seed: int
) -> Ints:
    """(count,) int64 place of the truth among all options, 0 for the best match.

    classes: (C, D) unit vectors of the options.
    """
    ranks: list[Ints] = []
    truths: list[int] = []
    pixels: list[Image8] = []
    for truth, _, image in drawn(question, held_out, count, seed):
        truths.append(truth)
        pixels.append(image)
        if len(pixels) == _BATCH:
            ranks.append(_places(encoder.images(pixels) @ classes.T, truths))
            truths, pixels = [], []
    if pixels:
        ranks.append(_places(encoder.images(pixels) @ classes.T, truths))
    return np.concatenate(ranks)


def recognition(encoder: ImageEncoder, question: ModelQuestion, *, count: int, seed: int) -> list[Figure]:
    """Every figure of one question: seen and held-out art, top 1 and more."""
    figures = []
    classes = encoder.options([question.prompts[option] for option in question.options])
    for held_out in question.arts:
        places = answers(encoder, question, classes, held_out, count=count, seed=seed)
        for top in question.tops:
            words = [f"{question.name}, {len(question.options)}-way"]
            words += [f"top {top}"] if len(question.tops) > 1 else []
            words += [["seen art", "unseen art"][held_out]] if len(question.arts) > 1 else []
            right = Proportion(right=int((places < top).sum()), total=len(places))
            figures.append(share("recognition", ", ".join(words), right, question.targets.get((held_out, top))))
    return figures


def footprint(config: ModelConfig, times: int = 5) -> list[Figure]:
    """Figures: the time to load the model once Python's modules are imported, and the size of its files.

    UsageError for a model that is not a directory.
    """
    name, _, _ = resolve(config)
    folder = Path(name.removeprefix("local-dir:"))
    if not folder.is_dir():
        raise UsageError(f"--model {config.name} is not a directory: give an open_clip directory, or demo")
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        ImageEncoder.load(config)
        seconds.append(time.perf_counter() - begun)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6
    ends = (min(seconds), max(seconds))
    load = float(np.median(seconds))
    return [
        Figure(
            part="footprint",
            name="load time of model and tokenizer",
            value=load,
            unit="s",
            target=Target(limit=2, kind="at most"),
            note=f"median of {times} loads in one process, {ends[0]:.2f} to {ends[1]:.2f} s; imports not included",
        ),
        Figure(part="footprint", name="size on disk", value=size, unit="MB", target=Target(limit=10, kind="at most")),
    ]


def _places(similarity: Float32s, truths: Sequence[int]) -> Ints:
    """(n,) int64 how many options match better than the true one, from similarities (n, C)."""
    own = similarity[np.arange(len(truths)), truths]
    ranks: Ints = (similarity > own[:, None]).sum(axis=1).astype(np.int64)
    return ranks
