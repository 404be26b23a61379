"""Labels that out-of-fold answers contradict, and how many of the listed ones are right all the same (S16)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.special import softmax

from clipaudit.arrays import Bools, Float64s, Floats, Ints

MAX_FDR: Final = 0.5
"""The list ends where more than this part of it would be right labels, by estimate."""
MIN_LISTED: Final = 3
"""Shorter lists are empty: their false-discovery rate is a guess."""
_LEAST_PART: Final = 0.3
"""Part of the wrong labels that the wrong part is estimated from at least: fewer are a few images."""
_CUTS: Final = 15
"""The least ratio of many cuts would be far too small by chance."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelIssues:
    """Labels that answers contradict."""

    thresholds: Float64s
    """(K,) mean out-of-fold probability of a class among the images labelled so: from there on an image counts as one
    of the class."""
    joint: Ints
    """(K, K) confident joint: images labelled j that count as class k."""
    suggested: Ints = field(repr=False)
    """(n,) class that each image counts as; -1 for none."""
    margin: Float64s = field(repr=False)
    """(n,) P(label) minus the largest other probability, -1..1; the least are the most doubtful."""
    contradicted: Ints = field(repr=False)
    """(c,) images off the joint's diagonal, least margin first."""
    rates: Float64s = field(repr=False)
    """(c,) of each: expected part of right labels among the images up to it, 0..1."""
    listed: Ints = field(repr=False)
    """(m,) the images to look at: the longest beginning of `contradicted` with a rate of at most MAX_FDR."""
    wrong_share: float
    """Estimated part of all labels that are wrong, 0..1."""

    @property
    def fdr(self) -> float | None:
        """Expected part of the listed whose label is right, 0..1; None where nothing is listed."""
        return float(self.rates[len(self.listed) - 1]) if len(self.listed) else None

    @property
    def expected_wrong(self) -> float:
        """Expected wrong labels among the listed."""
        return len(self.listed) * (1 - (self.fdr or 0.0))


def label_issues(logits: Floats, labels: Ints) -> LabelIssues:
    """Images whose label their out-of-fold answers contradict.

    logits: (n, K) of a probe that was not trained on the image; labels: (n,) 0..K-1.

    Which: confident learning (Northcutt, Jiang, Chuang, Journal of Artificial Intelligence Research 2021, section 3).
    Class k's threshold is the mean probability of k among the images labelled k; an image counts as the likeliest class
    whose threshold it reaches, and is contradicted when that is not its label. Order: the normalised margin. How many
    are right all the same: `_rates`.
    """
    probability = softmax(np.asarray(logits, np.float64), axis=1)
    n, K = probability.shape
    rows = np.arange(n)
    counts = np.bincount(labels, minlength=K)
    thresholds = np.bincount(labels, probability[rows, labels], minlength=K) / np.maximum(counts, 1)
    # a class without images has no threshold that could be reached
    reached = np.where((probability >= thresholds) & (counts > 0), probability, -1.0)
    suggested = np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), -1)
    joint = np.zeros((K, K), np.int64)
    np.add.at(joint, (labels[suggested >= 0], suggested[suggested >= 0]), 1)
    margins = _margins(probability)
    margin = margins[rows, labels]
    order = np.argsort(margin, kind="stable")
    contradicted = order[(suggested[order] >= 0) & (suggested[order] != labels[order])]
    rates, share = _rates(margins, suggested, labels, contradicted)
    within = np.flatnonzero(rates <= MAX_FDR)
    count = int(within[-1]) + 1 if len(within) else 0
    return LabelIssues(
        thresholds=thresholds,
        joint=joint,
        suggested=suggested,
        margin=margin,
        contradicted=contradicted,
        rates=rates,
        listed=contradicted[: count if count >= MIN_LISTED else 0],
        wrong_share=share,
    )


def _margins(probability: Float64s) -> Float64s:
    """(n, K) margin of each image if its label were k: P(k) minus the largest other probability."""
    best = probability.argmax(axis=1)
    largest, second = -np.partition(-probability, 1, axis=1)[:, :2].T
    is_best = np.arange(probability.shape[1]) == best[:, None]
    margins: Float64s = probability - np.where(is_best, second[:, None], largest[:, None])
    return margins


def _rates(margins: Float64s, suggested: Ints, labels: Ints, contradicted: Ints) -> tuple[Float64s, float]:
    """(c,) expected part of right labels up to each contradicted image, and the estimated part of wrong labels.

    What a wrong label looks like is known: out-of-fold answers do not depend on the image's own label, so every image
    with each other class in the place of its label is one. Margins of all images are a mixture, F = w F1 + (1 - w) F0,
    of wrong labels (F1, from there) and right ones (F0, unknown), so that w <= F(t) / F1(t) for every margin t; w is
    the least of these ratios (Blanchard, Lee, Scott, "Semi-Supervised Novelty Detection", JMLR 2010, section 3). An
    image that is only hard has a small margin, a wrong label often has one near -1: where no image has, w is 0.
    """
    n, K = margins.shape
    other = np.ones((n, K), np.bool_)
    other[np.arange(n), labels] = False
    wrong = np.sort(margins[other])
    cuts = np.quantile(wrong, np.linspace(_LEAST_PART, 1, _CUTS))
    below_wrong = np.searchsorted(wrong, cuts, side="right") / len(wrong)
    below = np.searchsorted(np.sort(margins[np.arange(n), labels]), cuts, side="right") / n
    share = float(np.clip((below / below_wrong).min(), 0.0, 1.0))
    # of wrong labels only those count that would be off the joint's diagonal, too
    listed: Bools = other & (suggested[:, None] >= 0) & (suggested[:, None] != np.arange(K))
    listed_wrong = np.sort(margins[listed])
    ends = margins[contradicted, labels[contradicted]]
    expected = n * share * np.searchsorted(listed_wrong, ends, side="right") / max(len(wrong), 1)
    rates: Float64s = 1 - np.minimum(expected / np.arange(1, len(ends) + 1), 1.0)
    return rates, share
