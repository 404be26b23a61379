"""Whether heads that tell objects look at objects, and heads that tell places look elsewhere: shares and their null."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from torch import Tensor

from clipaudit.arrays import Float32s, Float64s
from clipaudit.errors import UsageError
from clipaudit.localize.evaluation.segmentation import Normalise, batches
from clipaudit.localize.masks import Masked, covered
from clipaudit.localize.token_maps import TokenDecomposition

Kind: TypeAlias = Literal["object", "place"]

_PERMUTATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class HeadPlace:
    """What one head tells apart, and how much of its map lies on the object."""

    head: str
    kind: Kind
    """What the head tells better, by what it adds to the right text over the mean of all; no mask is read for it."""
    adds: float
    """What it adds to the right text over the mean of all, in cosine, averaged over images."""
    inside: float
    """Share of its map for the right text (the positive part) that lies on the object, 0..1."""
    null: float
    """Mean of that share with each image's map on another image's mask."""
    p: float
    """(1 + permutations at least as far to the expected side) / (1 + permutations): inside for objects, outside for
    places."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadPlaces:
    """All heads."""

    heads: tuple[HeadPlace, ...]
    images: int
    covered: float
    """Mean share of an image that the object covers."""

    def of(self, kind: Kind) -> tuple[HeadPlace, ...]:
        """The heads of one kind, the strongest first."""
        return tuple(sorted((head for head in self.heads if head.kind == kind), key=lambda head: -head.adds))


def places_of_heads(
    samples: Iterable[Masked],
    tokens: TokenDecomposition,
    texts: dict[Kind, Tensor],
    values: Mapping[Kind, Sequence[str]],
    normalise: Normalise,
    *,
    batch_size: int = 32,
    on_images: Callable[[int], None] = lambda _: None,
) -> HeadPlaces:
    """Measure every head of a decomposition.

    Args:
        samples: images with masks and the attributes `object` and `place`.
        tokens: of all heads.
        texts: by kind, (T, D) unit vectors of its values.
        values: by kind, the values of the attribute, in the order of the texts.
        normalise: pixels to the model's input.
        batch_size: images a forward pass.
        on_images: called with the number of images after each batch.

    Raises:
        UsageError: fewer than two images that can be used.
    """
    contrasts: dict[Kind, Tensor] = {kind: vectors - vectors.mean(dim=0) for kind, vectors in texts.items()}
    mass: dict[Kind, list[Float32s]] = {kind: [] for kind in texts}
    adds: dict[Kind, list[Float32s]] = {kind: [] for kind in texts}
    cover: list[Float32s] = []
    for batch in batches(samples, batch_size):
        pixels = normalise([sample.seen for sample in batch])
        maps = {kind: tokens.by_head(pixels, vectors) for kind, vectors in contrasts.items()}
        for number, sample in enumerate(batch):
            assert sample.mask is not None
            for kind, by_head in maps.items():
                text = list(values[kind]).index(str(sample.attributes[kind]))
                mass[kind].append(by_head.patches[number, :, text].relu().flatten(1).cpu().numpy())  # (heads, patches)
                adds[kind].append(by_head.heads[number, :, text].cpu().numpy())
            cover.append(covered(sample.mask, (by_head.patches.shape[-2], by_head.patches.shape[-1])))
        on_images(len(cover))
    if len(cover) < 2:
        raise UsageError("at least two images with masks and both attributes are needed")
    return _result(tokens.labels, mass, adds, np.stack(cover))


def shares(mass: Float32s, cover: Float32s, permutations: int, seed: int = 0) -> tuple[float, Float64s]:
    """The share of n maps that lies on their own masks, and on permuted ones.

    Args:
        mass: (n, patches) float32, 0 or more.
        cover: (n, patches) share of each patch that the object covers, 0..1; nan for padding, which has no mass.
        permutations: R.
        seed: of the permutations.

    Returns:
        The share, 0..1, nan of no mass; and (R,) float64, those with masks permuted over images.
    """
    mass = np.where(np.isfinite(cover), mass, 0.0)
    # where another image's mask has padding, it says nothing of this one's picture: not on its object
    inside = np.nan_to_num(cover)
    total, rng = float(mass.sum(dtype=np.float64)), np.random.default_rng(seed)
    if total == 0:
        return float("nan"), np.full(permutations, np.nan)
    drawn = [float((mass * inside[rng.permutation(len(cover))]).sum()) / total for _ in range(permutations)]
    return float((mass * inside).sum()) / total, np.array(drawn)


def _result(
    labels: Sequence[str], mass: dict[Kind, list[Float32s]], adds: dict[Kind, list[Float32s]], cover: Float32s
) -> HeadPlaces:
    stacked = {kind: np.stack(rows) for kind, rows in mass.items()}  # (n, heads, patches)
    # The texts of one kind differ more than those of the other, so each kind is divided by its own sum over heads.
    mean: dict[Kind, Float64s] = {kind: np.stack(rows).astype(np.float64).mean(axis=0) for kind, rows in adds.items()}
    scale = {kind: max(float(np.abs(rows).sum()), 1e-12) for kind, rows in mean.items()}
    heads = []
    for number, label in enumerate(labels):
        kind: Kind = max(mean, key=lambda kind: mean[kind][number] / scale[kind])
        inside, null = shares(stacked[kind][:, number], cover, _PERMUTATIONS, seed=number)
        further = (null >= inside) if kind == "object" else (null <= inside)
        heads.append(
            HeadPlace(
                head=label,
                kind=kind,
                adds=float(mean[kind][number]),
                inside=inside,
                null=float(null.mean()),
                p=float((1 + further.sum()) / (1 + _PERMUTATIONS)),
            )
        )
    return HeadPlaces(heads=tuple(heads), images=len(cover), covered=float(np.nanmean(cover)))
