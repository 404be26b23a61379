"""Attributes that are wrong with a known rate: shares and accuracies corrected, with the rate's own uncertainty (S6c).

A column with 10 % wrong values on a split that is 95 % skewed leaves the conflicting groups 32 % pure. The
misclassification matrix, inverted, restores counts and right answers by true value. It is assumed that a value is as
often wrong in every class, and that being wrong has nothing to do with the answer, given class and true value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.sources import quantile
from clipaudit.cues.statistics.strength import Z95
from clipaudit.errors import UsageError

ASSUMED_IMAGES: Final = 100
"""Images that a rate is taken to be measured on where nothing says so."""
_MOST: Final = 0.45
"""A column that is wrong more often says nothing that could be corrected."""
_RESAMPLES: Final = 400
_OPTION: Final = "error"


@dataclass(frozen=True, kw_only=True)
class KnownError:
    """How often a column is wrong."""

    rate: float
    """0..1, of the images that have a value; the wrong ones spread evenly over the other values."""
    images: int = ASSUMED_IMAGES
    """On how many images it was measured: its own uncertainty is binomial."""


def parse_attribute(given: str) -> tuple[str, KnownError | None]:
    """`place`, `place:error=0.1` or `place:error=0.1/250` (measured on 250 images): the column and its known error.

    UsageError when the part after the colon is not understood or the rate is not in 0..0.45.
    """
    name, colon, rest = given.rpartition(":")
    if not colon or not rest.startswith(f"{_OPTION}="):
        return given, None
    text, slash, count = rest.removeprefix(f"{_OPTION}=").partition("/")
    try:
        rate, images = float(text), int(count) if slash else ASSUMED_IMAGES
    except ValueError:
        raise UsageError(
            f"--attribute {given}: the known error is written {name}:error=0.1, or {name}:error=0.1/250 when it was"
            " measured on 250 images"
        ) from None
    if not 0 <= rate <= _MOST or images < 1:
        raise UsageError(f"--attribute {given}: a known error lies between 0 and 0.45, on at least one image")
    return name, KnownError(rate=rate, images=images)


def misclassification(rate: float, values: int) -> Float64s:
    """(V, V) P(said | true): 1 - rate on the diagonal, the rest spread evenly."""
    matrix = np.full((values, values), rate / max(values - 1, 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def corrected(counts: Float64s, rate: float) -> Float64s:
    """(..., V) counts by said value -> by true value; may be negative by chance."""
    # said = true @ P(said | true), with counts as rows
    result: Float64s = counts @ np.linalg.inv(misclassification(rate, counts.shape[-1]))
    return result


def drawn_rate(error: KnownError, rng: np.random.Generator) -> float:
    """The rate as it might be: of Jeffreys' posterior, whose intervals cover where the estimate's own binomial does not
    (Brown, Cai, DasGupta, Statistical Science 2001)."""
    wrong = error.rate * error.images
    return min(float(rng.beta(wrong + 0.5, error.images - wrong + 0.5)), _MOST)


def stretched(groups: int) -> float:
    """How much wider a bootstrap interval over few sources has to be: the quantile of t with G - 1 degrees of freedom
    in place of the normal's, and the root of G / (G - 1) (S2b)."""
    return quantile(0.95, groups) / Z95 * float(np.sqrt(groups / max(groups - 1, 1)))


@dataclass(frozen=True, eq=False, kw_only=True)
class CorrectedCells:
    """What a column with known error says of one of its values."""

    d: Estimate
    """Share of the value in the pointed classes minus that in the others, corrected."""
    gap: Estimate | None
    """Accuracy where the value points to the class minus where it points away, inside classes; None without answers."""
    shares: tuple[float, ...]
    """(K,) corrected share of the value in each class, 0..1."""


