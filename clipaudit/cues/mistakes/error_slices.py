"""Error slices: what goes with an answerer being wrong inside a class, tested on the confirmation half (S15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.mistakes.trait_search import (
    MIN_EFFECTIVE,
    ChosenTrait,
    Trait,
    Traits,
    chosen_traits,
    fitted,
    null_design,
)
from clipaudit.cues.reliance.clustered import Cells
from clipaudit.cues.reliance.score_intervals import cell_accuracies, effective, quantile, score_combination
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.sources import MIN_SOURCES
from clipaudit.statistics import benjamini_hochberg, fisher_above, normal_above, student_above, wilson

MIN_WRONG: Final = 10.0
"""Independent wrong answers, and right ones, that a class needs on each half to be searched."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SliceTest:
    """One trait of one class, tested on the confirmation half."""

    k: int
    """Class, 0..K-1."""
    chosen: ChosenTrait
    before: tuple[Trait, ...]
    """Traits of the class that were chosen before it, and that it is tested beside."""
    p: float
    """One-sided: images with the trait are more often wrong than the traits before it explain."""
    having: Ints = field(repr=False)
    """(s,) places of the class's images that have the trait, both halves, most of it first."""
    inside: float
    """Independent images with the trait on the confirmation half."""
    outside: float
    """Independent images of the class without it, there."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AcceptedSlice:
    """A test that passed, with its figures, which are all read on the confirmation half."""

    test: SliceTest
    q: float
    """Benjamini-Hochberg over all tests of the report."""
    wrong: Estimate
    """Share of wrong answers among the class's images with the trait."""
    others: Estimate
    """The same among the class's other images."""
    difference: Estimate
    lift: Estimate
    """Share with the trait divided by the share without; the upper end is None where no other image is wrong."""
    share_of_errors: float
    """Part of the class's wrong answers that lie in the slice, 0..1."""


@dataclass(frozen=True, kw_only=True)
class SearchedClasses:
    """Where an answerer's errors were looked at."""

    searched: tuple[int, ...]
    """Classes with enough right and wrong answers on both halves."""
    too_few: tuple[int, ...]
    """The others."""


def searched_classes(wrong: Bools, design: Design) -> SearchedClasses:
    """The classes whose errors can be searched; wrong (n,). None with fewer than eight sources (S2b)."""
    weight = _weight(design)
    enough = np.ones(design.classes, np.bool_)
    for half in (design.halves, ~design.halves):
        for errs in (wrong, ~wrong):
            rows = half & errs
            enough &= np.bincount(design.truth[rows], weight[rows], minlength=design.classes) >= MIN_WRONG
    if design.source is not None and design.clusters < MIN_SOURCES:
        enough[:] = False
    return SearchedClasses(
        searched=tuple(np.flatnonzero(enough).tolist()), too_few=tuple(np.flatnonzero(~enough).tolist())
    )


def slice_tests(traits: Traits, wrong: Bools, design: Design, seed: int = 0) -> list[SliceTest]:
    """Traits of each class that may go with errors, chosen on the discovery half and tested on the other one.

    wrong: (n,) whether an answerer's answer is not the label. Traits with fewer than 30 independent images on either
    side of their cut on the confirmation half are not tested.
    """
    weight = _weight(design)
    tests = []
    for k in searched_classes(wrong, design).searched:
        inside = design.truth == k
        first, second = np.flatnonzero(inside & design.halves), np.flatnonzero(inside & ~design.halves)
        before: list[Trait] = []
        for chosen in chosen_traits(traits, wrong, weight, first, seed):
            test = _test(traits, wrong, design, weight, k, chosen, tuple(before), second)
            before.append(chosen.trait)
            if test is not None:
                tests.append(test)
    return tests


def _weight(design: Design) -> Float64s:
    return np.ones(len(design.truth)) if design.weight is None else design.weight


def _test(
    traits: Traits,
    wrong: Bools,
    design: Design,
    weight: Float64s,
    k: int,
    chosen: ChosenTrait,
    before: tuple[Trait, ...],
    rows: Ints,
) -> SliceTest | None:
    """The trait on the confirmation half's images `rows` of class k; None with too few images."""
    has = chosen.trait.scores(traits, rows) > 0
    w, e = weight[rows], wrong[rows].astype(np.float64)
    within, without = float(w[has].sum()), float(w[~has].sum())
    if min(within, without) < MIN_EFFECTIVE:
        return None
    null = null_design(traits, before, rows)
    probability = fitted(null, e, w)
    groups = np.arange(len(rows)) if design.groups is None else design.groups[rows]
    p = _score_p(null, w, e, probability, has.astype(np.float64), groups, design.source is not None)
    if not before:
        # exact, where few are wrong and the statistic is not normal yet: of copies each set counts as one
        table = [[w[has] @ e[has], w[has] @ (1 - e[has])], [w[~has] @ e[~has], w[~has] @ (1 - e[~has])]]
        p = max(p, fisher_above(np.rint(table)))
    every = np.flatnonzero(design.truth == k)
    scores = chosen.trait.scores(traits, every)
    order = np.argsort(-scores, kind="stable")
    having = every[order[: int((scores > 0).sum())]]
    return SliceTest(k=k, chosen=chosen, before=before, p=p, having=having, inside=within, outside=without)


