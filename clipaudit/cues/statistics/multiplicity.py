"""Many tests at once: the largest statistic under permuted labels (max-T), discovery and confirmation halves (S3)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.statistics.strength import Design

_SALT: Final = b"clipaudit halves 1"
"""Another salt would put other images on the discovery half and so change every result."""


def permuted(design: Design, rng: np.random.Generator, strata: Ints | None = None) -> Ints:
    """(n,) int64 labels permuted; near duplicates stay together, labels stay in their stratum (S2, S13).

    strata: (n,) stratum of each row; None for one stratum.

    Clusters are shuffled and the labels, which lie in the order of the clusters, are laid out anew along them: clusters
    of one size exchange their labels exactly, others all but at their ends.
    """
    n = len(design.truth)
    cluster = np.arange(n) if design.cluster is None else design.cluster
    labels = np.empty(n, np.int64)
    levels = np.zeros(n, np.int64) if strata is None else strata
    for level in np.unique(levels):
        rows = np.flatnonzero(levels == level)
        names, codes = np.unique(cluster[rows], return_inverse=True)
        before = rows[np.argsort(codes, kind="stable")]
        after = rows[np.argsort(rng.permutation(len(names))[codes], kind="stable")]
        labels[after] = design.truth[before]
    return labels


def strata_of(design: Design, levels: Ints) -> Ints | None:
    """(n,) strata inside which labels may be permuted (S2): `levels` (n,), such as shards, with near duplicates.

    None, for all images together, where strata would leave nothing to permute: without clusters, when clusters span
    several levels, and when most of a class's images lie in levels of that class alone (shards sorted by class).
    """
    if design.cluster is None or not design.groups[1]:
        return None
    pairs = np.unique(np.stack([design.cluster, levels]), axis=1)
    if pairs.shape[1] > len(np.unique(pairs[0])):
        return None
    _, codes = np.unique(levels, return_inverse=True)
    table = np.zeros((int(codes.max()) + 1, design.classes), np.int64)
    np.add.at(table, (codes, design.truth), 1)
    mixed = (table > 0).sum(axis=1) >= 2
    strata: Ints = codes.astype(np.int64)
    return strata if bool((table[mixed].sum(axis=0) >= table.sum(axis=0) / 2).all()) else None


def largest_statistics(
    ranks: npt.NDArray[np.float32],
    design: Design,
    permutations: int,
    seed: int,
    between: Float64s | None = None,
    strata: Ints | None = None,
) -> Float64s:
    """(permutations,) float64, the largest |z| over all directions and classes when labels are permuted (S3).

    Westfall and Young, Resampling-Based Multiple Testing (1993), single step.

    ranks: (n, M) float32 of every direction, centred, -1/2..1/2. between: (M,) covariance of the ranks of two images of
    one cluster. strata: (n,) inside which labels are permuted.

    The statistic is the projection of A_k on single rows (mean rank against the rivals' mean rank), which has the same
    distribution under permuted labels and costs one sparse product.
    """
    rng = np.random.default_rng([seed, 1])
    variance = np.maximum((ranks.astype(np.float64) ** 2).mean(axis=0), 1e-12)  # (M,)
    largest = np.zeros(permutations)
    K = design.classes
    for number in range(permutations):
        dealt = Design(permuted(design, rng, strata), K, design.cluster)
        n = dealt.counts
        members = sparse.csr_array(
            (1 / n[dealt.truth].astype(np.float32), (dealt.truth, np.arange(len(dealt.truth)))),
            shape=(K, len(dealt.truth)),
        )
        mean = members @ ranks  # (K, M)
        contrast = mean - (mean.sum(axis=0) - mean) / (K - 1)
        # null_variance is for ranks of variance 1/12, those without ties
        spread = 12 * dealt.null_variance[:, None] * variance[None, :]
        if between is not None and dealt.groups[1]:
            spread = spread + dealt.shared_weight[:, None] * between[None, :]
            spread = spread * dealt.clusters / max(dealt.clusters - 1, 1)
        largest[number] = float((np.abs(contrast) / np.sqrt(spread)).max())
    return largest


def family_p(z: Floats, largest: Float64s) -> Float64s:
    """P-values adjusted for the largest of all tests: (1 + permutations at least as large) / (1 + permutations).

    z: any shape; largest: from `largest_statistics`. Returns float64 of the shape of z.
    """
    ordered = np.sort(largest)
    above = len(ordered) - np.searchsorted(ordered, np.abs(z), side="left")
    p: Float64s = (1 + above) / (1 + len(ordered))
    return p


def discovery_half(shard_id: npt.NDArray[np.int32], keys: Iterable[str]) -> Bools:
    """(n,) which images are on the discovery half: by a hash of shard and key, the same in every audit (S3)."""
    bits = [
        hashlib.blake2b(f"{shard}/{key}".encode(), digest_size=1, salt=_SALT[:16]).digest()[0] & 1
        for shard, key in zip(shard_id.tolist(), keys, strict=True)
    ]
    return np.array(bits, np.bool_)
