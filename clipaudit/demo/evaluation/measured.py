"""One measured figure with interval, target and verdict; bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.statistics import Proportion

Interval: TypeAlias = tuple[float, float]
Unit: TypeAlias = Literal["%", "points", "", "s", "MB"]

RESAMPLES = 2000
"""Of every bootstrap."""
_DIGITS: dict[Unit, tuple[float, int]] = {"%": (100, 1), "points": (100, 1), "": (1, 3), "s": (1, 2), "MB": (1, 2)}
"""By unit: factor and decimals when a figure is shown."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The value that a figure must reach."""

    limit: float
    kind: Literal["at least", "at most", "above"] = "at least"
    """`above`: the whole interval must lie above the limit."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number. Shares and differences of shares are held as 0..1 and shown as per cent and points."""

    part: str
    """What the figure belongs to: `recognition`, `birds`, `mask`, `footprint`."""
    name: str
    value: float
    unit: Unit = "%"
    interval: Interval | None = None
    """95 %."""
    count: int | None = None
    """Images that it was measured on."""
    target: Target | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without one. Never met by a number that is not finite."""
        if self.target is None:
            return None
        if self.target.kind == "at most":
            return self.value <= self.target.limit
        if self.target.kind == "above":
            return self.interval is not None and self.interval[0] > self.target.limit
        return self.value >= self.target.limit

    def cells(self) -> dict[str, str]:
        """A row of a table: figure, target, measured, interval and whether it was reached, as texts."""
        unit = f" {self.unit}" if self.unit else ""
        target = f"{self.target.kind} {self._number(self.target.limit)}{unit}" if self.target else ""
        interval = " to ".join(self._number(end) for end in self.interval) if self.interval else ""
        verdict = {None: "", True: "yes", False: "no"}[self.reached]
        return {
            "figure": self.name,
            "target": target,
            "measured": f"{self._number(self.value)}{unit}",
            "95 % interval": interval,
            "reached": verdict,
        }

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "part": self.part,
            "name": self.name,
            "value": plain(self.value),
            "unit": {"%": "share", "points": "difference of shares"}.get(self.unit, self.unit),
            "interval": None if self.interval is None else [plain(end) for end in self.interval],
            "images": self.count,
            "target": None if self.target is None else {"kind": self.target.kind, "limit": self.target.limit},
            "reached": self.reached,
            "note": self.note,
        }

    def _number(self, value: float) -> str:
        factor, digits = _DIGITS[self.unit]
        return f"{value * factor:.{digits}f}"


def plain(value: float) -> float | None:
    """A number as JSON may hold it: six digits, None for what is not finite."""
    return round(float(value), 6) if math.isfinite(value) else None


def share(part: str, name: str, right: Proportion, at_least: float | None = None, note: str = "") -> Figure:
    """A share of right answers, 0..1, with Wilson's interval; `at_least` is its target."""
    return Figure(
        part=part,
        name=name,
        value=right.value,
        interval=right.interval(),
        count=right.total,
        target=None if at_least is None else Target(limit=at_least),
        note=note,
    )


def percentiles(values: npt.ArrayLike) -> Interval:
    """The central 95 % of resampled statistics; those that are nan (a group that was not drawn) are left out."""
    low, high = np.nanpercentile(np.asarray(values, np.float64), [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: npt.ArrayLike, seed: int = 0) -> Interval:
    """Bootstrap interval of the mean of (n,) independent values."""
    sample = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    return percentiles([rng.choice(sample, len(sample)).mean() for _ in range(RESAMPLES)])


def resampled_groups(
    right: Sequence[Bools], groups: Ints, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Float64s, Float64s]:
    """Paired bootstrap over images: the accuracy of every group under several settings.

    Args:
        right: for each of S settings, a mask (n,) of the images answered right; the same images in the same order.
        groups: (n,) group of each image, 0..G-1.
        resamples: R, how often n images are drawn with replacement.
        seed: of the draws.

    Returns:
        (R, S) float64 average accuracies and (R, S, G) float64 accuracies by group, nan where a group was not drawn.
    """
    answers = np.stack(right)  # (S, n)
    settings, images = answers.shape
    # an image counts by its group and its S answers alone, so drawing images is drawing counts of G x 2^S kinds
    pattern = (answers * (1 << np.arange(settings))[:, None]).sum(axis=0)
    kinds = 1 << settings
    cells = np.bincount(groups * kinds + pattern, minlength=(int(groups.max()) + 1) * kinds)
    drawn = np.random.default_rng(seed).multinomial(images, cells / images, size=resamples)
    by_group = drawn.reshape(resamples, -1, kinds)  # (R, G, 2^S)
    bits = (np.arange(kinds)[:, None] >> np.arange(settings)) & 1  # (2^S, S)
    hits = (by_group @ bits).transpose(0, 2, 1).astype(np.float64)  # (R, S, G)
    totals = np.broadcast_to(by_group.sum(axis=2)[:, None], hits.shape)
    accuracy = np.divide(hits, totals, out=np.full_like(hits, np.nan), where=totals > 0)
    return hits.sum(axis=2) / images, accuracy
