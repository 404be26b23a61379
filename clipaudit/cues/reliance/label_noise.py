"""How many wrong labels would make a gap of nothing: wrong labels lie among the conflicting images (S9c)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Float64s, Ints
from clipaudit.cues.reliance.images import CueCells, RelianceOptions

_LEAST_RATE: Final = 0.03
_MOST_RATE: Final = 0.30
_STEPS: Final = 60


@dataclass(frozen=True, kw_only=True)
class NoiseRate:
    """Label errors that would explain a gap."""

    rate: float | None
    """Share of wrong labels, 0..1, at which the gap would vanish; None when no share up to 30 % does it."""
    rate_low: float | None
    """The same for the gap's lower limit."""
    needed: float
    """`rate_low` must exceed this: 3 %, or the estimated rate if that is more."""
    counts: bool
    """Whether a gap alone is evidence: the rate exceeds what is needed, or the labels are vouched for."""


def label_noise(comparison: CueCells, answers: Ints, gap: float, gap_low: float, options: RelianceOptions) -> NoiseRate:
    """The label-error rates at which a gap and its lower limit would be what wrong labels alone make.

    answers (n,) 0..C-1. A share e of the labels of the finding's classes is replaced by another of them, evenly,
    independently of the image; the answers depend on the true class alone. Then an image labelled k is of class j with
    a probability that follows from the counts of class x cue, and the gap that this makes grows with e.
    """
    known = comparison.cells.cell >= 0
    present = np.bincount(comparison.images.truth[known], minlength=comparison.images.classes) > 0
    classes = np.flatnonzero(present)
    needed = max(_LEAST_RATE, options.label_error or 0.0)
    if len(classes) < 2:
        return NoiseRate(rate=None, rate_low=None, needed=needed, counts=options.clean_labels)
    counts, answered = _tables(comparison, answers, classes)
    shares = comparison.shares[classes]
    pointed = comparison.cue.pointed[classes]
    return _rates(lambda rate: _noise_gap(counts, answered, shares, pointed, rate), gap, gap_low, needed, options)


def ranking_noise(
    comparison: CueCells, aligned: float, gap: float, gap_low: float, options: RelianceOptions
) -> NoiseRate:
    """The same of an AUC gap of one label of several, class 0 of two; aligned: the AUC where the cue points right.

    Scores follow the true presence alone, with AUC A. Where shares q of the images with the label and r of those
    without it are labelled wrong, the AUC is 1/2 + (1 - q - r) (A - 1/2).
    """
    counts, _ = _tables(comparison, comparison.images.truth, np.arange(2))
    pointed = comparison.cue.pointed
    needed = max(_LEAST_RATE, options.label_error or 0.0)

    def noise_gap(rate: float) -> float:
        mixed = _mixed(counts, rate)
        if mixed is None:
            return float("nan")
        wrong = np.stack([mixed[0][0, 1], mixed[0][1, 0]])  # (2, 2): label x cue, share of the other class
        # of images with the label the cue is there where it points right, if it goes with the label
        cue = pointed.astype(np.int64)
        right_way, wrong_way = (float(wrong[np.arange(2), side].sum()) for side in (cue, 1 - cue))
        return (aligned - 0.5) * (wrong_way - right_way) / max(1 - right_way, 1e-9)

    return _rates(noise_gap, gap, gap_low, needed, options)


def _rates(
    noise_gap: Callable[[float], float], gap: float, gap_low: float, needed: float, options: RelianceOptions
) -> NoiseRate:
    """From the gap that each rate of wrong labels makes, nan where the counts exclude the rate."""
    rates = np.linspace(0.0, _MOST_RATE, _STEPS + 1)
    expected = np.array([noise_gap(rate) for rate in rates])
    # the largest gap that wrong labels up to each rate can make
    reached = np.maximum.accumulate(np.nan_to_num(expected, nan=-np.inf))
    rate, low = (_crossing(rates, reached, wanted) for wanted in (gap, gap_low))
    # no rate up to 30 % (None) makes so large a gap: it is evidence
    return NoiseRate(rate=rate, rate_low=low, needed=needed, counts=options.clean_labels or low is None or low > needed)


def _tables(comparison: CueCells, answers: Ints, classes: Ints) -> tuple[Float64s, Float64s]:
    """(K, 2) weights of class x (without, with the cue), and (K, K) share of each answer among a class's images."""
    images, K = comparison.images, len(classes)
    place = np.full(images.classes, -1)
    place[classes] = np.arange(K)
    rows = np.flatnonzero(comparison.cells.cell >= 0)
    truth, weight = place[images.truth[rows]], images.weight[rows]
    counts = (
        np.bincount(2 * truth + comparison.cue.having[rows], weight, minlength=2 * K).reshape(K, 2).astype(np.float64)
    )
    given = place[answers[rows]]
    inside = given >= 0
    table = np.bincount((truth * K + given)[inside], weight[inside], minlength=K * K).reshape(K, K).astype(np.float64)
    return counts, table / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)


def _noise_gap(counts: Float64s, answered: Float64s, shares: Float64s, pointed: np.ndarray, rate: float) -> float:
    """The gap that a share `rate` of wrong labels makes without any reliance; nan where the counts exclude the rate."""
    mixed = _mixed(counts, rate)
    if mixed is None:
        return float("nan")
    origin, of_label = mixed
    # answered = of_label @ confusion, since answers follow the true class alone
    confusion = np.clip(np.linalg.solve(of_label, answered), 0.0, 1.0)  # P(answer c | true j)
    accuracy = np.einsum("kja,jk->ka", origin, confusion)
    aligned = np.where(pointed, accuracy[:, 1], accuracy[:, 0])
    conflicting = np.where(pointed, accuracy[:, 0], accuracy[:, 1])
    return float(shares @ (aligned - conflicting))


def _mixed(counts: Float64s, rate: float) -> tuple[Float64s, Float64s] | None:
    """P(true j | label k, cue a) (K, K, 2) and P(true j | label k) (K, K) from labelled counts (K, 2), with a share
    `rate` of wrong labels; None where the counts exclude the rate."""
    K = len(counts)
    mixing = (1 - rate) * np.eye(K) + rate / (K - 1) * (1 - np.eye(K))  # P(label k | true j), symmetric
    # labelled counts = mixing @ true counts, for each value of the cue
    true_counts = np.linalg.solve(mixing, counts)  # (K, 2)
    # no data give these counts with so many wrong labels, or with just so many that a class would have no image: what
    # its images are answered cannot be known then
    if bool((true_counts < -1e-9).any() or (true_counts.sum(axis=1) <= 1e-9 * counts.sum()).any()):
        return None
    # joint[k, j, a]: weight labelled k, of true class j, with cue a
    joint = mixing[:, :, None] * true_counts[None]
    of_label = joint.sum(axis=2) / counts.sum(axis=1, keepdims=True)
    return joint / np.maximum(counts[:, None, :], 1e-300), of_label


def _crossing(rates: Float64s, reached: Float64s, wanted: float) -> float | None:
    """The first rate whose gap reaches `wanted`, between steps by straight lines."""
    # no wrong label is needed where the gap may be 0 anyway
    if wanted <= 0:
        return 0.0
    at = int(np.searchsorted(reached, wanted))
    if at >= len(rates):
        return None
    below, above = reached[at - 1], reached[at]
    return float(rates[at - 1] + (rates[at] - rates[at - 1]) * (wanted - below) / max(above - below, 1e-12))
