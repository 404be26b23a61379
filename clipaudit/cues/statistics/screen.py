"""All tests of an audit as arrays: which are significant and large enough, by one rule for real and permuted labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s
from clipaudit.cues.statistics.cuts import Cut, Honest, strength_interval
from clipaudit.cues.statistics.strength import Strengths, one_sided
from clipaudit.statistics import benjamini_hochberg

MIN_INDEPENDENT: Final = 10
"""Classes with fewer independent images are counted and not tested (S9)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Screen:
    """M directions (or attribute values) against K classes, chosen on the discovery half, read on the other (S1b, S1c).

    Arrays are float64 but for `upper`.
    """

    d: Float64s
    """(M, K) strength of each class against all others on the confirmation half, -1..1."""
    error: Float64s
    """(M, K) standard error of d."""
    low: Float64s
    """(M, K) 95 % lower limit of |D| on the discovery half: for choosing a direction, no result."""
    cuts: tuple[Cut, ...]
    """(M,) the cut that the discovery half chooses along each direction."""
    limits: Float64s
    """(M, 2) 95 % interval of the cuts' D, on the logit scale of A."""
    p: Float64s
    """(M,) one-sided, 0..1, of the cut, towards the sign that the discovery half chose; for attribute values the larger
    of Mann-Whitney's and Fisher's."""
    q: Float64s
    """(M,) Benjamini-Hochberg over all directions, 0..1 (S3)."""
    family: Float64s | None = None
    """(M,) p adjusted for the largest of all directions x cuts by permuted labels (max-T); None where none were."""
    quantile: float = 1.96
    """Of 95 % intervals: t with as many degrees of freedom as the groups of images are worth."""

    @property
    def upper(self) -> Bools:
        """(M, K) classes above each cut: those that have what the direction points to."""
        return np.stack([cut.upper for cut in self.cuts]) if self.cuts else np.empty(self.d.shape, np.bool_)

    def passed(self, alpha: float, delta: float) -> Bools:
        """(M,) whether a cut is significant and the whole interval of its D beyond delta (S4); only towards the sign
        that the discovery half chose."""
        # max-T where labels were permuted, else the false discovery rate (S3)
        p = self.q if self.family is None else self.family
        flags: Bools = (p <= alpha) & (self.limits[:, 0] > delta)
        return flags

    def flagged(self, alpha: float, delta: float) -> Bools:
        """(M, K) the classes that a passing cut names: the side with fewer classes, both when they are equally many."""
        flags: Bools = self.passed(alpha, delta)[:, None] & named_side(self.upper)
        return flags

    def class_low(self) -> Float64s:
        """(M, K) 95 % lower limit of |d| on the confirmation half, at least 0."""
        limit: Float64s = np.maximum(np.abs(self.d) - self.quantile * self.error, 0.0)
        return limit


def named_side(upper: Bools) -> Bools:
    """(M, K) the side of each cut with fewer classes; all classes where both sides have as many (K = 2, too)."""
    above = upper.sum(axis=1, keepdims=True)
    fewer, K = 2 * above < upper.shape[1], upper.shape[1]
    # what few classes have, or lack, is the exception that is named (S1b)
    result: Bools = np.where(2 * above == K, True, np.where(fewer, upper, ~upper))
    return result


def screen(tests: Sequence[Strengths], p: Float64s | None = None) -> Screen:
    """M directions' tests as one family; `p` (M,) replaces the normal p-values."""
    return screen_of([test.honest for test in tests], p)


def screen_of(tests: Sequence[Honest], p: Float64s | None = None, classes: int = 0) -> Screen:
    """The same from what the halves say alone; p (M,) of the tests, by default from their z. classes: K, where there
    may be no test."""
    if not tests:
        none, by_class = np.empty(0), np.empty((0, classes))
        return Screen(d=by_class, error=by_class, low=by_class, cuts=(), limits=np.empty((0, 2)), p=none, q=none)
    values = one_sided(np.array([test.cut.z for test in tests])) if p is None else p
    limits = [strength_interval(test.cut.d, test.cut.error, test.quantile) for test in tests]
    return Screen(
        d=np.stack([test.d for test in tests]),
        error=np.stack([test.error for test in tests]),
        low=np.stack([test.low for test in tests]),
        cuts=tuple(test.cut for test in tests),
        limits=np.array(limits).reshape(-1, 2),
        p=values,
        q=benjamini_hochberg(values),
        quantile=max(test.quantile for test in tests),
    )


def joined(parts: Sequence[Screen]) -> Screen:
    """Several screens against the same classes as one family, M1 + M2 + ... rows; q computed again over all tests."""
    p = np.concatenate([part.p for part in parts])
    # a family is of all tests or of none: adjusted and plain p-values do not compare
    families = [part.family for part in parts if part.family is not None]
    return Screen(
        d=np.concatenate([part.d for part in parts]),
        error=np.concatenate([part.error for part in parts]),
        low=np.concatenate([part.low for part in parts]),
        cuts=tuple(cut for part in parts for cut in part.cuts),
        limits=np.concatenate([part.limits for part in parts]),
        p=p,
        q=benjamini_hochberg(p),
        family=np.concatenate(families) if len(families) == len(parts) else None,
        quantile=max(part.quantile for part in parts),
    )
