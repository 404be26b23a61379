"""`check --model`: read some images from their shards again, compute their vectors and compare them with the stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipaudit.arrays import Uint8s
from clipaudit.config import DecodeConfig, ModelConfig
from clipaudit.errors import ShardUnreadable
from clipaudit.model import Decomposer, Decomposition
from clipaudit.model.loading import Normaliser, load_model
from clipaudit.run.reader import Run
from clipaudit.run.stored_images import StoredImages
from clipaudit.schema import OK, Shard, head_label, parse_head_label
from clipaudit.shards.decoder import ImageDecoder, ImageTooLarge, ImageUndecodable

_SHARDS, _IMAGES = 4, 8
# By precision. Storage in float16 rounds to 2^-11 of a value; another device, batch size or precision rounds more.
# Wrong weights, pixels or columns give differences far above these.
_TOLERANCE = {"fp32": 2e-3, "bf16": 3e-2, "fp16": 1e-2, "int8": 1e-2}


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """How far computed images are from stored ones."""

    images: int
    """Number of images compared."""
    largest_difference: float
    """Largest absolute difference over all entries of embeddings and head coordinates, which lie within -1..1."""
    problems: list[str]
    """One sentence for each shard whose images differ by more than rounding, or for other weights."""


def recompute(path: str) -> Recomputed:
    """Recompute up to 8 images of up to 4 shards of a run, evenly spread, and compare embeddings and every stored head.

    A shard that is gone, rewritten or reordered since the run is a problem, told in one sentence. Raises UnknownModel
    or UsageError when the run's model cannot be loaded here, and IntegrityError when a file of the run is damaged.
    """
    run = Run(path)
    identity = run.manifest.identity
    precision = identity["precision"]
    # int8 runs on CPUs alone, and what it stores can be computed anew only there.
    device = "cpu" if precision == "int8" else "auto"
    loaded = load_model(ModelConfig.of_run(identity, precision=precision, device=device))
    if loaded.fingerprint != run.manifest.model["fingerprint"]:
        problem = f"the model that {identity['model']} names here has other weights than the run's"
        return Recomputed(images=0, largest_difference=0.0, problems=[problem])
    layers = sorted({parse_head_label(name)[0] for name in run.head_labels})
    decomposer = Decomposer(loaded.model, layers=layers, precision=precision)
    config = DecodeConfig(
        max_image_pixels=identity["max_image_pixels"],
        allow_truncated_images=bool(identity.get("allow_truncated_images")),
    )
    decoder = ImageDecoder(loaded.transform, config)
    normalise = Normaliser(decoder.mean, decoder.std, loaded.device)
    stored, images, largest, problems = StoredImages(run), 0, 0.0, []
    for shard in _spread(list(run.records), _SHARDS):
        table = run.table(["status", "key", "offset", "nbytes"], shard)
        rows = [row for row in table.to_pylist() if row["status"] == OK]
        chosen = _spread(list(range(len(rows))), _IMAGES)
        try:
            pixels = [_decoded(stored, decoder, run.manifest.shards[shard], rows[place]) for place in chosen]
        except ShardUnreadable as error:
            problems.append(f"{error}, so its images cannot be compared with the run")
            continue
        if pixels:
            worst, column = _largest_difference(run, shard, chosen, decomposer(normalise(pixels)))
            images, largest = images + len(chosen), max(largest, worst)
            if worst > _TOLERANCE[precision]:
                url = run.manifest.shards[shard].url
                problems.append(f"{column} of images of {url} differs by {worst:.1e} from what the model gives now")
    return Recomputed(images=images, largest_difference=largest, problems=problems)


def _decoded(stored: StoredImages, decoder: ImageDecoder, shard: Shard, row: dict[str, Any]) -> Uint8s:
    """(H, W, 3) pixels of a row's image; ShardUnreadable when the shard does not hold it where it was."""
    try:
        return decoder(stored.read(shard.id, row["offset"], row["nbytes"])).image
    except (ImageUndecodable, ImageTooLarge) as error:
        # the shard was rewritten with its size and time as they were
        raise ShardUnreadable(f"{shard.url}: there is no image where that of {row['key']} was ({error})") from error


def _largest_difference(run: Run, shard: int, chosen: list[int], out: Decomposition) -> tuple[float, str]:
    """The largest difference of computed from stored values over all entries of `chosen` ok rows, and its column."""
    layers = sorted({parse_head_label(name)[0] for name in run.head_labels})
    computed = {"embedding": out.embedding.float().cpu().numpy()}
    heads = out.heads.float().cpu().numpy()  # (n, layers, heads, dh)
    for position, layer in enumerate(layers):
        computed |= {head_label(layer, head): heads[:, position, head] for head in range(heads.shape[2])}
    return max(
        (float(np.abs(run.vectors(name, (), shard).values[chosen] - values).max()), name)
        for name, values in computed.items()
    )


def _spread(items: list[int], count: int) -> list[int]:
    """At most `count` (2 or more) of the items, evenly spread, first and last among them."""
    if len(items) <= count:
        return items
    return [items[round(n * (len(items) - 1) / (count - 1))] for n in range(count)]
