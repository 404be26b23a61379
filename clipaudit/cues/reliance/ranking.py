"""How well one label of several is ranked where a cue points right, and where it points wrong: the AUC gap (S9)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.reliance.clustered import Numbers, Spread
from clipaudit.cues.reliance.gap import Gap, Ranking, both_sides, cell_scores, cell_sizes, state_of
from clipaudit.cues.reliance.images import CueCells, CueColumn, RelianceOptions, ScoredImages, cue_cells
from clipaudit.cues.reliance.rank_difference import margins, placements, rank_difference
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.cuts import strength_interval

CHANCE: Final = 0.5
"""AUC of scores that say nothing."""


def presence_scores(logits: Float32s) -> Float32s:
    """(..., n) log-odds of a label from logits (..., n, 2), of images with it and of images without."""
    scores: Float32s = logits[..., 0] - logits[..., 1]
    return scores


@dataclass(frozen=True, eq=False, kw_only=True)
class Rankings:
    """AUCs of scores for a label, class 0 of two, inside the images where a cue points right and inside the others.

    Both are means of DeLong's placements over cells of label x cue, so that differences of them, also between two ways
    to train, are combinations of cell means, with errors by cluster (DeLong and others, Biometrics 1988; Obuchowski,
    Biometrics 1997).
    """

    comparison: CueCells

    def gap(self, scores: Numbers, level: float = 0.95) -> Estimate:
        """AUC where the cue points right minus AUC where it points wrong, -1..1, of scores (n,); value None where a
        cell has too few images."""
        return self._combined(scores, (1.0, -1.0), level)

    def mean(self, scores: Numbers) -> Estimate:
        """Mean of both AUCs, 0..1."""
        return self._combined(scores, (0.5, 0.5))

    def part(self, scores: Numbers, conflicting: int) -> Estimate:
        """The AUC where the cue points right (0), or wrong (1), 0..1."""
        return self._combined(scores, (0.0, 1.0) if conflicting else (1.0, 0.0))

    def gap_spread(self, scores: Numbers) -> Spread:
        """The gap and its sampling error, for tests."""
        return self._spread(self._placed(scores), self.comparison.difference(self.comparison.shares))

    def change(self, before: Numbers, after: Numbers, coefficients: Float64s) -> Spread:
        """What a combination of cells (4,) gains from scores `before` (n,) to scores `after` (n,), paired."""
        return self._spread(self._placed(after) - self._placed(before), coefficients)

    # -- parts ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _kinds(self) -> tuple[Ints, Ints]:
        """Places of the images where the cue points right, and of those where it points wrong."""
        conflicting = self.comparison.cue.conflicting(self.comparison.images.truth)
        return np.flatnonzero(conflicting == 0), np.flatnonzero(conflicting == 1)

    def _placed(self, scores: Numbers) -> Float64s:
        """(n,) share of the other side's images of its kind that each image is ranked rightly against."""
        images = self.comparison.images
        placed = np.zeros(len(images.truth))
        for rows in self._kinds:
            placed[rows] = placements(
                np.asarray(scores[rows], np.float64), images.truth[rows] == 0, images.weight[rows]
            )
        return placed

    def _spread(self, placed: Float64s, coefficients: Float64s) -> Spread:
        cells, used = self.comparison.cells, coefficients != 0
        spread = cells.combine(placed, coefficients, floored=False)
        # an AUC is the mean of both its cells' placements, but an image moves it by the whole of its own; where sides
        # are fully apart the error is that of S1
        least = float((coefficients[used] ** 2 / np.maximum(cells.changeable[used], 1.0) ** 2).sum())
        variance = max(4 * spread.variance, least)
        return Spread(value=spread.value, variance=variance, freedom=spread.freedom, n=spread.n)

    def _combined(self, scores: Numbers, weights: tuple[float, float], level: float = 0.95) -> Estimate:
        """Both AUCs weighted, with limits recovered from those of each on the logit scale (Zou and Donner, Stat. Med.
        2008)."""
        comparison, c = self.comparison, np.array(weights)
        halves = [comparison.part(comparison.shares, kind) for kind in (0, 1)]
        n = int(comparison.cells.independent[sum(w * half for w, half in zip(weights, halves, strict=True)) != 0].sum())
        if not comparison.both_sides_comparable:
            return Estimate(value=None, low=None, high=None, n=n, level=level)
        placed = self._placed(scores)
        parts = [self._spread(placed, half) for half in halves]
        auc = np.array([part.value for part in parts])
        limits = np.array([_auc_limits(part, level) for part in parts])
        r = _correlation(parts, self._spread(placed, halves[0] - halves[1]).variance)
        together = np.array([[1.0, r], [r, 1.0]])
        # each part's distance to its limit on the side in question, with the sign of its weight
        below = c * (auc - np.where(c > 0, limits[:, 0], limits[:, 1]))
        above = c * (np.where(c > 0, limits[:, 1], limits[:, 0]) - auc)
        down, up = (float(np.sqrt(max(float(side @ together @ side), 0.0))) for side in (below, above))
        value, least = float(c @ auc), -1.0 if min(weights) < 0 else 0.0
        return Estimate(value=value, low=max(value - down, least), high=min(value + up, 1.0), n=n, level=level)


