"""A random sample of whole clusters: what is too slow, or too large, on all images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipaudit.arrays import Ints


def cluster_sample(cluster: Ints, most: int, seed: Sequence[int]) -> Ints:
    """Places of at most about `most` images, in order, from clusters (n,); all of them where they are no more.

    Clusters are drawn evenly, so that classes and columns keep their shares.
    """
    n = len(cluster)
    if n <= most:
        return np.arange(n)
    codes = np.unique(cluster, return_inverse=True)[1]
    rank = np.random.default_rng(list(seed)).permutation(int(codes.max()) + 1)
    sizes = np.bincount(rank[codes])
    last = int(np.searchsorted(np.cumsum(sizes), most, side="right"))
    return np.flatnonzero(rank[codes] < max(last, 1))
