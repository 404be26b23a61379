"""Whether an association is the same everywhere: over environments (S12), and between two sets of rows (S11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.result.finding_parts import Estimate, Stability
from clipaudit.cues.result.panels import HeadShift, ShiftRow
from clipaudit.cues.statistics.cuts import contrasts, grouped_variances, half_tables, strength_interval, with_groups
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT
from clipaudit.cues.statistics.strength import BINS, Z95, binned
from clipaudit.statistics import benjamini_hochberg, chi_squared_above, normal_above

MAX_ENVIRONMENTS: Final = 12
"""Shards are put together into so many blocks when there are more."""
_LISTED_HEADS: Final = 10
"""Heads of a shift that are listed."""


def environments_of(
    shard_id: npt.NDArray[np.int32], names: Sequence[str] | None, codes: Ints | None
) -> tuple[Ints, tuple[str, ...]]:
    """(n,) int64 environment of each image, and the environments' names.

    A column's values, from its `names` and codes (n,), where both are given; else shards (in blocks when there are more
    than 12).
    """
    if names is not None and codes is not None:
        return codes, tuple(names)
    shards, shard = np.unique(shard_id, return_inverse=True)
    if len(shards) <= MAX_ENVIRONMENTS:
        return shard.astype(np.int64), tuple(f"shard {number}" for number in shards.tolist())
    blocks = np.array_split(np.arange(len(shards)), MAX_ENVIRONMENTS)
    block_of = np.concatenate([np.full(len(block), number) for number, block in enumerate(blocks)])
    titles = tuple(f"shards {shards[block[0]]} to {shards[block[-1]]}" for block in blocks)
    return block_of[shard].astype(np.int64), titles


def strength_of(scores: Floats, truth: Ints, k: int, classes: int, cluster: Ints | None = None) -> Estimate | None:
    """D of class k along scores (n,), with its 95 % interval (S1), over classes with at least 10 images.

    truth: (n,) classes 0..classes-1, -1 for images that do not count; cluster: (n,) near-duplicate clusters. None when
    class k or all others have fewer than 10 images.
    """
    return side_strength(scores, truth, np.arange(classes) == k, cluster)


def side_strength(
    scores: Floats, truth: Ints, upper: Bools, cluster: Ints | None = None, source: Ints | None = None
) -> Estimate | None:
    """D of the classes above (upper (K,)) against all others along scores (n,), on all of these rows (S1b).

    truth (n,) -1 for images that do not count; cluster (n,) near duplicates, which share the weight of one image;
    source (n,) what widens errors where images share more (S2b). Interval at 95 % on the logit scale. None when either
    side has no class with at least 10 images.
    """
    counts = np.bincount(truth[truth >= 0], minlength=len(upper))
    enough = counts >= MIN_INDEPENDENT
    if not (enough & upper).any() or not (enough & ~upper).any():
        return None
    used = np.flatnonzero((truth >= 0) & enough[np.maximum(truth, 0)])
    renumber = np.cumsum(enough) - 1
    groups, sources = (
        None if codes is None else np.unique(codes[used], return_inverse=True)[1].astype(np.int64)
        for codes in (cluster, source)
    )
    rows = np.ones(len(used), np.bool_)
    # nothing is chosen here: all rows are on the half that is read
    design = Design(renumber[truth[used]], int(enough.sum()), groups, sources, ~rows)
    codes, above = binned(scores[used]), upper[enough]
    table = half_tables(codes, design, BINS)[1]
    read = contrasts(table, above[None])
    variance, _ = with_groups(read, grouped_variances(codes, design, table, above[None], rows))
    d = 2 * float(read.a[0]) - 1
    low, high = strength_interval(d, 2 * float(np.sqrt(variance[0])), design.quantile(0.95))
    return Estimate(value=d, low=low, high=high, n=round(float(design.counts.sum())))


def stability(
    scores: Floats,
    truth: Ints,
    k: int,
    classes: int,
    environment: Ints,
    names: Sequence[str],
    by: str,
    cluster: Ints | None = None,
) -> Stability | None:
    """D of class k in each environment and how much it varies (S12); None with fewer than two environments.

    scores, truth, environment: (n,) scores, classes and environment codes; names: of the environments; by: what they
    are, in words; cluster: (n,) near duplicates, which narrow nothing. An environment counts when class k and another
    class have at least 10 images in it.
    """
    by_name = [
        (
            name,
            strength_of(
                scores[environment == e],
                truth[environment == e],
                k,
                classes,
                None if cluster is None else cluster[environment == e],
            ),
        )
        for e, name in enumerate(names)
    ]
    measured = [(name, d) for name, d in by_name if d is not None]
    if len(measured) < 2:
        return None
    q, p, share = heterogeneity([d for _, d in measured])
    return Stability(
        by=by,
        environments=tuple(name for name, _ in measured),
        d=tuple(d for _, d in measured),
        cochran_q=q,
        p=p,
        i_squared=share,
    )


def heterogeneity(by_environment: Sequence[Estimate]) -> tuple[float, float, float]:
    """Cochran's Q of Fisher's z of k strengths, its p-value, and I^2 = max(0, 1 - (k - 1) / Q), 0..1 (S12).

    Cochran, Biometrics 1954; Higgins and Thompson, Statistics in Medicine 2002.
    """
    # artanh is infinite at +-1
    d = np.clip([estimate.value if estimate.value is not None else 0.0 for estimate in by_environment], -0.995, 0.995)
    half = np.array([((estimate.high or 0.0) - (estimate.low or 0.0)) / 2 for estimate in by_environment])
    z = np.arctanh(d)
    # delta method: d artanh(D) / dD = 1 / (1 - D^2)
    error = np.maximum(half / Z95, 1e-6) / (1 - d**2)
    weight = 1 / error**2
    mean = float((weight * z).sum() / weight.sum())
    q = float((weight * (z - mean) ** 2).sum())
    freedom = len(by_environment) - 1
    return q, chi_squared_above(q, freedom), max(0.0, 1 - freedom / q) if q > 0 else 0.0


def shift_rows(pairs: Sequence[tuple[str, str, str | None, Estimate, Estimate]], alpha: float) -> tuple[ShiftRow, ...]:
    """Differences train - test of associations (class, cue, head, train, test), tested as one family (S11).

    The two sets of rows are independent, so that half widths add in squares. alpha: false discovery rate.
    """
    rows, p = [], []
    for name, cue, head, train, test in pairs:
        difference = (train.value or 0.0) - (test.value or 0.0)
        half = float(np.hypot(_half(train), _half(test)))
        # two-sided; a half width is Z95 standard errors
        p.append(2 * float(normal_above(abs(difference) / max(half / Z95, 1e-9))))
        change = Estimate(
            value=difference, low=max(-2.0, difference - half), high=min(2.0, difference + half), n=train.n + test.n
        )
        rows.append((name, cue, head, train, test, change))
    q = benjamini_hochberg(np.array(p))
    return tuple(
        ShiftRow(
            class_name=name,
            cue=cue,
            head=head,
            train=train,
            test=test,
            difference=change,
            p=p[place],
            q=float(q[place]),
            shifted=bool(q[place] <= alpha),
        )
        for place, (name, cue, head, train, test, change) in enumerate(rows)
    )


def head_shift(
    head: str, train: Float64s, test: Float64s, spread: float, texts: Float64s, words: Sequence[str]
) -> HeadShift:
    """How far a head's mean moves from train to test, and towards which text (S11).

    train, test: (dh,) means; spread: the head's standard deviation, the unit of the distance; texts: (T, dh) vectors of
    the `words` in the head's coordinates.
    """
    move = test - train
    # a move along what all texts share points to none of them
    relative = texts - texts.mean(axis=0)
    cosines = (relative @ move) / np.maximum(np.linalg.norm(relative, axis=1), 1e-12)
    return HeadShift(
        head=head,
        distance=float(np.linalg.norm(move)) / max(spread, 1e-12),
        toward=words[int(np.argmax(cosines))],
        away=words[int(np.argmin(cosines))],
    )


def most_shifted(shifts: Sequence[HeadShift]) -> tuple[HeadShift, ...]:
    """The ten heads that move furthest, largest distance first."""
    return tuple(sorted(shifts, key=lambda shift: -shift.distance)[:_LISTED_HEADS])


def _half(estimate: Estimate) -> float:
    return ((estimate.high or 0.0) - (estimate.low or 0.0)) / 2
