"""All tests of an audit as arrays: which are significant and large enough, by one rule for real and permuted labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s
from clipaudit.cues.statistics.strength import BINS, Z95, Codes, Design, Strengths, p_values, strengths
from clipaudit.statistics import benjamini_hochberg

MIN_INDEPENDENT: Final = 10
"""Classes with fewer independent images are counted and not tested (S9)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Screen:
    """M directions (or attribute values) against K classes."""

    d: Float64s
    """(M, K)"""
    error: Float64s
    """(M, K) standard error of d."""
    z: Float64s
    """(M, K)"""
    p: Float64s
    """(M, K); for attribute values the larger of Mann-Whitney's and Fisher's."""
    typical: Float64s
    """(M, K) median of D against single rivals."""
    q: Float64s
    """(M, K) Benjamini-Hochberg over all M * K tests."""

    @property
    def low(self) -> Float64s:
        """(M, K) 95 % lower limit of |d|."""
        found: Float64s = np.maximum(np.abs(self.d) - Z95 * self.error, 0.0)
        return found

    def flagged(self, alpha: float, delta: float) -> Bools:
        """(M, K) significant, larger than delta with its whole interval (S4), and so against most single rivals.

        With three or more classes, one class's cue makes all others differ from it; only the class that differs from
        most of its rivals is named.
        """
        named = np.sign(self.typical) * np.sign(self.d) * np.abs(self.typical) > delta / 2
        found: Bools = (self.q <= alpha) & (self.low > delta) & named
        return found


def screen(found: Sequence[Strengths], p: Float64s | None = None) -> Screen:
    """The tests of several directions together; `p` (M, K) replaces the normal p-values."""
    z = np.stack([one.z for one in found])
    values = p_values(z) if p is None else p
    return Screen(
        d=np.stack([one.d for one in found]),
        error=np.stack([one.error for one in found]),
        z=z,
        p=values,
        typical=np.stack([one.typical for one in found]),
        q=benjamini_hochberg(values),
    )


def screen_codes(codes: Iterable[Codes], design: Design, bins: int = BINS) -> Screen:
    """The same from binned scores, direction by direction."""
    return screen([strengths(column, design, bins) for column in codes])


def joined(parts: Sequence[Screen]) -> Screen:
    """Several screens of one design as one family: q anew over all tests."""
    p = np.concatenate([part.p for part in parts])
    return Screen(
        d=np.concatenate([part.d for part in parts]),
        error=np.concatenate([part.error for part in parts]),
        z=np.concatenate([part.z for part in parts]),
        p=p,
        typical=np.concatenate([part.typical for part in parts]),
        q=benjamini_hochberg(p),
    )


def with_rows(whole: Screen, more: Screen) -> Screen:
    """A screen with some further tests in its family, q anew."""
    return joined([replace(whole, q=whole.p), more])
