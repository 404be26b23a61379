"""Is an association the same everywhere: by environment with Cochran's Q and I^2 (S12), and between two sets (S11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from clipaudit.arrays import Float64s, Floats, Ints
from clipaudit.cues.result.finding_parts import Estimate, Stability
from clipaudit.cues.result.panels import HeadShift, ShiftRow
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT
from clipaudit.cues.statistics.strength import Z95, Design, Strengths, binned, strengths
from clipaudit.statistics import benjamini_hochberg

MAX_ENVIRONMENTS: Final = 12
_WORDS: Final = 10


def environments_of(
    shard_id: npt.NDArray[np.int32], names: Sequence[str] | None, codes: Ints | None
) -> tuple[Ints, tuple[str, ...]]:
    """(n,) environment of each image and their names: a column's values, or shards (in blocks when there are many)."""
    if names is not None and codes is not None:
        return codes, tuple(names)
    shards, found = np.unique(shard_id, return_inverse=True)
    if len(shards) <= MAX_ENVIRONMENTS:
        return found.astype(np.int64), tuple(f"shard {shard}" for shard in shards.tolist())
    blocks = np.array_split(np.arange(len(shards)), MAX_ENVIRONMENTS)
    of = np.concatenate([np.full(len(block), number) for number, block in enumerate(blocks)])
    titles = tuple(f"shards {shards[block[0]]} to {shards[block[-1]]}" for block in blocks)
    return of[found].astype(np.int64), titles


def strength_of(scores: Floats, truth: Ints, k: int, classes: int, cluster: Ints | None = None) -> Estimate | None:
    """D of class k along scores (n,), with its 95 % interval, over classes with enough images; None when k has not."""
    counts = np.bincount(truth[truth >= 0], minlength=classes)
    enough = counts >= MIN_INDEPENDENT
    if not enough[k] or int(enough.sum()) < 2:
        return None
    kept = np.flatnonzero((truth >= 0) & enough[np.maximum(truth, 0)])
    renumber = np.cumsum(enough) - 1
    groups = None if cluster is None else np.unique(cluster[kept], return_inverse=True)[1]
    design = Design(renumber[truth[kept]], int(enough.sum()), groups)
    return estimate(strengths(binned(scores[kept]), design), int(renumber[k]), len(kept))


def estimate(found: Strengths, k: int, n: int) -> Estimate:
    """Class k's strength with its 95 % interval."""
    d, half = float(found.d[k]), Z95 * float(found.error[k])
    return Estimate(value=d, low=max(-1.0, d - half), high=min(1.0, d + half), n=n)


def stability(
    scores: Floats, truth: Ints, k: int, classes: int, environment: Ints, names: Sequence[str], by: str
) -> Stability | None:
    """D of class k in each environment; None with fewer than two that have enough images."""
    found = [
        (name, strength_of(scores[environment == e], truth[environment == e], k, classes))
        for e, name in enumerate(names)
    ]
    kept = [(name, one) for name, one in found if one is not None]
    if len(kept) < 2:
        return None
    q, p, share = heterogeneity([one for _, one in kept])
    return Stability(
        by=by,
        environments=tuple(name for name, _ in kept),
        d=tuple(one for _, one in kept),
        cochran_q=q,
        p=p,
        i_squared=share,
    )


def heterogeneity(found: Sequence[Estimate]) -> tuple[float, float, float]:
    """Cochran's Q of Fisher's z of the strengths, its p-value, and I^2 = max(0, 1 - (k - 1) / Q)."""
    d = np.clip([one.value if one.value is not None else 0.0 for one in found], -0.995, 0.995)
    half = np.array([((one.high or 0.0) - (one.low or 0.0)) / 2 for one in found])
    z = np.arctanh(d)
    error = np.maximum(half / Z95, 1e-6) / (1 - d**2)
    weight = 1 / error**2
    mean = float((weight * z).sum() / weight.sum())
    q = float((weight * (z - mean) ** 2).sum())
    freedom = len(found) - 1
    return q, float(stats.chi2.sf(q, freedom)), max(0.0, 1 - freedom / q) if q > 0 else 0.0


def shift_rows(pairs: Sequence[tuple[str, str, str | None, Estimate, Estimate]], alpha: float) -> tuple[ShiftRow, ...]:
    """Differences train - test of associations (class, cue, head, train, test), tested together."""
    rows, p = [], []
    for name, cue, head, train, test in pairs:
        difference = (train.value or 0.0) - (test.value or 0.0)
        half = float(np.hypot(_half(train), _half(test)))
        p.append(2 * float(stats.norm.sf(abs(difference) / max(half / Z95, 1e-9))))
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
    """How far a head's mean (dh,) moves, in units of its standard deviation, and towards which text (T, dh)."""
    move = test - train
    relative = texts - texts.mean(axis=0)
    cosines = (relative @ move) / np.maximum(np.linalg.norm(relative, axis=1), 1e-12)
    return HeadShift(
        head=head,
        distance=float(np.linalg.norm(move)) / max(spread, 1e-12),
        toward=words[int(np.argmax(cosines))],
        away=words[int(np.argmin(cosines))],
    )


def most_shifted(found: Sequence[HeadShift]) -> tuple[HeadShift, ...]:
    """The heads that move furthest."""
    return tuple(sorted(found, key=lambda one: -one.distance)[:_WORDS])


def _half(one: Estimate) -> float:
    return ((one.high or 0.0) - (one.low or 0.0)) / 2
