"""What each stored head adds to the logits of a run's images, in memory: right answers without any set of heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float32s, Ints
from clipaudit.cues.reliance.head_parts import relative_to_truth
from clipaudit.heads.ablation import Replacement
from clipaudit.schema import Label

MAX_BYTES: Final = 2**28
"""Of one table; a random sample of the images is taken where more would be needed."""
_BLOCK: Final = 2**15
"""Numbers of one set and block: what 100 sets leave of a block stays in a processor's cache."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadLogits:
    """m images, K = C - 1 wrong classes, P heads; blocks of B images, so that a set of heads is one product a block.

    Everything is relative to the true class: an answer is right where no wrong class has a logit above 0, and none
    that stands before the true class has 0, which is `argmax`'s answer.
    """

    heads: tuple[str, ...]
    numbers: Ints
    """(m,) numbers of the images' rows, ascending."""
    truth: Ints
    """(m,) class of each."""
    base: Float32s
    """(blocks, K * B) logits of the plain model."""
    removed: Float32s
    """(blocks, P, K * B) what each head's deviation from its mean adds to them."""
    classes: int

    @property
    def block(self) -> int:
        """Images in a block, B."""
        return int(self.base.shape[1]) // (self.classes - 1)

    def rights(self, sets: Bools) -> Bools:
        """(S, m) right answers without the heads of each of S sets (S, P)."""
        weights = np.asarray(sets, np.float32)
        K, B = self.classes - 1, self.block
        rights = np.empty((len(sets), len(self.base) * B), np.bool_)
        for place, (base, removed) in enumerate(zip(self.base, self.removed, strict=True)):
            left = weights @ removed
            np.subtract(base, left, out=left)
            left = left.reshape(len(sets), K, B)
            largest = left.max(axis=1)
            right = largest < 0
            self._ties(left, largest, right, place * B)
            rights[:, place * B : (place + 1) * B] = right
        return rights[:, : len(self.truth)]

    def _ties(self, left: Float32s, largest: Float32s, right: Bools, start: int) -> None:
        """Answers whose largest wrong logit equals the true one's, set in place: the first of equal classes wins."""
        for row, column in zip(*np.nonzero(largest == 0), strict=True):
            if start + column < len(self.truth):
                truth = int(self.truth[start + column])
                others = (truth + np.arange(1, self.classes)) % self.classes
                right[row, column] = not (left[row, others < truth, column] == 0).any()


def most_images(heads: int, classes: int) -> int:
    """Images of a table of at most MAX_BYTES."""
    return max(1, MAX_BYTES // (4 * (heads + 1) * (classes - 1)))


def sampled_rows(rows: int, heads: int, classes: int) -> Ints:
    """(m,) numbers of the rows whose logits fit: all of them, or a random sample, always the same one."""
    most = most_images(heads, classes)
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def truth_of(labels: Sequence[Any], class_of: Mapping[Label, int]) -> Ints:
    """(n,) the class of each label; -1 for a row without one."""
    return np.array([class_of.get(label, -1) for label in labels], np.int64)


def head_logits(
    embedding: npt.NDArray[Any],
    vectors: Callable[[str], npt.NDArray[Any]],
    classes: Float32s,
    truth: Ints,
    numbers: Ints,
    replacements: Sequence[Replacement],
) -> HeadLogits:
    """The table of some rows.

    Args:
        embedding: (n, D) of all rows, as stored.
        vectors: gives (n, dh) of a head, as stored.
        classes: (C, D) unit vectors, C at least 2.
        truth: (n,) class of every row.
        numbers: (m,) rows of the table, each with a class.
        replacements: P of them, one a head.
    """
    C, m = len(classes), len(numbers)
    B = min(max(_BLOCK // (C - 1), 16), 2048, max(16, m))
    blocks = max(1, -(-m // B))
    own = truth[numbers]
    # what no image fills is told from a tie by lying below 0
    base = _blocked(_products(embedding, numbers, classes.T, None), own, B, blocks, -1.0)
    removed = np.empty((blocks, len(replacements), base.shape[1]), np.float32)
    for place, each in enumerate(replacements):
        mean = each.mean.astype(np.float32)
        products = _products(vectors(each.column), numbers, each.toward(classes), mean)
        removed[:, place] = _blocked(products, own, B, blocks, 0.0)
    return HeadLogits(
        heads=tuple(each.column for each in replacements),
        numbers=numbers,
        truth=own,
        base=base,
        removed=removed,
        classes=C,
    )


def _products(values: npt.NDArray[Any], numbers: Ints, toward: Float32s, mean: Float32s | None) -> Float32s:
    """(m, C) of stored values (n, length), less their mean, with (length, C)."""
    products = np.empty((len(numbers), toward.shape[1]), np.float32)
    for start in range(0, len(numbers), 65_536):
        rows = values[numbers[start : start + 65_536]].astype(np.float32)
        products[start : start + 65_536] = (rows if mean is None else rows - mean) @ toward
    return products


def _blocked(logits: Float32s, truth: Ints, block: int, blocks: int, empty: float) -> Float32s:
    """(m, C) to (blocks, K * block) relative to the true class; `empty` where there is no image."""
    relative = relative_to_truth(logits, truth)  # (K, m)
    filled = np.full((len(relative), blocks * block), empty, np.float32)
    filled[:, : relative.shape[1]] = relative
    by_block: Float32s = filled.reshape(len(relative), blocks, block).swapaxes(0, 1).reshape(blocks, -1)
    return by_block
