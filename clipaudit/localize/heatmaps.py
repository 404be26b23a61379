"""Scores of patches to pictures' sizes: min-max scaling, bilinear maps, point prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipaudit.arrays import ArrayHolder, Floats, Ints, Uint8s
from clipaudit.errors import UsageError


def min_max(scores: Tensor) -> Tensor:
    """Maps (..., rows, columns), each scaled to 0..1 by its own least and largest value; a constant map becomes 0."""
    low, high = scores.amin(dim=(-2, -1), keepdim=True), scores.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (scores - low) / span.clamp_min(torch.finfo(scores.dtype).tiny), 0.0)


def ends_of_parts(scores: Floats) -> tuple[float, float]:
    """The least and the largest of maps (..., rows, columns) of parts of a sum, with 0 between: one scale for all."""
    return min(float(scores.min()), 0.0), max(float(scores.max()), 0.0)


def enlarged(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear between the patches' centres: (B, T, rows, columns) -> (B, T, height, width)."""
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Points(ArrayHolder):
    """Point prompts for a segmenter such as SAM."""

    xy: Ints
    """(P, 2): columns and rows in pixels; positive ones first, in ascending order of their score."""
    labels: Uint8s
    """(P,): 1 on what the text means, 0 off it; as many of each."""


def points(scores: Tensor, size: tuple[int, int], *, threshold: float = 0.8, smooth: int = 2) -> Points:
    """The places that speak most and least for a text (arXiv 2304.05653, points for SAM).

    The map is made `smooth` times smaller, scaled to 0..1, and its cells at or above `threshold` become positive
    points at their centres (half of the cells at most), and the same number of the lowest cells negative ones.

    Args:
        scores: (rows, columns) floats, the map of one text.
        size: height and width of the picture that the points are for, in pixels.
        threshold: 0..1, of the scaled map.
        smooth: how many times smaller the map is made first.

    Raises:
        UsageError: a threshold that is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"the threshold of points must be above 0 and at most 1, not {threshold:g}")
    rows, columns = max(scores.shape[0] // smooth, 1), max(scores.shape[1] // smooth, 1)
    cells = min_max(enlarged(scores[None, None].float(), (rows, columns)))[0, 0].flatten()
    # never more than half of the cells, so that no cell is both positive and negative
    count = min(int((cells >= threshold).sum()), len(cells) // 2)
    order = cells.argsort(stable=True).cpu().numpy()
    chosen = np.concatenate([order[len(order) - count :], order[:count]])
    # centres of the cells in the picture's pixels
    x = np.minimum((chosen % columns + 0.5) * size[1] / columns, size[1] - 1)
    y = np.minimum((chosen // columns + 0.5) * size[0] / rows, size[0] - 1)
    labels = np.concatenate([np.ones(count, np.uint8), np.zeros(count, np.uint8)])
    return Points(xy=np.stack([x, y], axis=1).astype(np.int64), labels=labels)
