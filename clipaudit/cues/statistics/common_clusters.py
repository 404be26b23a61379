"""Clusters of several sets of images, numbered alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from clipaudit.arrays import Bools, Ints


def common_clusters(parts: Sequence[Sequence[tuple[Ints, Bools]]]) -> tuple[Ints, ...]:
    """Cluster codes of several sets of images numbered alike: images that share any of their codes are of one cluster.

    parts: for each set of images its codings, as many for every set and each numbered alike over the sets: codes (n,)
    and whether each is known (n,).
    """
    sizes = [len(codings[0][0]) for codings in parts]
    total = int(sum(sizes))
    rows, columns, offset = [], [], total
    for kind in range(len(parts[0])):
        codes = np.concatenate([codings[kind][0] for codings in parts])
        known = np.flatnonzero(np.concatenate([codings[kind][1] for codings in parts]))
        kinds, place = np.unique(codes[known], return_inverse=True)
        rows.append(known)
        columns.append(place + offset)
        offset += len(kinds)
    edges = (np.ones(sum(len(part) for part in rows), np.int8), (np.concatenate(rows), np.concatenate(columns)))
    links = sparse.coo_array(edges, shape=(offset, offset))
    labels = sparse.csgraph.connected_components(links, directed=False)[1][:total]
    ends = np.cumsum(sizes)[:-1]
    return tuple(part.astype(np.int64) for part in np.split(labels, ends))
