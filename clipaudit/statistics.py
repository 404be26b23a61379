"""Statistics that several rooms need: proportions with their intervals, false-discovery correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, false_discovery_control

from clipaudit.arrays import Float64s, Floats


def benjamini_hochberg(p: Floats) -> Float64s:
    """Adjusted p-values (q): to call every q <= a a discovery bounds the false discovery rate by a.

    Benjamini and Hochberg (1995), step-up. p: any shape, floats in 0..1, all of them one family. Returns float64 of the
    same shape.
    """
    values = np.asarray(p, np.float64)
    adjusted: Float64s = false_discovery_control(values, axis=None) if values.size else values
    return adjusted.reshape(values.shape)


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A share of successes, such as an accuracy."""

    right: int
    """Successes."""
    total: int
    """Trials; 0 is allowed."""

    @property
    def value(self) -> float:
        """The share, 0..1; nan when `total` is 0."""
        return self.right / self.total if self.total else float("nan")

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's (1927) score interval, (low, high) within 0..1; (0, 1) when `total` is 0.

        For simultaneous limits over G groups (Bonferroni) give `1 - alpha / G` as the confidence.
        """
        if not self.total:
            return 0.0, 1.0
        limits = binomtest(self.right, self.total).proportion_ci(confidence, method="wilson")
        # exactly 0 and 1 at the ends, where rounding would leave 1e-18
        return (0.0 if self.right == 0 else float(limits.low)), (
            1.0 if self.right == self.total else float(limits.high)
        )
