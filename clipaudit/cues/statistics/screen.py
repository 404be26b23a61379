"""All tests of an audit as arrays: which are significant and large enough, by one rule for real and permuted labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s
from clipaudit.cues.statistics.strength import BINS, Z95, Codes, Design, Strengths, p_values, strengths
from clipaudit.statistics import benjamini_hochberg

MIN_INDEPENDENT: Final = 10
"""Classes with fewer independent images are counted and not tested (S9)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Screen:
    """M directions (or attribute values) against K classes; every array is (M, K) float64."""

    d: Float64s
    """Strength D, -1..1 (S1)."""
    error: Float64s
    """Standard error of d."""
    z: Float64s
    """D by its standard error if labels were exchangeable (S2)."""
    p: Float64s
    """Two-sided, 0..1; for attribute values the larger of Mann-Whitney's and Fisher's."""
    typical: Float64s
    """Median of D against single rivals, -1..1."""
    q: Float64s
    """Benjamini-Hochberg over all M * K tests, 0..1 (S3)."""

    @property
    def low(self) -> Float64s:
        """(M, K) 95 % lower limit of |d|, at least 0."""
        limit: Float64s = np.maximum(np.abs(self.d) - Z95 * self.error, 0.0)
        return limit

    def flagged(self, alpha: float, delta: float) -> Bools:
        """(M, K) tests that are significant, larger than delta with their whole interval, and so for most rivals (S4).

        alpha: false discovery rate; delta: minimum |D|. With three or more classes, one class's cue makes all others
        differ from it; only the class that differs from most of its rivals is named.
        """
        # a rival of the class that has the cue differs from that class alone: its median over rivals stays near 0
        named = np.sign(self.typical) * np.sign(self.d) * np.abs(self.typical) > delta / 2
        flags: Bools = (self.q <= alpha) & (self.low > delta) & named
        return flags


def screen(tests: Sequence[Strengths], p: Float64s | None = None) -> Screen:
    """M directions' tests as one family; `p` (M, K) replaces the normal p-values."""
    z = np.stack([test.z for test in tests])
    values = p_values(z) if p is None else p
    return Screen(
        d=np.stack([test.d for test in tests]),
        error=np.stack([test.error for test in tests]),
        z=z,
        p=values,
        typical=np.stack([test.typical for test in tests]),
        q=benjamini_hochberg(values),
    )


def screen_codes(codes: Iterable[Codes], design: Design, bins: int = BINS) -> Screen:
    """The tests of several directions from their binned scores, (n,) uint16 each, 0..bins-1."""
    return screen([strengths(column, design, bins) for column in codes])


def joined(parts: Sequence[Screen]) -> Screen:
    """Several screens against the same classes as one family: (M1 + M2 + ..., K), q computed again over all tests."""
    p = np.concatenate([part.p for part in parts])
    return Screen(
        d=np.concatenate([part.d for part in parts]),
        error=np.concatenate([part.error for part in parts]),
        z=np.concatenate([part.z for part in parts]),
        p=p,
        typical=np.concatenate([part.typical for part in parts]),
        q=benjamini_hochberg(p),
    )
