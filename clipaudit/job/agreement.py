"""How far the results of a faster option are from those of fp32, measured on the job's first shard before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

from clipaudit.arrays import Uint8s
from clipaudit.config import JobConfig
from clipaudit.errors import ShardError, UsageError
from clipaudit.job.fields import first_shard
from clipaudit.job.staging import Staging
from clipaudit.model import Decomposer, Decomposition
from clipaudit.model.loading import LoadedModel
from clipaudit.schema import Shard
from clipaudit.shards.decoder import ImageDecoder
from clipaudit.shards.feed import ShardFeed
from clipaudit.shards.fields import Fields

_IMAGES: Final = 64
_ROUNDS: Final = 3  # timings of either side, in turns


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Unit embeddings and head coordinates as asked for, against fp32 with images resized on the host."""

    shard: str
    """URL of the shard that the images are from."""
    images: int
    """Number of images compared."""
    min_cosine: float
    """Smallest cosine, over the images, between the two embeddings of an image."""
    largest_difference: float
    """Largest absolute difference over all entries of the unit embeddings, which lie within -1..1."""
    largest_head_difference: float
    """Largest absolute difference over all stored coordinates of all heads."""
    time_ratio: float
    """The model's seconds a batch with the options / with fp32, on the worker's machine; below 1 is faster."""


def measure_if_asked(
    config: JobConfig, loaded: LoadedModel, decomposer: Decomposer, decoder: ImageDecoder
) -> Agreement | None:
    """`measure` where an option trades exactness for speed, and None where no such option is used.

    Such options are `--precision int8` and `--resize device`. Raises UsageError when the smallest cosine is below
    `--min-agreement`, or when there is no image to measure it on.
    """
    options = []
    if config.model.precision == "int8":
        options.append("--precision int8")
    if config.decode.resize == "device":
        options.append("--resize device")
    if not options:
        return None
    agreement = measure(config, loaded, decomposer, decoder)
    if not agreement.min_cosine >= config.model.min_agreement:  # written so that nan is refused too
        raise UsageError(
            f"{' '.join(options)}: over {agreement.images} images of {agreement.shard} the least cosine with fp32 is"
            f" {agreement.min_cosine:.6f}, below --min-agreement {config.model.min_agreement:g}: leave the option out,"
            " or accept it by a lower limit"
        )
    return agreement


def measure(config: JobConfig, loaded: LoadedModel, decomposer: Decomposer, decoder: ImageDecoder) -> Agreement:
    """Compare fp32 and resizing on the host with `decomposer` and `decoder` on up to 64 images of the first shard.

    Raises UsageError when the shard holds no image that can be decoded.
    """
    shard = first_shard(config)
    reference = _Side(
        config,
        shard,
        loaded,
        Decomposer(loaded.model, layers=decomposer.layers),
        ImageDecoder(loaded.transform, replace(config.decode, resize="host")),
    )
    option = _Side(config, shard, loaded, decomposer, decoder)
    reference.run()  # the first run of each gives the results; only later ones are timed
    option.run()
    expected, actual = reference.result, option.result
    assert expected is not None
    assert actual is not None
    seconds = _alternate([reference.run, option.run])
    cosine = (expected.embedding * actual.embedding).sum(dim=-1)  # of unit vectors
    return Agreement(
        shard=shard.url,
        images=len(option.images),
        min_cosine=float(cosine.min()),
        largest_difference=float((expected.embedding - actual.embedding).abs().max()),
        largest_head_difference=float((expected.heads - actual.heads).abs().max()),
        time_ratio=seconds[1] / seconds[0],
    )


class _Side:
    """One of the two ways of computing, with the images as its decoder gives them."""

    def __init__(
        self, config: JobConfig, shard: Shard, loaded: LoadedModel, decomposer: Decomposer, decoder: ImageDecoder
    ) -> None:
        self.images = _images(config, shard, decoder)
        if not self.images:
            raise UsageError(f"{shard.url} holds no image that the error of a faster option could be measured on")
        self.result: Decomposition | None = None
        self._decomposer = decomposer
        self._staging = Staging(decoder, loaded.device, self._compute)

    def run(self) -> None:
        """Compute all images as one batch, and wait for the result."""
        self._staging.submit(self.images).wait()

    def _compute(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.result = self._decomposer(pixels)
        return {"embedding": self.result.embedding}


def _images(config: JobConfig, shard: Shard, decoder: ImageDecoder) -> list[Uint8s]:
    """Up to 64 decoded images of a shard, (H, W, 3) uint8 each."""
    images: list[Uint8s] = []
    try:
        with ShardFeed(shard, Fields(), decoder, config.decode) as feed:
            for sample in feed:
                if sample.image is not None:
                    images.append(sample.image)
                    if len(images) == _IMAGES:
                        break
    except ShardError as error:
        raise UsageError(f"the error of a faster option could not be measured: {error}") from error
    return images


def _alternate(runs: list[Callable[[], object]]) -> list[float]:
    """The shortest of several times of each, in seconds; in turns, so that a busy moment of the machine hits all."""
    shortest = [float("inf")] * len(runs)
    for _ in range(_ROUNDS):
        for number, run in enumerate(runs):
            started = time.perf_counter()
            run()
            shortest[number] = min(shortest[number], time.perf_counter() - started)
    return shortest
