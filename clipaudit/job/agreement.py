"""How far a faster way of computing is from the plain one, measured on the job's own first shard before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch

from clipaudit.config import JobConfig
from clipaudit.errors import ShardError, UsageError
from clipaudit.job.staging import Staging
from clipaudit.model import Decomposer, Decomposition
from clipaudit.model.loading import LoadedModel
from clipaudit.schema import Shard
from clipaudit.shards.braces import expand_braces
from clipaudit.shards.decoder import ImageDecoder
from clipaudit.shards.feed import ShardFeed
from clipaudit.shards.fields import Fields
from clipaudit.shards.listing import expand

_IMAGES: Final = 64
_ROUNDS: Final = 3  # of either side, in turns, for the ratio of times


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Unit embeddings and head coordinates as asked for, against fp32 with images resized on the host."""

    shard: str
    images: int
    min_cosine: float
    """Between the two embeddings of an image, the least over the images."""
    largest_difference: float
    """Over all entries of the embeddings, which lie within -1..1."""
    largest_head_difference: float
    """Over all stored coordinates of all heads."""
    time_ratio: float
    """Of the model's time a batch, as asked for / fp32, on the machine that measured; below 1 is faster."""


def measure_if_asked(
    config: JobConfig, loaded: LoadedModel, decomposer: Decomposer, decoder: ImageDecoder
) -> dict[str, Any]:
    """`{"agreement": ...}` for run.json where an option trades exactness for speed (`--precision int8`,
    `--resize device`), else nothing.

    Raises UsageError when the least cosine is below `--min-agreement`, or when there is no image to measure it on.
    """
    options = []
    if config.model.precision == "int8":
        options.append("--precision int8")
    if config.decode.resize == "device":
        options.append("--resize device")
    if not options:
        return {}
    found = measure(config, loaded, decomposer, decoder)
    if not found.min_cosine >= config.model.min_agreement:  # nan is refused too
        raise UsageError(
            f"{' '.join(options)}: over {found.images} images of {found.shard} the least cosine with fp32 is"
            f" {found.min_cosine:.6f}, below --min-agreement {config.model.min_agreement:g}: leave the option out, or"
            " accept it by a lower limit"
        )
    return {"agreement": asdict(found)}


def measure(config: JobConfig, loaded: LoadedModel, decomposer: Decomposer, decoder: ImageDecoder) -> Agreement:
    """Compare on up to 64 images of the first shard. Raises UsageError when it holds none that can be read."""
    shard = first_shard(config)
    plain_decoder = ImageDecoder(loaded.transform, replace(config.decode, resize="host"))
    plain = Decomposer(loaded.model, layers=decomposer.layers)
    kept: list[Decomposition] = []
    runs: list[Callable[[], object]] = []
    count = 0
    for side, decode in ((plain, plain_decoder), (decomposer, decoder)):
        images = _images(config, shard, decode)
        count = len(images)
        if not count:
            raise UsageError(f"{shard.url} holds no image that the error of a faster option could be measured on")
        held: list[Decomposition] = []

        def compute(pixels: torch.Tensor, side: Decomposer = side, held: list[Decomposition] = held) -> dict[str, Any]:
            held[:] = [side(pixels)]
            return {"embedding": held[0].embedding}

        staging = Staging(decode, loaded.device, compute)
        runs.append(lambda staging=staging, images=images: staging.submit(images).wait())  # type: ignore[misc]
        runs[-1]()
        kept += held
    seconds = _alternate(runs)
    before, after = kept
    cosine = (before.embedding * after.embedding).sum(dim=-1)
    return Agreement(
        shard=shard.url,
        images=count,
        min_cosine=float(cosine.min()),
        largest_difference=float((before.embedding - after.embedding).abs().max()),
        largest_head_difference=float((before.heads - after.heads).abs().max()),
        time_ratio=seconds[1] / seconds[0],
    )


def first_shard(config: JobConfig) -> Shard:
    """The first shard of a job, without looking for the others where they are named one by one."""
    return expand([expand_braces(config.shards[0])[0]])[0]


def _images(config: JobConfig, shard: Shard, decoder: ImageDecoder) -> list[Any]:
    images = []
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
    """The least seconds of each, in turns."""
    best = [float("inf")] * len(runs)
    for _ in range(_ROUNDS):
        for place, run in enumerate(runs):
            started = time.perf_counter()
            run()
            best[place] = min(best[place], time.perf_counter() - started)
    return best
