"""What training again with group weights does to the gap, against weights of the permuted column (S10r)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clipaudit.arrays import Float64s, Ints
from clipaudit.cues.reliance.clustered import Numbers, Spread
from clipaudit.cues.reliance.images import CueCells
from clipaudit.cues.reliance.rank_difference import rank_difference
from clipaudit.cues.reliance.score_intervals import score_combination
from clipaudit.cues.reliance.visibility import as_auc
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.multiplicity import tie_limit


@dataclass(frozen=True, eq=False, kw_only=True)
class RetrainedAnswers:
    """Which of n scored images a model answers right before and after it is trained again with a column's weights; of
    one label of several, how high it scores them."""

    before: Numbers
    """(n,) as it is: bool, or scores as floats."""
    after: Numbers
    """(n,) with the weights of class x column, on all training images."""
    drawn_before: Numbers
    """(n,) as it is, on the training images of the draws."""
    drawn: Numbers
    """(1 + R, n) with weights on the training images of the draws: the true column first, then permuted ones."""
    training_rows: int
    """Training images of the draws."""
    seen: Float64s
    """(n,) score of each image for the cue, learned from the training images inside classes (S10b)."""
    taught_by: Ints
    """(n,) number of the fit that each score is of: only those of one fit can be compared."""

    def take(self, rows: Ints) -> RetrainedAnswers:
        """The same of some images, by places (m,)."""
        return RetrainedAnswers(
            before=self.before[rows],
            after=self.after[rows],
            drawn_before=self.drawn_before[rows],
            drawn=self.drawn[:, rows],
            training_rows=self.training_rows,
            seen=self.seen[rows],
            taught_by=self.taught_by[rows],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingEffect:
    """S10r of one cue: the fall of the gap when the training images are weighted, and the permutations' falls."""

    gap_before: Estimate
    gap_after: Estimate
    fall: Estimate
    """gap_before - gap_after, paired over images."""
    net_fall: Estimate
    """The same minus the mean fall under permuted columns: the headline."""
    conflict_rise: Estimate
    group_mean_change: Estimate
    draws: int
    band: tuple[float, float]
    """2.5 % and 97.5 % of the permuted columns' falls."""
    highest: float
    """Largest fall under a permuted column."""
    training_rows: int
    t: Float64s
    """(1 + R,) fall / its standard error of the true column and of the permuted ones."""
    visibility: Estimate
    """AUC of the cue in the embedding inside classes, on images that did not teach it (S10b)."""

    @property
    def p(self) -> float:
        """One-sided, of the true column's t among its permutations, alone."""
        return float((1 + (self.t[1:] >= tie_limit(self.t[0])).sum()) / len(self.t))

    @property
    def specific(self) -> bool:
        """Whether the gap falls, by itself and beyond what permuted columns do."""
        return all(part.low is not None and part.low > 0 for part in (self.fall, self.net_fall))


class GapMeasure(Protocol):
    """What a gap is a difference of, between the cells of a cue."""

    def gap(self, values: Numbers) -> Estimate:
        """The gap of answers (n,)."""

    def change(self, before: Numbers, after: Numbers, coefficients: Float64s) -> Spread:
        """What a combination of cells (2 * C,) gains from answers `before` (n,) to `after` (n,), paired over images."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Accuracies:
    """A gap of shares of right answers (n,) bool."""

    comparison: CueCells

    def gap(self, values: Numbers) -> Estimate:
        """Aligned minus conflicting of right answers (n,), score intervals (S9)."""
        comparison, right = self.comparison, values.astype(np.bool_)
        return score_combination(comparison.cells, right, comparison.difference(comparison.shares))

    def change(self, before: Numbers, after: Numbers, coefficients: Float64s) -> Spread:
        """Of answers (n,) that turn right less those that turn wrong, cells weighted by coefficients (2 * C,)."""
        return self.comparison.cells.combine(after.astype(np.float64) - before, coefficients)


def training_effect(
    comparison: CueCells, answers: RetrainedAnswers, measure: GapMeasure | None = None
) -> TrainingEffect:
    """Fall of the gap on the scored images, classes weighted as in `comparison`; measure: what the gap is of, None for
    accuracies."""
    of = Accuracies(comparison=comparison) if measure is None else measure
    difference = comparison.difference(comparison.shares)
    # aligned minus conflicting, sign turned: what conflicting images gain beyond aligned ones
    fall = of.change(answers.before, answers.after, -difference)
    spreads = [of.change(answers.drawn_before, row, -difference) for row in answers.drawn]
    falls = np.array([spread.value for spread in spreads])
    drawn = falls[1:]
    mean = float(drawn.mean()) if len(drawn) else 0.0
    estimate = fall.estimate()
    seen = rank_difference(comparison, answers.seen, comparison.shares, strata=answers.taught_by)
    return TrainingEffect(
        gap_before=of.gap(answers.before),
        gap_after=of.gap(answers.after),
        fall=estimate,
        net_fall=_shifted(estimate, max(mean, 0.0)),
        conflict_rise=of.change(answers.before, answers.after, comparison.part(comparison.shares, 1)).estimate(),
        group_mean_change=of.change(answers.before, answers.after, comparison.mean).estimate(),
        draws=len(drawn),
        band=(float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))) if len(drawn) else (0.0, 0.0),
        highest=float(drawn.max(initial=0.0)),
        training_rows=answers.training_rows,
        t=np.array([spread.t for spread in spreads]),
        visibility=as_auc(seen),
    )


def _shifted(estimate: Estimate, by: float) -> Estimate:
    """An estimate of -1..1 less a number."""
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return Estimate(
        value=estimate.value - by,
        low=max(estimate.low - by, -1.0),
        high=estimate.high - by,
        n=estimate.n,
        level=estimate.level,
    )
