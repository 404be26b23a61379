"""Pairs of perceptual hashes that differ in a few bits, among any number of them, without comparing all pairs (S2b)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Ints

BITS: Final = 7
"""Most bits of 64 in which hashes of near duplicates differ. Of 2,000 photographs of CIFAR-10, 1,120 pictures of PACS
and 128 photographs of COCO no two differ in so few; copies saved again, at half and at twice the size all do, copies
with 3 % of the border cut off in 18 to 85 %."""
_BANDS: Final = 4
_WIDTH: Final = 16
"""Bits of a band: seven bits in four bands leave one band with at most one of them."""
_COMPARISONS: Final = 1e9
"""In all, about: of the hashes that share a band's value each is compared with so many that this is not exceeded."""
_PARTNERS: Final = (64, 4096)
"""Least and most of these; a million random hashes have 15."""
_NEAR: Final = 4
"""Close partners that a hash keeps of one band's value: bounds the memory where most hashes are alike, and leaves the
copies of one image joined."""
_BLOCK: Final = 2**22
"""Pairs held at a time."""


def close_pairs(hashes: npt.NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """(m,) and (m,) int64 places, first < second, of hashes (n,) uint64 that differ in at most seven bits; sorted.

    Multi-index hashing (Norouzi, Punjani, Fleet, CVPR 2012): hashes that differ in at most seven bits agree in one of
    four bands of 16 bits but for one bit, so that only hashes with such a band are compared. Every hash with a close
    one is in some pair, but not every pair is given: of a band's value each hash keeps four, and where more than 64 to
    4,096 hashes (the fewer the larger n) share it, each is compared with that many, the next in order.
    """
    n = len(hashes)
    if n < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    partners = int(np.clip(_COMPARISONS / (_BANDS * (_WIDTH + 1) * n), *_PARTNERS))
    pairs = np.empty(0, np.int64)
    for band in range(_BANDS):
        keys = ((hashes >> np.uint64(_WIDTH * band)) & np.uint64(2**_WIDTH - 1)).astype(np.int64)
        order = np.lexsort((hashes, keys))
        bounds = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=2**_WIDTH))])
        own, codes = keys[order], [pairs]
        for flip in (0, *(1 << bit for bit in range(_WIDTH))):
            wanted = own ^ flip
            # each pair of band values once: a hash looks for larger values, and after itself among equal ones
            begin = np.arange(1, n + 1) if not flip else np.where(wanted > own, bounds[wanted], bounds[wanted + 1])
            codes.append(_compared(hashes, order, begin, np.clip(bounds[wanted + 1] - begin, 0, partners)))
        pairs = np.unique(np.concatenate(codes))
    return pairs // n, pairs % n


def _compared(hashes: npt.NDArray[np.uint64], order: Ints, begin: Ints, count: Ints) -> Ints:
    """(m,) first * n + second of the close pairs: hash `order[i]` with `count[i]` others from place `begin[i]` on."""
    n, total = len(order), np.concatenate([[0], np.cumsum(count)])
    ordered = hashes[order]
    close: list[Ints] = [np.empty(0, np.int64)]
    start = 0
    while start < n:
        # as many hashes as have a block's worth of partners, at least one
        stop = max(start + 1, int(np.searchsorted(total, total[start] + _BLOCK, side="right")) - 1)
        rows = np.repeat(np.arange(start, stop), count[start:stop])
        partner = begin[rows] + np.arange(len(rows)) - (total[rows] - total[start])
        near = np.flatnonzero(np.bitwise_count(ordered[rows] ^ ordered[partner]) <= BITS)
        # rows ascend: the rank of each among the close partners of its hash
        near = near[np.arange(len(near)) - np.searchsorted(rows[near], rows[near]) < _NEAR]
        a, b = order[rows[near]], order[partner[near]]
        close.append(np.minimum(a, b) * n + np.maximum(a, b))
        start = stop
    return np.concatenate(close)
