"""Near duplicates that an audit finds by itself: hashes that nearly agree, and embeddings that agree, too (S2b)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.measure.vectors import read_vectors
from clipaudit.cues.statistics.near_hashes import BITS, close_pairs
from clipaudit.run.reader import Run

MIN_DETAIL: Final = 8
"""Perceptual hashes with fewer bits set or unset are those of flat images, which are alike without being duplicates."""
QUANTILE: Final = 0.99
"""Of the cosines of different images of one class: copies must be more alike than all but 1 % of those."""
_LIMITS: Final = (0.8, 0.995)
"""Least and largest cosine that copies are asked for. Nine in ten CIFAR-10 images and their copies at half the size
have .84 and more; pictures saved again have .99 and more, and float16 rounds."""
_USUAL: Final = 0.95
"""Cosine asked for where too few images say how alike different ones are; that of `clipaudit duplicates`."""
_DIFFERENT: Final = 20
"""Hashes that differ in more bits are of different images; unrelated ones differ in about 32."""
_IMAGES: Final = 2_000
_PAIRS: Final = 20_000
_LEAST_PAIRS: Final = 200
"""Pairs of different images that a quantile of 99 % needs."""
_SEED: Final = 4


def detailed(phash: Ints) -> Bools:
    """(n,) bool, which perceptual hashes (n,) int64 are of images that are not flat."""
    bits = np.bitwise_count(phash.view(np.uint64)).astype(np.int64)
    result: Bools = (bits >= MIN_DETAIL) & (bits <= 64 - MIN_DETAIL)
    return result


def near_duplicates(run: Run, position: Ints, truth: Ints, phash: Ints, known: Bools) -> Ints:
    """(n,) int64 cluster 0..G-1 of each image, the same in every audit of these images.

    position (n,) places among the run's ok rows, ascending; truth (n,) classes, -1 for none; phash (n,) int64; known
    (n,) which hashes say something, as from `detailed`. Images with equal hashes are copies. So are images whose hashes
    differ in at most seven bits and whose embeddings are closer than 99 % of the pairs of different images of one class
    (`least_cosine`): a hash sees shapes and no content, and an embedding takes two photographs of one scene for copies.
    Clusters are joined through their members. All images are compared, in memory and time about linear in n.
    """
    _, codes = np.unique(phash, return_inverse=True)
    codes = codes.astype(np.int64)
    # flat images have the same hashes without being copies
    codes[~known] = codes.max(initial=-1) + 1 + np.arange(int((~known).sum()))
    _, first, groups = np.unique(codes, return_index=True, return_inverse=True)
    groups = groups.astype(np.int64)
    # one image of each hash: the others are in its cluster already
    usable = first[known[first]]
    a, b = (usable[places] for places in close_pairs(phash[usable].view(np.uint64)))
    if not len(a):
        return groups
    rows, (a, b) = _numbered(a, b)
    sample = sample_of(known)
    limit = least_cosine(_unit(run, position[sample]), truth[sample], phash[sample])
    embedding = _unit(run, position[rows])
    alike = np.einsum("md,md->m", embedding[a], embedding[b]) >= limit
    return _joined(groups, rows[a[alike]], rows[b[alike]])


def copies_of(
    image: int, phash: Ints, known: Bools, embedding: Callable[[Ints], Float32s], limit: float, most: int
) -> Ints:
    """(m,) places of the images in the cluster of one image, as `near_duplicates` joins them; ascending, without it.

    phash and known (n,) as there; embedding gives (k, D) unit rows at places (k,); limit from `least_cosine`. Takes
    time linear in n for each different hash of the cluster, and looks no further once `most` images are found.
    """
    if not known[image]:
        return np.empty(0, np.int64)
    hashes = phash.view(np.uint64)
    outside = known.copy()
    edge, found = [hashes[image]], 0
    while edge and found < most:
        own = edge.pop(0)
        bits = np.bitwise_count(hashes ^ own)
        outside &= bits > 0
        near = np.flatnonzero(outside & (bits <= BITS))
        # one image of each hash is compared, the first: the others are in its cluster already
        values, first = np.unique(hashes[near], return_index=True)
        alike = embedding(near[first]) @ embedding(np.flatnonzero(known & (bits == 0))[:1])[0] >= limit
        for value in values[alike]:
            outside &= hashes != value
            edge.append(value)
        found = int((known & ~outside).sum()) - 1
    same = np.flatnonzero(known & ~outside)
    others: Ints = same[same != image][:most].astype(np.int64)
    return others


def sample_of(known: Bools) -> Ints:
    """(m,) places of at most 2,000 images whose pairs say how alike different ones are, always the same; ascending."""
    sample: Ints = np.sort(np.random.default_rng(_SEED).permutation(np.flatnonzero(known))[:_IMAGES])
    return sample


def least_cosine(embedding: Float32s, truth: Ints, phash: Ints) -> float:
    """The cosine that 99 % of the pairs of different images of one class stay below, within .8 to .995.

    embedding (m, D) of unit length; truth (m,) classes, those of -1 compared with each other; phash (m,) int64. Up to
    20,000 random pairs of one class whose hashes differ in more than 20 bits; .95 when they are fewer than 200. A fixed
    limit would join different pictures with one model and miss copies with another: at 99 % it was .85 on CIFAR-10 and
    .98 on PACS, through the demo's model.
    """
    order = np.argsort(truth, kind="stable")
    _, starts, sizes = np.unique(truth[order], return_index=True, return_counts=True)
    rng = np.random.default_rng([_SEED, 1])
    a = rng.integers(0, max(len(order), 1), _PAIRS if len(order) else 0)
    level = np.searchsorted(starts, a, side="right") - 1
    # a partner of the same class, drawn evenly
    b = starts[level] + (rng.random(len(a)) * sizes[level]).astype(np.int64)
    first, second = order[a], order[b]
    bits = np.bitwise_count(phash[first].view(np.uint64) ^ phash[second].view(np.uint64))
    different = bits > _DIFFERENT
    if int(different.sum()) < _LEAST_PAIRS:
        return _USUAL
    cosine: Float64s = np.einsum("md,md->m", embedding[first[different]], embedding[second[different]])
    return float(np.clip(np.quantile(cosine, QUANTILE), *_LIMITS))


def unit_rows(vectors: npt.NDArray[Any]) -> Float32s:
    """(m, D) stored embeddings at length 1, which float16 keeps about."""
    values = vectors.astype(np.float32)
    unit: Float32s = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return unit


def _unit(run: Run, position: Ints) -> Float32s:
    return unit_rows(read_vectors(run, "embedding", position))


def _numbered(a: Ints, b: Ints) -> tuple[Ints, tuple[Ints, Ints]]:
    """The different places among both, ascending, and where each of a and b stands among them."""
    rows, where = np.unique(np.concatenate([a, b]), return_inverse=True)
    return rows, (where[: len(a)], where[len(a) :])


def _joined(groups: Ints, a: Ints, b: Ints) -> Ints:
    """Groups (n,) with those of a (m,) and b (m,) made one; numbered anew."""
    G = int(groups.max(initial=-1)) + 1
    links = sparse.coo_array((np.ones(len(a), np.bool_), (groups[a], groups[b])), shape=(G, G))
    _, component = sparse.csgraph.connected_components(links, directed=False)
    joined: Ints = component.astype(np.int64)[groups]
    return joined
