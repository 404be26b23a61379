"""Whether a noun's heat map lies on its object: pixel AUC of the map against the true mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from clipaudit.arrays import Float32s, Float64s
from clipaudit.demo.evaluation.measured import Figure, Target, mean_interval
from clipaudit.demo.evaluation.questions import noun_prompts
from clipaudit.demo.evaluation.recognition import ImageEncoder, fresh
from clipaudit.demo.world import nouns
from clipaudit.demo.world.backgrounds import SIZE
from clipaudit.demo.world.scenes import draw_scene, render
from clipaudit.localize import TokenDecomposition, enlarged
from clipaudit.localize.evaluation.metrics import pixel_auc

_BATCH = 64


def heat_maps(
    encoder: ImageEncoder, tokens: TokenDecomposition, pixels: list[npt.NDArray[np.uint8]], texts: Float32s
) -> Float32s:
    """(B, T, SIZE, SIZE) float32: what each place of B images adds to the product with each text (docs/method.md 4).

    pixels: B images, (SIZE, SIZE, 3) uint8; texts: (T, D) unit vectors. All heads of all layers; the class token's own
    part has no place and is left out. Bilinear between patches.
    """
    images = encoder.normalise(list(pixels))
    patches = tokens(images, torch.from_numpy(texts).to(images.device)).patches
    maps: Float32s = enlarged(patches, (SIZE, SIZE)).cpu().numpy()
    return maps


def object_masks(encoder: ImageEncoder, *, count: int, seed: int) -> list[Figure]:
    """Figures: mean pixel AUC over photographs of one object in seen art, beside control maps."""
    aucs = _aucs(encoder, count, seed)
    aucs = aucs[np.isfinite(aucs).all(axis=1)]
    own, other, against, centre = aucs.T

    def figure(name: str, values: Float64s, limit: float | None = None, note: str = "") -> Figure:
        return Figure(
            part="mask",
            name=name,
            value=float(values.mean()),
            unit="",
            interval=mean_interval(values, seed),
            count=len(values),
            target=None if limit is None else Target(limit=limit, kind="above"),
            note=note,
        )

    return [
        figure("pixel AUC of the noun's heat map", own, 0.5),
        figure("another noun's heat map", other, note="control: the map of a noun that is not there, drawn by chance"),
        figure("nearness to the image's centre", centre, note="control: objects are seldom at the edge"),
        figure("the noun's map less another noun's", own - other, 0.0, "difference image by image"),
        figure("the noun's map less nearness to the centre", own - centre, 0.0, "difference image by image"),
        figure("the noun less the mean of all nouns", against, 0.5, "what all nouns share is taken away"),
    ]


def _aucs(encoder: ImageEncoder, count: int, seed: int) -> Float64s:
    """(count, 4) by image: the noun's map, another noun's, the noun's less the mean of all nouns', and the centre."""
    rng = fresh(seed, "masks")
    prompts = noun_prompts()
    texts = encoder.options([prompts[noun] for noun in nouns.NOUNS])
    tokens = TokenDecomposition(encoder.model)
    square = (np.arange(SIZE) - (SIZE - 1) / 2) ** 2
    centre = -(square[:, None] + square[None, :])
    rows: list[list[float]] = []
    for first in range(0, count, _BATCH):
        truths = [number % len(nouns.NOUNS) for number in range(first, min(first + _BATCH, count))]
        scenes = [draw_scene(rng, noun=nouns.NOUNS[truth], photo=1.0) for truth in truths]
        images = [render(scene, rng) for scene in scenes]
        maps = heat_maps(encoder, tokens, [pixels for pixels, _ in images], texts)
        for truth, (_, mask), by_noun in zip(truths, images, maps, strict=True):
            other_noun = (truth + int(rng.integers(1, len(nouns.NOUNS)))) % len(nouns.NOUNS)
            candidates = (by_noun[truth], by_noun[other_noun], by_noun[truth] - by_noun.mean(axis=0), centre)
            rows.append([pixel_auc(candidate, mask > 0) for candidate in candidates])
    return np.array(rows)
