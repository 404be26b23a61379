"""How much of what heads add comes from patches off the object: by image, and over images with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from clipaudit.arrays import Bools, Float64s, Floats

_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class OffObject:
    """The share off the object over images, weighed by their mass: images without mass say nothing of the place."""

    share: float
    """Of the images' positive mass, off the object, 0..1."""
    low: float
    high: float
    """95 % interval over clusters of images."""
    area: float
    """What the share would be if each image's mass were spread evenly over its area."""
    n: int
    """Images."""

    @property
    def supports(self) -> bool | None:
        """Whether more (True) or less (False) lies off the object than the area alone explains; None if neither is
        sure."""
        return True if self.low > self.area else False if self.high < self.area else None


def off_shares(scores: Floats, cover: Floats, left_out: Bools | None = None) -> tuple[Float64s, Float64s, Float64s]:
    """Each image's share of its positive mass, and of its area, off the object; and its mass.

    Args:
        scores: (n, patches) floats, what patches add; what is below 0 is no mass.
        cover: (n, patches) share of each patch that is object, 0..1; nan for padding, which counts as nothing.
        left_out: (n, patches) patches that count neither as mass nor as area: register-like ones, whose place means
            little.

    Returns:
        (n,) float64 each; shares 0..1, nan where an image has no mass, no object, or nothing but the object.
    """
    picture = np.isfinite(cover)
    counted = (picture if left_out is None else picture & ~left_out).astype(np.float64)
    by_patch = np.maximum(scores, 0).astype(np.float64) * counted
    off, mass = np.where(picture, 1 - cover.astype(np.float64), 0.0), by_patch.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (off * counted).sum(axis=1) / counted.sum(axis=1)
        share = (off * by_patch).sum(axis=1) / mass
    # where the object covers nothing, or everything, a share tells nothing
    known = np.isfinite(share) & (area > 0) & (area < 1)
    return np.where(known, share, np.nan), np.where(known, area, np.nan), mass


def off_object(share: Float64s, area: Float64s, mass: Float64s, cluster: npt.ArrayLike) -> OffObject | None:
    """The mass-weighted mean of the images' shares; images of one cluster, such as equal pictures, count as one draw.

    The interval is Student's over clusters, as wide as the share or its excess over the area asks for, whichever is
    more: `supports` compares both.

    Args:
        share, area, mass: (n,) of `off_shares`; images with nan are left out.
        cluster: (n,) which images belong together.

    Returns:
        None with fewer than two clusters.
    """
    known = np.isfinite(share)
    share, area, weight = share[known], area[known], mass[known] / max(mass[known].sum(), 1e-300)
    _, codes = np.unique(np.asarray(cluster)[known], return_inverse=True)
    groups = int(codes.max(initial=-1)) + 1
    if groups < 2:
        return None
    error = max(_error(share, weight, codes), _error(share - area, weight, codes))
    # Student's t with G - 1 degrees of freedom, G clusters
    half, mean = float(stats.t.ppf((1 + _LEVEL) / 2, groups - 1)) * error, float(weight @ share)
    return OffObject(
        share=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), area=float(weight @ area), n=len(share)
    )


def _error(values: Float64s, weight: Float64s, codes: npt.NDArray[np.intp]) -> float:
    """Standard error of the weighted mean of values (n,) drawn in clusters (n,) 0..G-1; weights sum to 1."""
    # sqrt(G / (G - 1) sum_g (sum_{i in g} w_i (x_i - m))^2): linearised, over G clusters
    sums = np.bincount(codes, weight * (values - weight @ values))
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)))
