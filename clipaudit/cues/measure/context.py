"""Everything that findings are made from, computed once: images, tests, samples, logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.directions import Direction
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.naming import Namer
from clipaudit.cues.measure.scan import Scan
from clipaudit.cues.measure.vectors import read_vectors
from clipaudit.cues.options import AuditOptions
from clipaudit.cues.result.finding_parts import ClassesFrom
from clipaudit.cues.statistics.attributes import AttributeScreen, Omnibus
from clipaudit.cues.statistics.columns import ColumnKind
from clipaudit.cues.statistics.cuts import false_coverage_level, units_of
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.known_error import KnownError
from clipaudit.cues.statistics.multiplicity import Largest, largest_cuts, strata_of
from clipaudit.cues.statistics.screen import Screen, joined
from clipaudit.cues.statistics.sources import MIN_SOURCES, SourceTest
from clipaudit.run.classes import ClassNames
from clipaudit.run.reader import Run
from clipaudit.statistics import normal_below


class TextSource(Protocol):
    """Texts to unit vectors in the run's joint space; `textvectors.RunTexts` is one."""

    def vectors(self, texts: Sequence[str]) -> Float32s:
        """(T, D) of texts."""

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> Float32s:
        """(C, D) of class names."""


@dataclass(frozen=True, kw_only=True)
class ColumnTest:
    """A column as a whole, beside its values."""

    omnibus: Omnibus
    multi_class_auc: float | None
    """Of a number; None for other columns."""
    kind: ColumnKind
    """What its values were before they were cut into bins."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Presence:
    """One label of a run whose images have several: class 0 is the images with it, class 1 those without."""

    label: str
    """Its name."""
    others: Mapping[str, str]
    """Columns that say whether an image has another label -> that label's name."""
    labels: int
    """How many labels are tested."""
    largest: Float64s | None = None
    """(R,) the largest statistic of each permutation over the tests of all other labels; None while it is not known."""
    why_not: str = ""
    """Why no model of the label is measured; empty where one is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Context:
    """An audit's data, tests and logits."""

    run: Run = field(repr=False)
    options: AuditOptions
    names: ClassNames
    classes_from: ClassesFrom
    """With `caption` or `clip` nothing is more than observed."""
    classes: Float32s
    """(C, D) class vectors."""
    namer: Namer = field(repr=False)
    facts: ImageFacts = field(repr=False)
    """Images of the association, of the tested classes alone."""
    rows: str
    """Which, in words."""
    tested: Ints
    """(K,) the tested classes, as rows of `classes`."""
    design: Design = field(repr=False)
    """Of `facts`: class k is `tested[k]`."""
    source: SourceTest | None
    """The source that the audit found by itself."""
    sources: tuple[SourceTest, ...]
    """All columns tried as one."""
    scan: Scan = field(repr=False)
    attributes: tuple[AttributeScreen, ...]
    ranges: Mapping[str, str]
    """Names of ends of image properties -> what they hold, `picture brightness up to 0.31`."""
    measured: tuple[str, ...]
    """The image properties that were tested; those tied to the classes are among `attributes`."""
    columns: tuple[ColumnTest, ...]
    """The columns as a whole, in the order of `attributes`."""
    known_errors: Mapping[str, KnownError]
    """By column, where the user knows how often it is wrong."""
    answers: Answers | None = field(repr=False)
    """None without labels: nothing says which answers are right."""
    answers_rows: str
    agreement: tuple[Ints, Bools] | None = field(repr=False)
    """(n,) classes that captions name, and whether CLIP answers the same; None unless classes come from captions."""
    presence: Presence | None = None
    """Of one label where images have several; None where they have one."""

    @cached_property
    def tests(self) -> Screen:
        """All tests: directions, then each attribute's values and columns; q over all of them."""
        return joined([self.scan.screen, *(attribute.screen for attribute in self.attributes)])

    @cached_property
    def family(self) -> Screen:
        """The same with p-values adjusted for the largest of all directions and cuts, where permutations were asked
        for."""
        if not len(self.largest.largest):
            return self.tests
        return replace(self.tests, family=self.largest.p(self._cut_places))

    @cached_property
    def flagged(self) -> Bools:
        """(M, K) of `family`: the classes that each passing cut names."""
        return self.family.flagged(self.options.alpha, self.options.delta_warn)

    @cached_property
    def passed(self) -> Bools:
        """(M,) of `family`: the cuts that are significant and larger than delta."""
        return self.family.passed(self.options.alpha, self.options.delta_warn)

    @cached_property
    def class_low(self) -> Float64s:
        """(M, K) 95 % lower limit of |D| of each class against all others along every row of `family`."""
        return self.family.class_low()

    @cached_property
    def level(self) -> float:
        """Of the intervals of findings: as many of those that pass miss as of all (S1c)."""
        return false_coverage_level(int(self.passed.sum()), len(self.passed))

    @property
    def core_columns(self) -> frozenset[str]:
        """Columns that the user calls part of the class, by their full names."""
        named = set(self.options.core)
        return frozenset(
            screen.attribute.column
            for screen in self.attributes
            if {screen.attribute.column, screen.attribute.column.rpartition(".")[2]} & named
        )

    @property
    def named_sources(self) -> bool:
        """Whether the clusters are a column of sources that the user named."""
        return self.options.cluster is not None

    def row_of(self, attribute: AttributeScreen, place: int) -> int:
        """Row of `family` of an attribute's tested value, or of its column as a whole, the last one."""
        start = len(self.scan.directions)
        for other in self.attributes:
            if other is attribute:
                return start + place
            start += other.scores.shape[1]
        raise ValueError("the attribute is not one of the audit's")

    @property
    def few_sources(self) -> bool:
        """Whether images come from so few sources that nothing is decided."""
        return (self.named_sources or self.source is not None) and self.design.clusters < MIN_SOURCES

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
        """Of the sample."""
        source = None if self.design.source is None else self.design.source[self.scan.sample]
        codes = None if source is None else np.unique(source, return_inverse=True)[1].astype(np.int64)
        return Design(self.truth, self.design.classes, self.sampled.cluster, codes, self.sampled.discovery)

    @cached_property
    def embedding(self) -> Float32s:
        """(s, D) of the sampled images."""
        return read_vectors(self.run, "embedding", self.sampled.position).astype(np.float32)

    @cached_property
    def residuals(self) -> Float32s:
        """(s, M) each direction's binned scores inside classes, centred, of unit length."""
        return inside_classes(self.scan.codes.astype(np.float32), self.truth, self.design.classes)

    def correlations(self, scores: npt.NDArray[np.floating[Any]]) -> Float64s:
        """(M,) correlation of each direction with scores (s,), inside classes."""
        centred = inside_classes(scores.astype(np.float32)[:, None], self.truth, self.design.classes)[:, 0]
        # both sides are unit vectors without class means: products are correlations
        correlations: Float64s = (self.residuals.T @ centred).astype(np.float64)
        return correlations

    def differences(self, having: Ints) -> Float64s:
        """(M,) strength of a value (s,) 1 with, 0 without, -1 unknown, along each direction inside classes, -1..1."""
        return inside_strength(self.residuals, having, self.truth, self.design.classes)

    @cached_property
    def ranks(self) -> Float32s:
        """(s, M) centred ranks of the sample along every row of `family`; 0 where a column has no value."""
        columns = [_ranks(self.scan.codes.astype(np.float32))] if self.scan.directions else []
        for attribute in self.attributes:
            codes = attribute.attribute.codes[self.scan.sample]
            ranks = _ranks(attribute.scores[np.maximum(codes, 0)].astype(np.float32))
            columns.append(np.where((codes < 0)[:, None], np.float32(0), ranks))
        return np.concatenate(columns, axis=1) if columns else np.empty((len(self.scan.sample), 0), np.float32)

    @cached_property
    def largest(self) -> Largest:
        """All directions and cuts under permuted labels, on the confirmation half of the sample: near duplicates
        together, inside shards where those hold several classes."""
        design, count = self.sample_design, self.options.permutations
        if not self.ranks.shape[1] or not count:
            return Largest(observed=np.empty((0, 0)), spread=np.empty((0, 0)), largest=np.empty(0))
        units = units_of(self.ranks, design)
        strata = None if self.strata is None else self.strata[units.rows]
        # orders come from the discovery half, which the permutations of the other one leave alone
        orders = np.stack([cut.order for cut in self.tests.cuts])
        own = largest_cuts(units, orders, design.cut_sizes, design.classes, count, self.options.seed, strata)
        if self.presence is None or self.presence.largest is None:
            return own
        # one family over all labels: the maximum of maxima that are permuted apart is no smaller than their joint one
        return replace(own, largest=np.maximum(own.largest, self.presence.largest))

    @cached_property
    def strata(self) -> Ints | None:
        """(s,) strata inside which labels of the sample are permuted, by all tests and controls; None for one (S2)."""
        design = self.sample_design
        return strata_of(Design(design.truth, design.classes, design.groups), self.sampled.shard_id.astype(np.int64))

    @cached_property
    def _cut_places(self) -> Ints:
        """(M,) which of the tested cuts each direction's is."""
        sizes = np.array([int(cut.upper.sum()) for cut in self.tests.cuts], np.int64)
        return np.searchsorted(self.design.cut_sizes, sizes)

    def scores(self, direction: Direction, plain: bool = False) -> Float32s:
        """(s,) a direction's scores of the sampled images, class-free or as they are."""
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