def corrected_cells(
    codes: Ints,
    truth: Ints,
    cluster: Ints,
    value: int,
    pointed: Bools,
    values: int,
    error: KnownError,
    *,
    source: Ints | None = None,
    right: Bools | None = None,
    seed: int = 0,
) -> CorrectedCells:
    """Corrected strength and gap of one value; intervals by a bootstrap over groups of images and over the rate.

    codes (n,) int64 said values 0..V-1, -1 unknown; truth (n,) int64 classes; cluster (n,) int64, whose images share
    the weight of one; source (n,) int64, what is drawn again where images share more than copies do, else clusters are;
    pointed (K,) bool, classes that have the value; right (n,) bool, whether an answer was right. With sources the
    interval is stretched from the normal's quantile to that of t with G - 1 degrees and by the root of G / (G - 1), as
    all intervals over few groups are (S2b).
    """
    known = codes >= 0
    K, V = len(pointed), values
    cells = (truth * V + codes)[known]
    _, copies = np.unique(cluster[known], return_inverse=True)
    # copies of one image lie in one source, so that whole sources keep them together
    _, groups = np.unique((cluster if source is None else source)[known], return_inverse=True)
    good = np.zeros(len(cells)) if right is None else right[known].astype(np.float64)
    rng = np.random.default_rng([seed, 17])
    G = int(groups.max(initial=-1)) + 1
    share_of = 1 / np.bincount(copies)[copies]  # images of a cluster share its weight
    stretch = 1.0 if source is None else stretched(G)

    def measure(weight: Float64s, rate: float) -> tuple[Float64s, float, float]:
        counts = np.bincount(cells, weight, minlength=K * V).reshape(K, V).astype(np.float64)
        hits = np.bincount(cells, weight * good, minlength=K * V).reshape(K, V).astype(np.float64)
        return _measure(corrected(counts, rate), corrected(hits, rate), value, pointed)

    shares, d, gap = measure(share_of, error.rate)
    draws = np.empty((_RESAMPLES, 2))
    for number in range(_RESAMPLES):
        # clusters drawn again with replacement, and the rate as a share of the images behind it
        times = np.bincount(rng.integers(0, G, G), minlength=G)
        draws[number] = measure(share_of * times[groups], drawn_rate(error, rng))[1:]
    return CorrectedCells(
        d=_estimate(d, draws[:, 0], G, -1.0, stretch),
        gap=None if right is None or not np.isfinite(gap) else _estimate(gap, draws[:, 1], G, -1.0, stretch),
        shares=tuple(float(share) for share in shares),
    )


def _measure(counts: Float64s, hits: Float64s, value: int, pointed: Bools) -> tuple[Float64s, float, float]:
    """Shares of the value (K,), their difference, and the gap, from corrected (K, V) counts and right answers."""
    # the inverse of a noisy table can go below 0
    counts = np.maximum(counts, 0.0)
    total = np.maximum(counts.sum(axis=1), 1e-9)
    share = np.clip(counts[:, value] / total, 0, 1)
    d = float(share[pointed].mean() - share[~pointed].mean())
    having, lacking = counts[:, value], total - counts[:, value]
    with np.errstate(invalid="ignore", divide="ignore"):
        right_with = np.clip(hits[:, value] / having, 0, 1)
        right_without = np.clip((hits.sum(axis=1) - hits[:, value]) / lacking, 0, 1)
    gaps = np.where(pointed, right_with - right_without, right_without - right_with)
    # under one image after correction an accuracy is a ratio of noise
    enough = (having >= 1) & (lacking >= 1)
    # as in S9 the side that has the cue and the side that lacks it count alike, and classes inside a side
    sides = [float(gaps[enough & side].mean()) for side in (pointed, ~pointed) if (enough & side).any()]
    return share, d, float(np.mean(sides)) if sides else float("nan")


def _estimate(value: float, draws: Float64s, n: int, least: float, stretch: float) -> Estimate:
    usable = draws[np.isfinite(draws)]
    if n < 2 or not len(usable):  # one group has no spread
        return Estimate(value=value, low=least, high=1.0, n=n)
    # percentiles, stretched to hold the estimate itself
    low, high = value + stretch * (np.quantile(usable, (0.025, 0.975)) - value)
    return Estimate(value=value, low=max(least, min(float(low), value)), high=min(1.0, max(float(high), value)), n=n)
