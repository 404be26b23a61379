"""What each head adds to an answerer's logits, and what answers are without some of it (S10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Floats, Ints
from clipaudit.cues.statistics.balance import balanced_mean


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadParts:
    """P heads of an answerer with logits = matrix @ embedding + bias, the embedding being a sum of heads and more."""

    names: tuple[str, ...]
    layers: Ints
    """(P,) layer of each head."""
    logits: Float32s
    """(P, n, C) what each head adds to the logits."""
    coordinates: Sequence[Floats]
    """P of (n, dh): each head's coordinates, as stored."""
    toward: Sequence[Float64s]
    """P of (dh, C): what one unit of each coordinate adds to the logits."""
    frames: Sequence[Float64s]
    """P of (dh, D): each head's orthonormal rows Q, for directions that a text names."""

    def take(self, rows: Ints) -> HeadParts:
        """The same of some images, by places (m,)."""
        return HeadParts(
            names=self.names,
            layers=self.layers,
            logits=self.logits[:, rows],
            coordinates=[values[rows] for values in self.coordinates],
            toward=self.toward,
            frames=self.frames,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Removal:
    """Answers without heads at means of one half: everything relative to the true class, so that an answer is right
    where the largest of C - 1 numbers is below 0."""

    base: Float32s
    """(C - 1, n) logit of each other class minus the true class's."""
    heads: Float32s
    """(P, C - 1, n) what each head's deviation from its mean adds to `base`."""

    @property
    def count(self) -> int:
        """Heads, P."""
        return len(self.heads)

    @property
    def right(self) -> Bools:
        """(n,) with every head in place."""
        return self._below_zero(self.base)

    def without(self, mask: Bools, alpha: float = 1.0) -> Bools:
        """(n,) right answers with a part alpha of the heads of mask (P,) taken out."""
        return self._below_zero(self.left(mask, alpha))

    def left(self, mask: Bools, alpha: float = 1.0) -> Float32s:
        """(C - 1, n) `base` with a part alpha of some heads taken out."""
        if not mask.any() or alpha == 0:
            return self.base
        taken: Float32s = self.base - np.float32(alpha) * self.heads[mask].sum(axis=0)
        return taken

    def each_without(self, mask: Bools) -> Bools:
        """(P, n) right answers with the heads of mask (P,) and one further head taken out, for every head."""
        # the largest difference is below 0 where all are; comparing costs a third of subtracting
        rights: Bools = np.all(self.left(mask)[None] < self.heads, axis=1)
        return rights

    def sets_without(self, masks: Bools, block: int = 2**24) -> Bools:
        """(S, n) right answers without each of S sets (S, P) of heads; block bounds the numbers held at a time."""
        flat = self.heads.reshape(len(self.heads), -1)
        rights = np.empty((len(masks), self.base.shape[1]), np.bool_)
        step = max(1, block // max(self.base.size, 1))
        for start in range(0, len(masks), step):
            piece = masks[start : start + step].astype(np.float32)
            logits = self.base[None] - (piece @ flat).reshape(len(piece), *self.base.shape)
            rights[start : start + step] = logits.max(axis=1) < 0
        return rights

    def take(self, rows: Ints | Bools) -> Removal:
        """The same of some images, by a mask (n,) or their places (m,)."""
        return Removal(base=self.base[:, rows], heads=self.heads[:, :, rows])

    @staticmethod
    def _below_zero(relative: Float32s) -> Bools:
        below: Bools = relative.max(axis=0) < 0
        return below


def relative_to_truth(logits: Float32s, truth: Ints) -> Float32s:
    """(..., n, C) logits to (..., C - 1, n): every other class's logit minus the true class's, a small dimension first
    so that the largest over classes is taken along whole rows."""
    n, C = logits.shape[-2:]
    others = (truth[:, None] + np.arange(1, C)) % C  # (n, C - 1) the classes after the true one, around
    own = np.take_along_axis(logits, np.broadcast_to(truth[:, None], (*logits.shape[:-2], n, 1)), axis=-1)
    rivals = np.take_along_axis(logits, np.broadcast_to(others, (*logits.shape[:-2], n, C - 1)), axis=-1)
    relative: Float32s = np.ascontiguousarray(np.swapaxes(rivals - own, -1, -2), np.float32)
    return relative


def removal(logits: Float32s, parts: HeadParts, truth: Ints, half: Bools, weight: Float64s) -> Removal:
    """Answers without heads: each head is put at its mean over the half (n,), every class with equal weight.

    Mean-ablation is linear in the logits, so the mean is taken of what a head adds to them.
    """
    centre = np.stack([balanced_mean(head, truth, half, weight) for head in parts.logits])  # (P, C)
    heads = np.empty((len(parts.logits), logits.shape[1] - 1, len(truth)), np.float32)
    for place, added in enumerate(parts.logits):  # head by head: with many classes all at once would not fit
        heads[place] = relative_to_truth(added - centre[place].astype(np.float32), truth)
    return Removal(base=relative_to_truth(logits, truth), heads=heads)
