"""Everything that findings are made from, computed once: images, tests, samples, logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.measure.answers import Answers, read_vectors
from clipaudit.cues.measure.directions import Direction
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.naming import Namer
from clipaudit.cues.measure.scan import Scan
from clipaudit.cues.options import AuditOptions
from clipaudit.cues.result.finding_parts import ClassesFrom
from clipaudit.cues.statistics.attributes import AttributeScreen
from clipaudit.cues.statistics.multiplicity import family_p, largest_statistics, strata_of
from clipaudit.cues.statistics.screen import Screen, joined
from clipaudit.cues.statistics.strength import Design, rank_covariance
from clipaudit.heads.texts.classes import ClassNames
from clipaudit.run.reader import Run

_MIN_SIDE: Final = 5
"""Images with and without a value that a class needs to count."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told what is done: (step, done, total)."""


class TextSource(Protocol):
    """Texts to unit vectors in the run's joint space; `RunTexts` is one."""

    def vectors(self, texts: Sequence[str]) -> Float32s:
        """(T, D) float32 unit vectors of texts."""

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> Float32s:
        """(C, D) float32 unit vectors of class names, the mean over prompt templates."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Context:
    """An audit's data, tests and logits.

    Letters: M directions, K tested classes, s sampled images, D the joint dimension.
    """

    run: Run = field(repr=False)
    options: AuditOptions
    names: ClassNames
    classes_from: ClassesFrom
    """What says which class an image is; with `caption` or `clip` no finding is more than observed."""
    classes: Float32s
    """(C, D) class vectors."""
    namer: Namer = field(repr=False)
    facts: ImageFacts = field(repr=False)
    """Images of the association, of the tested classes alone."""
    rows: str
    """Which rows these are, in words."""
    tested: Ints
    """(K,) the tested classes, as rows of `classes`."""
    design: Design = field(repr=False)
    """Of `facts`: class k is `tested[k]`."""
    scan: Scan = field(repr=False)
    attributes: tuple[AttributeScreen, ...]
    answers: Answers | None = field(repr=False)
    """None without labels: nothing says which answers are right."""
    answers_rows: str
    """Which rows are scored, in words."""
    agreement: tuple[Ints, Bools] | None = field(repr=False)
    """(n,) classes that captions name, and whether CLIP answers the same; None unless classes come from captions."""

    @cached_property
    def family(self) -> Screen:
        """All tests: directions, then each attribute's values; q over all of them."""
        return joined([self.scan.screen, *(attribute.tests for attribute in self.attributes)])

    @cached_property
    def flagged(self) -> Bools:
        """(M, K) which tests of `family` are findings (S4)."""
        return self.family.flagged(self.options.alpha, self.options.delta_warn)

    def row_of(self, attribute: AttributeScreen, place: int) -> int:
        """Row of `family` of an attribute's tested value; ValueError for an attribute of another audit."""
        start = len(self.scan.directions)
        for other in self.attributes:
            if other is attribute:
                return start + place
            start += len(other.values)
        raise ValueError("the attribute is not one of the audit's")

    # -- the sample ----------------------------------------------------------------------------------------------------

    @cached_property
    def sampled(self) -> ImageFacts:
        """The sampled images' facts."""
        return self.facts.take(self.scan.sample)

    @cached_property
    def truth(self) -> Ints:
        """(s,) tested class of each sampled image, 0..K-1."""
        truth: Ints = self.design.truth[self.scan.sample]
        return truth

    @cached_property
    def sample_design(self) -> Design:
        """The design of the sample."""
        return Design(self.truth, self.design.classes, self.sampled.cluster)

    @cached_property
    def embedding(self) -> Float32s:
        """(s, D) of the sampled images."""
        return read_vectors(self.run, "embedding", self.sampled.position).astype(np.float32)

    @cached_property
    def residuals(self) -> Float32s:
        """(s, M) float32 binned scores of each direction minus their class means, scaled to unit length."""
        return inside_classes(self.scan.codes.astype(np.float32), self.truth, self.design.classes)

    def correlations(self, scores: npt.NDArray[np.floating[Any]]) -> Float64s:
        """(M,) correlation, -1..1, of each direction with scores (s,), inside classes."""
        centred = inside_classes(scores.astype(np.float32)[:, None], self.truth, self.design.classes)[:, 0]
        correlations: Float64s = (self.residuals.T @ centred).astype(np.float64)
        return correlations

    def differences(self, having: Ints) -> Float64s:
        """(M,) strength D, -1..1, of a value along each direction inside classes.

        having: (s,) 1 with the value, 0 without, -1 unknown.
        """
        return inside_strength(self.residuals, having, self.truth, self.design.classes)

    @cached_property
    def largest(self) -> Float64s:
        """(permutations,) float64, largest |z| of all directions when the sample's labels are permuted (S3).

        Near duplicates stay together, and labels in their shard where shards hold several classes (S2). Empty when no
        permutations were asked for.
        """
        if not self.scan.codes.size or not self.options.permutations:
            return np.empty(0)
        codes = self.scan.codes.astype(np.float32)
        # bins hold about as many images each, so that their numbers are ranks but for scale
        ranks = codes - codes.mean(axis=0)
        ranks /= np.maximum(np.abs(ranks).max(axis=0), 1.0) * 2
        repeated = ranks[self.sample_design.repeated].astype(np.float64)
        between = np.array([rank_covariance(repeated[:, m], self.sample_design) for m in range(ranks.shape[1])])
        strata = strata_of(self.sample_design, self.sampled.shard_id.astype(np.int64))
        count, seed = self.options.permutations, self.options.seed
        return largest_statistics(ranks, self.sample_design, count, seed, between, strata)

    def p_family(self, z: float) -> float | None:
        """p of a statistic z adjusted for the largest of all tests (S3); None when no permutations were asked for."""
        return float(family_p(np.array([z]), self.largest)[0]) if len(self.largest) else None

    def scores(self, direction: Direction, plain: bool = False) -> Float32s:
        """(s,) float32 scores of the sample along a direction: class-free, or `plain`, with its class part (S0)."""
        values = self.scan.values[direction.head].astype(np.float32) - self.scan.means[direction.head].astype(
            np.float32
        )
        scores: Float32s = values @ (direction.plain if plain else direction.class_free).astype(np.float32)
        return scores

    def name(self, k: int) -> str:
        """Name of a tested class."""
        return self.names.names[int(self.tested[k])]

    def label(self, k: int) -> int | str:
        """Label of a tested class."""
        return self.names.labels[int(self.tested[k])]


