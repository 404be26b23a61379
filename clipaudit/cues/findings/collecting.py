"""What to collect so that a cue no longer goes with its classes: computed once, for page, table, JSON and sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints

_STEPS: Final = 99


@dataclass(frozen=True, eq=False, kw_only=True)
class ToCollect:
    """By class: how many images with the cue, or without it, make its share the same in all classes."""

    with_cue: Ints
    """(K,)"""
    without_cue: Ints
    """(K,)"""
    share: float
    """The common share that needs fewest images, 0..1."""

    @property
    def total(self) -> int:
        """Images of all classes."""
        return int(self.with_cue.sum() + self.without_cue.sum())


def to_collect(having: Ints, lacking: Ints, pointed: Bools) -> ToCollect:
    """Fewest images that make the cue's share the same in the classes that have it and in those that lack it.

    having, lacking (K,): images of each class with and without the cue; pointed (K,): classes that have it. Classes
    with the cue are filled up with images without it, down to a common share; the others with images that have it, up
    to that share. Of 99 shares the one with the smallest sum is taken.
    """
    # never 0 or 1, which no number of images reaches
    shares = np.arange(1, _STEPS + 1) / (_STEPS + 1)
    # having / (having + lacking + x) = share, solved for x; likewise for images that have it
    without = np.where(pointed, np.ceil(having * (1 - shares[:, None]) / shares[:, None]) - lacking, 0)
    extra = np.where(pointed, 0, np.ceil(lacking * shares[:, None] / (1 - shares[:, None])) - having)
    without, extra = np.maximum(without, 0), np.maximum(extra, 0)
    best = int(np.argmin(without.sum(axis=1) + extra.sum(axis=1)))
    return ToCollect(
        with_cue=extra[best].astype(np.int64), without_cue=without[best].astype(np.int64), share=float(shares[best])
    )


def value_counts(counts: Ints, value: int) -> tuple[Ints, Ints]:
    """(K,) images of each class with a value and without it, from (K, V) counts."""
    having = counts[:, value]
    return having, counts.sum(axis=1) - having


def shares_of(counts: Ints | Float64s, value: int) -> Float64s:
    """(K,) share of a value in each class, from (K, V) counts."""
    shares: Float64s = counts[:, value] / np.maximum(counts.sum(axis=1), 1e-12)
    return shares
