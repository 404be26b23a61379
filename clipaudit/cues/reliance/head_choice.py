"""Heads whose removal shrinks a gap, chosen greedily for many versions of a column at once (S10)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.reliance.drawn_columns import DrawnColumns
from clipaudit.cues.reliance.head_parts import Removal

MAX_HEADS: Final = 12
MEAN_FALL: Final = 0.01
"""What the group mean may lose on the half where heads are chosen."""
_REMEMBERED: Final = 2**26
"""Answers that are remembered, at most: 64 MiB."""
_GAIN: Final = 0.001
"""A further head must shrink the gap by at least a tenth of a point."""


@dataclass(eq=False)
class _Paths:
    """R greedy paths on their way."""

    masks: Bools
    """(R, P) heads taken out so far."""
    order: Ints
    """(R, steps) heads in the order of choice, -1 beyond the end."""
    gaps: Float64s
    """(R, steps + 1) |gap| after each step, inf beyond the end."""
    errors: Float64s
    """(R, steps + 1) standard errors of the gaps."""


class Trials(Protocol):
    """What heads are chosen from: `Removal` is one, and `TriedHeads.on` some images of all."""

    @property
    def count(self) -> int:
        """Heads, P."""

    @property
    def right(self) -> Bools:
        """(n,) right answers with every head in place."""

    def each_without(self, mask: Bools) -> Bools:
        """(P, n) right answers with the heads of mask (P,) and one further head taken out, for every head."""


@dataclass(eq=False)
class TriedHeads:
    """Answers without further heads, worked out once for all cues, versions of their columns, and fits.

    Answers without heads depend on no column, and most paths begin with the same heads.
    """

    removal: Removal
    _rights: dict[bytes, Bools] = field(default_factory=dict)
    """(P, n) by mask."""

    def each_without(self, mask: Bools) -> Bools:
        """(P, n) of all images, as `Removal.each_without`."""
        key = mask.tobytes()
        rights = self._rights.get(key)
        if rights is None:
            rights = self.removal.each_without(mask)
            if len(self._rights) < _REMEMBERED // max(rights.size, 1):
                self._rights[key] = rights
        return rights

    def on(self, rows: Ints) -> Trials:
        """The same of some images, by places (m,)."""
        return _TriedOn(self, rows)


@dataclass(frozen=True, eq=False)
class _TriedOn:
    """Some images of `TriedHeads`."""

    tried: TriedHeads
    rows: Ints

    @property
    def count(self) -> int:
        """P"""
        return self.tried.removal.count

    @property
    def right(self) -> Bools:
        """(m,)"""
        return self.tried.removal.right[self.rows]

    def each_without(self, mask: Bools) -> Bools:
        """(P, m)"""
        return self.tried.each_without(mask)[:, self.rows]


def choose_heads(drawn: DrawnColumns, trials: Trials, fall: float | None = MEAN_FALL) -> Bools:
    """(R, P) for each version of a column the heads whose removal makes the |gap| smallest.

    Greedy: at each step the head that makes |gap| smallest, while the group mean is at most `fall` below that with all
    heads (None for any fall: trap 26 shows what that is good for). A path ends where |gap| is within one standard error
    of 0, or no head shrinks it further; then the fewest heads of the path are taken whose |gap| is within one standard
    error of its smallest. Versions that have taken out the same heads share the work: answers without a set of heads do
    not depend on the column.
    """
    R, P = len(drawn.aligned), trials.count
    steps = min(MAX_HEADS, max(1, P // 2))
    coefficients, mean = drawn.difference(), drawn.mean
    right = trials.right.astype(np.float32)
    gap = (coefficients @ right).astype(np.float64)
    # without this limit heads are chosen that break the model: a constant answer has no gap (trap 26)
    least = (mean @ right).astype(np.float64) - (np.inf if fall is None else fall) - 1e-6
    paths = _Paths(
        masks=np.zeros((R, P), np.bool_),
        order=np.full((R, steps), -1, np.int64),
        gaps=np.full((R, steps + 1), np.inf),
        errors=np.zeros((R, steps + 1)),
    )
    paths.gaps[:, 0], paths.errors[:, 0] = np.abs(gap), drawn.errors(right)
    # a gap within its own error leaves nothing to close
    active = np.flatnonzero(paths.gaps[:, 0] > paths.errors[:, 0])
    for step in range(steps):
        if not len(active):
            break
        active = _step(paths, step, active, drawn, trials, coefficients, mean, least)
    return _fewest(paths)


def _step(
    paths: _Paths,
    step: int,
    active: Ints,
    drawn: DrawnColumns,
    trials: Trials,
    coefficients: Float32s,
    mean: Float32s,
    least: Float64s,
) -> Ints:
    """One more head for each active path; returns the paths that go on."""
    moved = []
    packed = np.packbits(paths.masks[active], axis=1)
    _, group = np.unique(packed, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    for rows in np.split(active[order], np.flatnonzero(np.diff(group.ravel()[order])) + 1):
        mask = paths.masks[rows[0]]
        rights = trials.each_without(mask).astype(np.float32)  # (P, m)
        sizes = np.abs((coefficients[rows] @ rights.T).astype(np.float64))  # (rows, P)
        means = (mean[rows] @ rights.T).astype(np.float64)
        # no candidates: heads that are out already, and those that cost too much accuracy
        sizes[(means < least[rows, None]) | mask] = np.inf
        best = sizes.argmin(axis=1)
        size = sizes[np.arange(len(rows)), best]
        better = size <= paths.gaps[rows, step] - _GAIN
        if not better.any():
            continue
        chosen, head = rows[better], best[better]
        paths.masks[chosen, head] = True
        paths.order[chosen, step] = head
        paths.gaps[chosen, step + 1] = size[better]
        paths.errors[chosen, step + 1] = drawn.take(chosen).errors(rights[head])
        moved.append(chosen)
    if not moved:
        return np.empty(0, np.int64)
    rows = np.sort(np.concatenate(moved))
    going_on: Ints = rows[paths.gaps[rows, step + 1] > paths.errors[rows, step + 1]]
    return going_on


def _fewest(paths: _Paths) -> Bools:
    """(R, P) the shortest beginnings of paths within one standard error of their smallest |gap|."""
    R, P = paths.masks.shape
    best = paths.gaps.argmin(axis=1)
    limit = paths.gaps[np.arange(R), best] + paths.errors[np.arange(R), best]
    # argmax of booleans: the first step within one error of the best
    count = (paths.gaps <= limit[:, None]).argmax(axis=1)
    chosen = np.zeros((R, P), np.bool_)
    for step in range(paths.order.shape[1]):
        rows = np.flatnonzero((count > step) & (paths.order[:, step] >= 0))
        chosen[rows, paths.order[rows, step]] = True
    return chosen
