"""What reliance is measured on: scored images, a cue's column, other columns, and the limits of the rules (S9, S10)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.reliance.clustered import Cells
from clipaudit.cues.statistics.known_error import KnownError
from clipaudit.cues.statistics.sources import MIN_SOURCES

_FOLDS: Final = 24
LEAST_PIECES: Final = 5.0
"""Independent images that each cell of a class needs for the class to be compared (S9)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredImages:
    """n labelled images that answerers are scored on."""

    truth: Ints
    """(n,) class, 0..classes-1."""
    classes: int
    """Classes to answer with, C."""
    cluster: Ints
    """(n,) code of the near-duplicate cluster or source; images of one cluster share the weight of one (S2b)."""
    discovery: Bools
    """(n,) on the discovery half; whole clusters are on one half."""
    sources: bool = False
    """Clusters are sources: few, large, with different images. Intervals are then delete-one-source jackknife t."""

    @cached_property
    def weight(self) -> Float64s:
        """(n,) 1 / images of the cluster."""
        codes = np.unique(self.cluster, return_inverse=True)[1]
        weights: Float64s = 1.0 / np.bincount(codes)[codes]
        return weights

    def folds(self, count: int) -> Ints:
        """(n,) fold of each image, 0..count-1, an even count: whole clusters, half of the folds on each half, every
        class spread evenly."""
        names, first, codes = np.unique(self.cluster, return_index=True, return_inverse=True)
        half, shuffled = self.discovery[first].astype(np.int64), np.random.default_rng(_FOLDS).permutation(len(names))
        # dealt in turn, by half and class, in an order of their own
        order = shuffled[np.lexsort((self.truth[first][shuffled], half[shuffled]))]
        dealt = np.empty(len(names), np.int64)
        dealt[order] = np.arange(len(names)) % (count // 2)
        folds: Ints = (half * (count // 2) + dealt)[codes]
        return folds

    @property
    def too_few_sources(self) -> bool:
        """Whether there are sources, and fewer than eight."""
        return self.sources and len(np.unique(self.cluster)) < MIN_SOURCES

    def cells(self, cell: Ints, count: int) -> Cells:
        """Cells of these images from codes (n,), -1 for images in none."""
        return Cells(cell=cell, count=count, weight=self.weight, cluster=self.cluster, sources=self.sources)

    def take(self, rows: Ints) -> ScoredImages:
        """Some of the images, by their places (m,)."""
        return ScoredImages(
            truth=self.truth[rows],
            classes=self.classes,
            cluster=self.cluster[rows],
            discovery=self.discovery[rows],
            sources=self.sources,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class CueColumn:
    """One cue as a column: which images have it, and which classes do."""

    name: str
    """For people: `place=water`."""
    having: Ints
    """(n,) 1 has it, 0 lacks it, -1 unknown."""
    pointed: Bools
    """(C,) classes that have the cue (S1b); the others of `tested` lack it."""
    tested: Bools
    """(C,) classes of the finding; images of others are left out."""
    text: Float32s | None = None
    """(D,) unit text vector of the cue, for the arm that takes a text's direction out; None for none."""
    measured: bool = False
    """Measured on the pixels (`image.*`), so that it follows from whatever is in the picture."""
    error: KnownError | None = None
    """How often the column is wrong (S6c); None where it is taken as it is."""
    values: int = 2
    """Values of the column, over which wrong ones spread."""
    scored: Bools | None = None
    """(n,) images that it is scored on; None for all. A cue that answers of some images chose is scored on the others:
    those that chose it only teach, which heads to take out and what they see of it."""

    def pointing(self, truth: Ints) -> Ints:
        """(n,) 0 where the cue points to the image's class, 1 where it points elsewhere, -1 in neither."""
        inside = (self.having >= 0) & self.tested[truth]
        points_here = (self.having == 1) == self.pointed[truth]
        return np.where(inside, np.where(points_here, 0, 1), -1)

    def conflicting(self, truth: Ints) -> Ints:
        """(n,) the same of the images that are scored, -1 for the others."""
        return self.pointing(truth) if self.scored is None else np.where(self.scored, self.pointing(truth), -1)

    def take(self, rows: Ints) -> CueColumn:
        """The same of some images, by places (m,)."""
        return replace(self, having=self.having[rows], scored=None if self.scored is None else self.scored[rows])

    def drawn(self, rows: Ints, places: Ints) -> Ints:
        """(..., m) the values of the images at places (..., m) for those at rows (m,); what chose the cue keeps its
        own, as it is the same whatever the others have."""
        values = self.having[places]
        return values if self.scored is None else np.where(self.scored[rows], values, self.having[rows])

    def moved(self, rows: Ints, places: Ints) -> CueColumn:
        """A drawn column of the images at rows (m,): with the values of those at places (m,)."""
        return replace(self.take(rows), having=self.drawn(rows, places))

    def among(self, rows: Bools) -> CueColumn:
        """The same with the images outside a mask (n,) bool unknown, which leaves them out of everything."""
        return replace(self, having=np.where(rows, self.having, -1))


@dataclass(frozen=True, eq=False, kw_only=True)
class OtherColumn:
    """Another declared column, that may explain a cue's gap (S9b)."""

    name: str
    codes: Ints
    """(n,) bin, -1 unknown; at most five bins."""
    aligned: Bools
    """(C, V) whether a bin goes with a class where the association was measured."""
    of: tuple[str, ...] = ()
    """Names of the cues that are values of this very column; it is not held against them."""

    def take(self, rows: Ints) -> OtherColumn:
        """The same of some images, by places (m,), repeated or shuffled."""
        return OtherColumn(name=self.name, codes=self.codes[rows], aligned=self.aligned, of=self.of)


@dataclass(frozen=True, kw_only=True)
class RelianceOptions:
    """The limits of the rules."""

    margin: float = 0.05
    """A gap below this is none: a share of images (`--margin`)."""
    delta: float = 0.2
    """A margin D below this is none."""
    alpha: float = 0.05
    draws: int | None = None
    """Permutations of the columns; None for max(199, 40 x findings)."""
    random_sets: int = 200
    """Control sets of heads, or of directions."""
    label_error: float | None = None
    """Estimated share of wrong labels, 0..1; None for unknown."""
    clean_labels: bool = False
    """The user vouches for the labels (`--clean-labels`)."""
    placebo_rows: int = 4000
    """Images that permutations are made on, at most; a sample is drawn above."""
    seed: int = 0

    def draws_for(self, cues: int) -> int:
        """Permutations for a number of findings."""
        return max(199, 40 * cues) if self.draws is None else self.draws


@dataclass(frozen=True, eq=False, kw_only=True)
class CueCells:
    """The cells class x (aligned, conflicting) of a cue, and the weights of the classes that can be compared.

    Cell 2 k holds the aligned images of class k, cell 2 k + 1 the conflicting ones. The classes that have the cue and
    those that lack it count alike, classes inside a side too: with one class of ten, the nine would drown it.
    """

    images: ScoredImages
    cue: CueColumn
    cells: Cells = field(repr=False)
    shares: Float64s
    """(C,) weight of each class in every average over classes; sums to 1, or 0 where no class can be compared."""

    @cached_property
    def comparable(self) -> Bools:
        """(C,) classes with enough independent images in both cells."""
        return self.shares > 0

    @cached_property
    def both_sides_comparable(self) -> bool:
        """Whether a class that has the cue and one that lacks it can be compared."""
        return bool((self.comparable & self.cue.pointed).any() and (self.comparable & ~self.cue.pointed).any())

    def side(self, pointed: bool) -> Float64s:
        """(C,) weights over the classes that have the cue, or those that lack it; sum to 1 or 0."""
        chosen = np.where(self.cue.pointed == pointed, self.shares, 0.0)
        weights: Float64s = chosen / max(float(chosen.sum()), 1e-300)
        return weights

    def difference(self, shares: Float64s) -> Float64s:
        """(2 * C,) coefficients of aligned minus conflicting, classes weighted by shares (C,)."""
        return np.stack([shares, -shares], axis=1).ravel()

    def part(self, shares: Float64s, conflicting: int) -> Float64s:
        """(2 * C,) coefficients of the aligned (0) or conflicting (1) images alone."""
        columns = np.zeros((len(shares), 2))
        columns[:, conflicting] = shares
        return columns.ravel()

    @cached_property
    def mean(self) -> Float64s:
        """(2 * C,) coefficients of the group mean: every cell of a comparable class counts alike."""
        by_class = self.comparable / max(2 * int(self.comparable.sum()), 1)
        return np.repeat(by_class, 2)


def class_shares(usable: Bools, pointed: Bools) -> Float64s:
    """(..., C) weights of usable classes (..., C): both sides of the cue count alike, classes inside a side too.

    With one side alone, that side has all the weight; 0 where no class is usable.
    """
    sides = np.stack([usable & pointed, usable & ~pointed]).astype(np.float64)  # (2, ..., C)
    sizes = sides.sum(axis=-1, keepdims=True)
    # 1 / size inside a side, then 1 / 2 for each of two sides
    sides = sides / np.maximum(sizes, 1.0)
    present = (sizes > 0).sum(axis=0)
    shares: Float64s = sides.sum(axis=0) / np.maximum(present, 1)
    return shares


def cue_cells(images: ScoredImages, cue: CueColumn) -> CueCells:
    """Cells of a cue on scored images; a class with fewer than five independent images in a cell is left out."""
    conflicting = cue.conflicting(images.truth)
    cell = np.where(conflicting >= 0, 2 * images.truth + conflicting, -1)
    cells = images.cells(cell, 2 * images.classes)
    # pieces, not images: copies and large sources make no cell larger
    usable = cells.pieces.reshape(-1, 2).min(axis=1) >= LEAST_PIECES
    return CueCells(images=images, cue=cue, cells=cells, shares=class_shares(usable, cue.pointed))