def _auc_limits(part: Spread, level: float) -> tuple[float, float]:
    """Limits of an AUC, 0..1, on the logit scale."""
    error = 2 * float(np.sqrt(part.variance))
    low, high = strength_interval(2 * part.value - 1, min(error, 2.0), part.quantile(level))
    return (low + 1) / 2, (high + 1) / 2


def _correlation(parts: list[Spread], of_difference: float) -> float:
    """Of two AUCs that share clusters, from the variances of each and of their difference."""
    a, b = (part.variance for part in parts)
    if not np.isfinite(a + b + of_difference):
        return 0.0
    return float(np.clip((a + b - of_difference) / (2 * np.sqrt(a * b)), -1.0, 1.0))


def balanced_answers(scores: Numbers, has: Bools, weight: Float64s) -> Bools:
    """(n,) whether images are on their side of the cut of scores (n,) at which as large a share of the images with the
    label as of those without it are right."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    own, other = (np.cumsum(weight[order] * side[order]) for side in (has, ~has))
    # shares of either side among the k highest scores: with the label right, without it wrong
    hit, missed = own / max(float(own[-1]), 1e-300), other / max(float(other[-1]), 1e-300)
    above = np.zeros(len(order), np.bool_)
    above[order[: int(np.argmin(np.abs(hit - (1 - missed)))) + 1]] = True
    right: Bools = above == has
    return right


def measure_ranking(comparison: CueCells, logits: Float32s, options: RelianceOptions) -> Gap:
    """S9 of a probe of one label of several, logits (n, 2) of images with it and without: the gap is one of AUCs.

    Cells are those of the answers at the cut where both sides are answered alike well; they say how many images there
    are, and what another column explains.
    """
    images, rankings, scores = comparison.images, Rankings(comparison=comparison), presence_scores(logits)
    right = balanced_answers(scores, images.truth == 0, images.weight)
    ranking = Ranking(aligned=rankings.part(scores, 0), conflicting=rankings.part(scores, 1))
    values = [part.value for part in (ranking.aligned, ranking.conflicting) if part.value is not None]
    leaning = margins(logits, images.truth, comparison.cue.pointed)
    whole, (have, lack) = rank_difference(comparison, leaning, comparison.shares), both_sides(comparison, leaning)
    mean = rankings.mean(scores)
    return Gap(
        state=state_of(comparison, mean, [1 - value for value in values], CHANCE),
        cells=tuple(cell_scores(comparison, right)),
        sizes=cell_sizes(comparison, right),
        group_mean=mean,
        worst_group=min(ranking.aligned, ranking.conflicting, key=lambda part: part.value or 0.0) if values else None,
        chance=CHANCE,
        gap=rankings.gap(scores),
        gap_90=rankings.gap(scores, 0.90),
        margin_d=whole.estimate(),
        margin_d_90=whole.estimate(0.90),
        have=have,
        lack=lack,
        both_sides=max(have.p, lack.p) < options.alpha,
        ranking=ranking,
    )


def drawn_gaps(images: ScoredImages, cue: CueColumn, scores: Float32s, places: Ints) -> Float64s:
    """(R,) AUC gaps over their standard errors of versions of a cue's column by places (R, n), on scores (n,); 0 where
    a version leaves a cell with too few images (S10c)."""
    t = np.zeros(len(places))
    for draw, moved in enumerate(places):
        comparison = cue_cells(images, cue.take(moved))
        if comparison.both_sides_comparable:
            t[draw] = Rankings(comparison=comparison).gap_spread(scores).t
    return t
