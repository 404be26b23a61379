"""Heat maps of images by the model that a run was made with: for report cards and for contact sheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import torch

from clipaudit.arrays import ArrayHolder, Bools, Float32s, Floats, Uint8s
from clipaudit.config import ModelConfig
from clipaudit.errors import RunMismatch, UsageError
from clipaudit.localize.frames import Frame, FramedPicture, PictureReader
from clipaudit.localize.overlay import overlaid
from clipaudit.localize.token_maps import TokenDecomposition
from clipaudit.model import describe_tower
from clipaudit.model.loading import Normaliser, load_model
from clipaudit.run.reader import Run
from clipaudit.schema import parse_head_label

Along: TypeAlias = tuple[Sequence[str], Floats]
"""Labels of heads, and a direction (1, D) for all of them."""
Scorer: TypeAlias = Callable[[Sequence[Uint8s]], tuple[Float32s, Bools]]
"""n images of `RunMaps.see` to the scores of their patches, and which are register-like: (n, rows, columns) each."""

BATCH: Final = 16
"""Images a forward pass."""
_ENDS: Final = (0.05, 0.98)
"""Shares of all patches below the darkest and the lightest colour."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SetMaps(ArrayHolder):
    """Maps of n images by S sets of heads for T directions; patches and what has no place sum to `totals`."""

    scores: Float32s
    """(n, S, T, rows, columns): what each patch adds."""
    totals: Float32s
    """(n, S, T): what the heads of a set add altogether, class and register tokens included."""
    products: Float32s
    """(n, T): of the whole unit embeddings with the directions."""
    outliers: Bools
    """(n, rows, columns): register-like patches."""


class RunMaps:
    """Draws what each patch adds, through chosen heads, along a direction.

    Raises UsageError when the run's model cannot be loaded or decomposed here, RunMismatch when the model of that name
    has other weights than the run's.
    """

    def __init__(self, run: Run, *, side: int, device: str = "auto") -> None:
        """`side`: pixels of a picture's longer side, as displayed. The model is loaded at once."""
        config = ModelConfig.of_run(run.manifest.identity, device=device)
        self._loaded = load_model(config)
        if self._loaded.fingerprint != run.manifest.model["fingerprint"]:
            raise RunMismatch(f"the model that {config.name} names here has other weights than the run's")
        self._reader = PictureReader(self._loaded.transform, describe_tower(self._loaded.model), display_side=side)
        self._normalise = Normaliser(self._reader.mean, self._reader.std, self._loaded.device)

    def read(self, data: bytes, name: str) -> FramedPicture | None:
        """An image file's bytes as displayed and as the model sees them; None when they cannot be decoded."""
        try:
            return self._reader.read(data, name)
        except UsageError:
            return None

    def see(self, data: bytes, name: str) -> tuple[Uint8s, Frame]:
        """The model's input, (h, w, 3) uint8, and where it lies in the image; UsageError when it cannot be decoded."""
        return self._reader.see(data, name)

    def scorer(self, heads: Sequence[str] | None, directions: Floats) -> Scorer:
        """Measures what each patch adds to the product of the unit embedding with a direction.

        Args:
            heads: labels of the heads that count; None for all of the model's.
            directions: (1, D) floats for all heads alike, or (heads, D) with one for each: their products are summed.

        UsageError when the tower lacks a head.
        """
        chosen = None if heads is None else [parse_head_label(head) for head in heads]
        maps = TokenDecomposition(self._loaded.model, chosen)
        along = torch.from_numpy(np.asarray(directions, np.float32)).to(self._loaded.device)

        def score(seen: Sequence[Uint8s]) -> tuple[Float32s, Bools]:
            parts = [self._batch(maps, seen[start : start + BATCH], along) for start in range(0, len(seen), BATCH)]
            return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

        return score

    def two(self, seen: Sequence[Uint8s], first: Along, second: Along) -> tuple[Float32s, Float32s, Bools]:
        """The scores of two sets of heads, each with its own direction, and the register-like patches, in one pass.

        Args:
            seen: images of `see`, at least one.
            first, second: labels of heads, and a direction (1, D) for all of them.

        Returns:
            (n, rows, columns) each: float32, float32 and bool.
        """
        maps = self.by_sets(seen, [first[0], second[0]], np.concatenate([first[1], second[1]]))
        return maps.scores[:, 0, 0], maps.scores[:, 1, 1], maps.outliers

    def by_sets(self, seen: Sequence[Uint8s], sets: Sequence[Sequence[str] | None], directions: Floats) -> SetMaps:
        """What each patch adds, through each of some sets of heads, along each direction, in one pass.

        Args:
            seen: images of `see`, at least one.
            sets: labels of the heads of each set; None for all of the model's.
            directions: (T, D) floats.

        UsageError when the tower lacks a head.
        """
        everything = any(heads is None for heads in sets)
        named = dict.fromkeys(head for heads in sets for head in heads or ())
        maps = TokenDecomposition(
            self._loaded.model, None if everything else [parse_head_label(each) for each in named]
        )
        labels = list(maps.labels)
        chosen = [
            list(range(len(labels))) if heads is None else [_place(labels, each) for each in heads] for heads in sets
        ]
        along = torch.from_numpy(np.asarray(directions, np.float32)).to(self._loaded.device)
        parts = []
        for start in range(0, len(seen), BATCH):
            by_head = maps.by_head(self._normalise(list(seen[start : start + BATCH])), along)
            totals = by_head.heads  # (B, heads, T)
            summed = (
                torch.stack([by_head.patches[:, places].sum(dim=1) for places in chosen], dim=1),
                torch.stack([totals[:, places].sum(dim=1) for places in chosen], dim=1),
                by_head.products,
            )
            parts.append((*(each.float().cpu().numpy() for each in summed), by_head.outliers.cpu().numpy()))
        scores, sums, products, outliers = (np.concatenate(part) for part in zip(*parts, strict=True))
        return SetMaps(scores=scores, totals=sums, products=products, outliers=outliers)

    def scores(self, pictures: Sequence[FramedPicture], heads: Sequence[str] | None, directions: Floats) -> Float32s:
        """(n, rows, columns) float32: what each patch of n >= 1 pictures adds; arguments as for `scorer`."""
        return self.scorer(heads, directions)([picture.seen for picture in pictures])[0]

    def __call__(
        self, pictures: Sequence[FramedPicture], heads: Sequence[str] | None, directions: Floats
    ) -> list[Uint8s]:
        """The pictures with their maps over them, all on one scale: (height, width, 3) uint8 RGB each; see `scorer`."""
        if not pictures:
            return []
        scores = self.scores(pictures, heads, directions)
        low, high = (float(value) for value in np.quantile(scores, _ENDS))
        return [
            overlaid(picture.display, patches, picture.frame, low=low, high=high)
            for picture, patches in zip(pictures, scores, strict=True)
        ]

    def _batch(self, maps: TokenDecomposition, seen: Sequence[Uint8s], along: torch.Tensor) -> tuple[Float32s, Bools]:
        pixels = self._normalise(list(seen))
        if len(along) == 1:
            result = maps(pixels, along)
            patches = result.patches[:, 0]
        else:  # (B, heads, directions, rows, columns): each head with its own direction
            result = maps.by_head(pixels, along)
            patches = result.patches.diagonal(dim1=1, dim2=2).sum(dim=-1)
        return patches.float().cpu().numpy(), result.outliers.cpu().numpy()


def _place(labels: Sequence[str], head: str) -> int:
    if head not in labels:
        raise UsageError(f"this tower has no head {head}: {labels[0]} to {labels[-1]}")
    return labels.index(head)