def _score_p(
    null: Float64s, w: Float64s, e: Float64s, probability: Float64s, has: Float64s, groups: Ints, sources: bool
) -> float:
    """One-sided p of the score statistic of adding `has` to a logistic regression, all (m,), errors by groups."""
    variance = w * probability * (1 - probability)
    # the trait without what the columns of the null say of it: then its score does not depend on their estimates
    information = np.linalg.pinv((null * variance[:, None]).T @ null)
    free = has - null @ (information @ (null.T @ (variance * has)))
    codes = np.unique(groups, return_inverse=True)[1]
    scores = np.bincount(codes, w * free * (e - probability))
    G = len(scores)
    # sums over groups are independent; the model's variance where few of them make the estimated one small
    estimated = float((scores**2).sum()) * G / max(G - 1, 1)
    modelled = float((variance * free**2).sum())
    z = float(scores.sum()) / max(np.sqrt(max(estimated, modelled)), 1e-12)
    return student_above(z, max(G - 1, 1)) if sources else float(normal_above(z))


def accepted_slices(
    tests: Sequence[Sequence[SliceTest]],
    wrong: Sequence[Bools],
    designs: Sequence[Design],
    *,
    alpha: float = 0.05,
    margin: float = 0.05,
) -> list[list[AcceptedSlice]]:
    """The tests of each answerer that pass, strongest first; wrong (n,) and designs by answerer, of the images that it
    answers.

    All tests of all answerers are one family for Benjamini and Hochberg's q; a slice also needs the whole interval of
    its difference above `margin`, a share of images. Intervals are at 1 - .05 passed / tested (Benjamini and Yekutieli,
    JASA 2005), because those that are shown were chosen.
    """
    flat = [test for one_answerer in tests for test in one_answerer]
    q = benjamini_hochberg(np.array([test.p for test in flat]))
    level = 1 - alpha * max(int((q <= alpha).sum()), 1) / max(len(flat), 1)
    q_of = {id(test): float(value) for test, value in zip(flat, q, strict=True)}
    results = []
    for one_answerer, errs, design in zip(tests, wrong, designs, strict=True):
        passed = [
            figures_of(test, errs, design, q_of[id(test)], level) for test in one_answerer if q_of[id(test)] <= alpha
        ]
        large = [entry for entry in passed if (entry.difference.low or 0.0) > margin]
        results.append(sorted(large, key=lambda entry: -(entry.difference.low or 0.0)))
    return results


def figures_of(test: SliceTest, wrong: Bools, design: Design, q: float, level: float) -> AcceptedSlice:
    """The figures of a test, on the confirmation half; wrong (n,)."""
    has = np.zeros(len(design.truth), np.bool_)
    has[test.having] = True
    inside = (design.truth == test.k) & ~design.halves
    groups = np.arange(len(has)) if design.groups is None else design.groups
    cells = Cells(
        cell=np.where(inside, np.where(has, 0, 1), -1),
        count=2,
        weight=_weight(design),
        cluster=groups,
        sources=design.source is not None,
    )
    shares = cell_accuracies(cells, wrong, level)
    counts = cells.total * cells.means(wrong)
    return AcceptedSlice(
        test=test,
        q=q,
        wrong=shares[0],
        others=shares[1],
        difference=score_combination(cells, wrong, np.array([1.0, -1.0]), level),
        lift=_lift(cells, wrong, level),
        share_of_errors=float(counts[0] / max(counts.sum(), 1e-12)),
    )


def _lift(cells: Cells, wrong: Bools, level: float) -> Estimate:
    """p1 / p0 with limits from the cells' Wilson limits on a log scale (Zou and Donner, Stat. Med. 2008)."""
    share, n = cells.means(wrong), effective(cells, wrong)
    low, high = wilson(share, n, quantile(cells, level))
    images = int(cells.independent.sum())
    if share[1] <= 0 or share[0] <= 0:
        bottom = None if high[1] <= 0 else float(low[0] / high[1])
        return Estimate(value=None, low=bottom, high=None, n=images, level=level)
    ratio = np.log(share[0] / share[1])
    # log p1 - log p0: distances down and up of both parts
    down = np.hypot(np.log(share[0] / max(low[0], 1e-12)), np.log(high[1] / share[1]))
    up = np.hypot(np.log(high[0] / share[0]), np.log(share[1] / max(low[1], 1e-12)))
    ends = [float(np.exp(value)) for value in (ratio, ratio - down, ratio + up)]
    return Estimate(value=ends[0], low=ends[1], high=ends[2], n=images, level=level)
