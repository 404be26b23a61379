"""What is known of the user's models beside cues: accuracy, confusions, calibration."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.answerers.given import GivenAnswerer
from clipaudit.cues.reliance.images import ScoredImages
from clipaudit.cues.reliance.score_intervals import cell_accuracies
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.result.given_parts import Calibration, Confusion, GivenModel, ReliabilityBin
from clipaudit.cues.statistics.right import answered, right_answers
from clipaudit.run.classes import ClassNames

BINS: Final = 10
_CONFUSIONS: Final = 20
_RESAMPLED: Final = 400


def given_model(answerer: GivenAnswerer, images: ScoredImages, names: ClassNames, seed: int) -> GivenModel:
    """Of those of the m scored images that it answers; near duplicates share the weight of one."""
    rows = np.flatnonzero(answered(answerer.logits))
    images, logits = images.take(rows), answerer.logits[rows]
    right = right_answers(logits, images.truth)
    accuracy = cell_accuracies(images.cells(np.zeros(len(right), np.int64), 1), right)[0]
    sure = None if answerer.probabilities is None else answerer.probabilities[rows].max(axis=1)
    return GivenModel(
        name=answerer.model,
        source=PurePath(answerer.path).name,
        scored_images=len(right),
        accuracy=accuracy,
        at_chance=accuracy.low is None or accuracy.low <= 1 / images.classes,
        confusions=_confusions(logits.argmax(axis=1), images.truth, names),
        calibration=None if sure is None else calibration(sure, right, images, seed),
    )


def _confusions(answers: Ints, truth: Ints, names: ClassNames) -> tuple[Confusion, ...]:
    C = len(names)
    table = np.bincount(truth * C + answers, minlength=C * C).reshape(C, C)
    sizes = table.sum(axis=1)
    np.fill_diagonal(table, 0)
    order = np.argsort(-table.ravel(), kind="stable")[:_CONFUSIONS]
    return tuple(
        Confusion(
            class_name=names.names[place // C],
            answer=names.names[place % C],
            n=int(table.ravel()[place]),
            share=float(table.ravel()[place] / sizes[place // C]),
        )
        for place in order.tolist()
        if table.ravel()[place]
    )


def calibration(confidence: Float64s, right: Bools, images: ScoredImages, seed: int) -> Calibration:
    """Expected calibration error over bins of equally many images (Nixon et al., CVPR workshops 2019), and the bins.

    confidence (m,) 0..1 of the answers, right (m,).
    """
    order = np.argsort(confidence, kind="stable")
    part = np.empty(len(order), np.int64)
    count = max(1, min(BINS, len(order) // 20))
    part[order] = np.arange(len(order)) * count // max(len(order), 1)
    cells = images.cells(part, count)
    accuracies = cell_accuracies(cells, right)
    means = cells.means(confidence)
    low, high = _ece_limits(confidence, right, part, count, images, seed)
    error = _ece(confidence, right, part, count, images.weight)
    return Calibration(
        ece=Estimate(value=error, low=low, high=high, n=len(right)),
        mean_confidence=float(images.weight @ confidence / images.weight.sum()),
        bins=tuple(
            ReliabilityBin(n=int(cells.images[b]), confidence=float(means[b]), accuracy=accuracies[b])
            for b in range(count)
        ),
    )


def _ece(confidence: Float64s, right: Bools, part: Ints, count: int, weight: Float64s) -> float:
    """sum_b |sum of weight x (confidence - right) in bin b| / sum of weight."""
    excess = np.bincount(part, weight * (confidence - right), minlength=count)
    return float(np.abs(excess).sum() / max(float(weight.sum()), 1e-12))


def _ece_limits(
    confidence: Float64s, right: Bools, part: Ints, count: int, images: ScoredImages, seed: int
) -> tuple[float, float]:
    """95 % limits: clusters drawn again. The basic bootstrap, because the error is biased upwards by chance in every
    resample as it is in the sample."""
    codes = np.unique(images.cluster, return_inverse=True)[1]
    clusters = int(codes.max(initial=-1)) + 1
    rng = np.random.default_rng([seed, 36])
    draws = rng.multinomial(clusters, np.full(clusters, 1 / clusters), _RESAMPLED)
    value = _ece(confidence, right, part, count, images.weight)
    again = [_ece(confidence, right, part, count, images.weight * draw[codes]) for draw in draws]
    low, high = (2 * value - float(np.quantile(again, level)) for level in (0.975, 0.025))
    return max(low, 0.0), min(high, 1.0)
