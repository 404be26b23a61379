"""Heat maps of images by the model that a run was made with: for report cards and for contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from clipaudit.config import ModelConfig
from clipaudit.decomposer import describe
from clipaudit.errors import RunMismatch, UsageError
from clipaudit.localize.frames import Picture, PictureReader
from clipaudit.localize.maps import TokenDecomposition
from clipaudit.localize.overlay import overlaid
from clipaudit.model import Normaliser, load_model
from clipaudit.run import Run
from clipaudit.schema import parse_head_label

Float32s = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

_BATCH: Final = 16
_ENDS: Final = (0.05, 0.98)
"""Shares of all patches below the darkest and the lightest colour."""


class RunMaps:
    """Draws what each patch adds, through chosen heads, along a direction.

    Raises UsageError when the run's model cannot be loaded or decomposed here, RunMismatch when the model of that name
    has other weights than the run's.
    """

    def __init__(self, run: Run, *, side: int, device: str = "auto") -> None:
        """`side`: pixels of a picture's longer side, as displayed. The model is loaded at once."""
        asked = run.manifest.identity
        config = ModelConfig(name=asked["model"], pretrained=asked.get("pretrained"), device=device)
        self._loaded = load_model(config)
        if self._loaded.fingerprint != run.manifest.model["fingerprint"]:
            raise RunMismatch(f"the model that {config.name} names here has other weights than the run's")
        self._reader = PictureReader(self._loaded.transform, describe(self._loaded.model), shown=side)
        self._normalise = Normaliser(self._reader.mean, self._reader.std, self._loaded.device)

    def read(self, data: bytes, name: str) -> Picture | None:
        """An image file's bytes as displayed and as the model sees them; None when they cannot be decoded."""
        try:
            return self._reader.read(data, name)
        except UsageError:
            return None

    def scores(
        self, pictures: Sequence[Picture], heads: Sequence[str] | None, directions: npt.NDArray[np.floating[Any]]
    ) -> Float32s:
        """(n, rows, columns) what each patch adds to the product of the unit embedding with a direction.

        Args:
            pictures: of `read`, at least one.
            heads: labels of the heads that count; None for all of the model's.
            directions: (1, D) for all heads alike, or (heads, D) with one for each: their products are summed.
        """
        chosen = None if heads is None else [parse_head_label(head) for head in heads]
        maps = TokenDecomposition(self._loaded.model, chosen)
        along = torch.from_numpy(np.asarray(directions, np.float32)).to(self._loaded.device)
        found = [
            self._batch(maps, pictures[start : start + _BATCH], along) for start in range(0, len(pictures), _BATCH)
        ]
        return np.concatenate(found)

    def __call__(
        self, pictures: Sequence[Picture], heads: Sequence[str] | None, directions: npt.NDArray[np.floating[Any]]
    ) -> list[Pixels]:
        """The pictures with their maps over them, all on one scale: (height, width, 3) RGB each; as for `scores`."""
        if not pictures:
            return []
        scores = self.scores(pictures, heads, directions)
        low, high = (float(value) for value in np.quantile(scores, _ENDS))
        return [
            overlaid(picture.shown, one, picture.frame, low=low, high=high)
            for picture, one in zip(pictures, scores, strict=True)
        ]

    def _batch(self, maps: TokenDecomposition, pictures: Sequence[Picture], along: torch.Tensor) -> Float32s:
        pixels = self._normalise([picture.seen for picture in pictures])
        if len(along) == 1:
            patches = maps(pixels, along).patches[:, 0]
        else:  # (B, heads, directions, rows, columns): each head with its own direction
            patches = maps.by_head(pixels, along).patches.diagonal(dim1=1, dim2=2).sum(dim=-1)
        found: Float32s = patches.float().cpu().numpy()
        return found