def _ranks(columns: Float32s) -> Float32s:
    """(s, M) columns shifted and scaled to -1/2..1/2; their order is all that counts."""
    low, high = columns.min(axis=0), columns.max(axis=0)
    ranks: Float32s = (columns - (low + high) / 2) / np.maximum(high - low, np.float32(1e-12))
    return ranks


def inside_classes(columns: Float32s, truth: Ints, classes: int) -> Float32s:
    """(s, M) columns minus each class's mean, scaled to unit length; 0 where nothing varies."""
    counts = np.maximum(np.bincount(truth, minlength=classes), 1)
    order = np.argsort(truth, kind="stable")
    starts = np.searchsorted(truth[order], np.arange(classes))
    sums = np.add.reduceat(columns[order], np.minimum(starts, len(truth) - 1), axis=0)
    # reduceat gives a class without rows the next one's first row
    sums[np.bincount(truth, minlength=classes) == 0] = 0
    centred = columns - (sums / counts[:, None])[truth]
    length = np.sqrt(np.einsum("sm,sm->m", centred, centred, dtype=np.float64))
    return (centred / np.where(length > 0, length, 1.0)).astype(np.float32)


def inside_strength(columns: Float32s, having: Ints, truth: Ints, classes: int) -> Float64s:
    """(M,) D of a value against its absence along columns (s, M), inside classes, as if scores were normal.

    A correlation would be small wherever nearly all images of a class have the value.
    """
    total, weight = np.zeros(columns.shape[1]), 0.0
    for k in range(classes):
        a, b = columns[(truth == k) & (having == 1)], columns[(truth == k) & (having == 0)]
        if min(len(a), len(b)) < _LEAST:
            continue
        # pooled variance: normal scores d deviations apart have D = 2 Phi(d / sqrt 2) - 1
        spread = (a.var(axis=0) * len(a) + b.var(axis=0) * len(b)) / (len(a) + len(b))
        # Mantel and Haenszel's weight n1 n2 / (n1 + n2)
        share = len(a) * len(b) / (len(a) + len(b))
        total += share * (a.mean(axis=0) - b.mean(axis=0)) / np.sqrt(np.maximum(spread, 1e-30))
        weight += share
    strength: Float64s = 2 * normal_below(total / max(weight, 1e-9) / np.sqrt(2.0)) - 1
    return strength


_LEAST: Final = 5

Progress: TypeAlias = Callable[[str, int, int], None]
"""(what, done, total)"""