def inside_classes(columns: Float32s, truth: Ints, classes: int) -> Float32s:
    """(s, M) float32 columns minus each class's mean, scaled to unit length; 0 where nothing varies.

    truth: (s,) classes, 0..classes-1.
    """
    counts = np.maximum(np.bincount(truth, minlength=classes), 1)
    order = np.argsort(truth, kind="stable")
    starts = np.searchsorted(truth[order], np.arange(classes))
    sums = np.add.reduceat(columns[order], np.minimum(starts, len(truth) - 1), axis=0)
    sums[np.bincount(truth, minlength=classes) == 0] = 0
    centred = columns - (sums / counts[:, None])[truth]
    length = np.sqrt(np.einsum("sm,sm->m", centred, centred, dtype=np.float64))
    return (centred / np.where(length > 0, length, 1.0)).astype(np.float32)


def inside_strength(columns: Float32s, having: Ints, truth: Ints, classes: int) -> Float64s:
    """(M,) D, -1..1, of a value against its absence along columns (s, M), inside classes, as if scores were normal.

    having: (s,) 1 with the value, 0 without, -1 unknown; truth: (s,) classes. A correlation would be small wherever
    nearly all images of a class have the value.
    """
    total, weight = np.zeros(columns.shape[1]), 0.0
    for k in range(classes):
        a, b = columns[(truth == k) & (having == 1)], columns[(truth == k) & (having == 0)]
        if min(len(a), len(b)) < _MIN_SIDE:
            continue
        spread = (a.var(axis=0) * len(a) + b.var(axis=0) * len(b)) / (len(a) + len(b))
        share = len(a) * len(b) / (len(a) + len(b))  # inverse variance of a difference of means
        total += share * (a.mean(axis=0) - b.mean(axis=0)) / np.sqrt(np.maximum(spread, 1e-30))
        weight += share
    # two normals d standard deviations apart: AUC = Phi(d / sqrt 2), D = 2 AUC - 1
    strength: Float64s = 2 * stats.norm.cdf(total / max(weight, 1e-9) / np.sqrt(2.0)) - 1
    return strength
