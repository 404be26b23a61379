"""A linear probe that is trained on some images and answers for others: the model that a user would train (S14)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from clipaudit.arrays import Float32s, Float64s, Floats, Ints
from clipaudit.cues.rehearsal.features import Standardisation, standardisation
from clipaudit.cues.rehearsal.folds import Fold
from clipaudit.cues.side_by_side import AT_ONCE, each
from clipaudit.cues.statistics.curvature import BlockCurvature, block_curvature, blocks_pay
from clipaudit.cues.statistics.softmax_fit import SoftmaxFits, fit_softmax
from clipaudit.errors import UsageError

STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""C of scikit-learn's `LogisticRegression`: what L2 is chosen from, strongest first."""
CHOICE_ROWS: Final = 10_000
"""Images on which L2 is chosen, at most."""
_CHOICE_FOLDS: Final = 3
_WORSE: Final = 2
"""Strengths in a row that are no better, after which weaker penalties are not tried."""
_KEPT: Final = 2**24
"""Entries of a fold's curvature up to which it is kept, 64 MiB."""
_ABSENT: Final = 10.0
"""How far below all others the scores of a class are that no training image has."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldModel:
    """One fold's features and its model as an unsuspecting user trains it."""

    fold: Fold
    to_features: Standardisation
    features: Float32s
    """(t, r) of the fold's training images."""
    scored: Float32s
    """(s, r) of its scored images."""
    truth: Ints
    """(t,) class of each, 0..classes-1 of those present."""
    present: Ints
    """(K,) classes with a training image, as numbers of all classes."""
    strength: float
    """C."""
    plain: SoftmaxFits
    """One model, all images counting alike."""

    @cached_property
    def curvature(self) -> BlockCurvature:
        """At the plain model, all images counting alike; made once for all that is trained again from there."""
        n = len(self.truth)
        alike, penalty = np.full(n, 1 / n, np.float32), np.array([1 / (self.strength * n)])
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return block_curvature(self.features, penalty, alike, self.plain.weights[0], self.plain.bias[0], pool)

    def curvature_for(self, problems: int, images: int) -> BlockCurvature | None:
        """That of the plain model, where it serves and pays for a number of fits to some of the images."""
        n, r = self.features.shape
        if 2 * images < n or len(self.present) * (r + 1) ** 2 > _KEPT or not blocks_pay(problems, images, r):
            return None
        return self.curvature


@dataclass(frozen=True, eq=False, kw_only=True)
class Rehearsal:
    """n training images and m scored ones; the scored are never trained on, nor are near duplicates of them."""

    classes: int
    """C."""
    models: tuple[FoldModel, ...]
    logits: Float32s
    """(m, C) of the model as it is."""

    @property
    def training_rows(self) -> int:
        """Images that a fold's model was trained on, on average."""
        return round(float(np.mean([len(model.truth) for model in self.models])))

    def retrained(self, weights: Float64s, rows: Ints | None = None) -> Float32s:
        """(R, m, C) logits of models trained again with weights (R, n) >= 0 of all training images, from the plain
        model's parameters on.

        rows: places of the training images that are used, None for all. UsageError where a fold's weights are all 0.
        """
        answers = np.empty((len(weights), len(self.logits), self.classes), np.float32)

        def train(model: FoldModel) -> None:
            answers[:, model.fold.scored] = all_classes(
                _retrained(model, weights, rows).logits(model.scored), model.present, self.classes
            )

        each(train, self.models)
        return answers


def _retrained(model: FoldModel, weights: Float64s, rows: Ints | None) -> SoftmaxFits:
    """R models of a fold, trained with weights (R, n) of all training images, or of those at places `rows`."""
    train = model.fold.train
    chosen = np.arange(len(train)) if rows is None else np.flatnonzero(np.isin(train, rows))
    own = weights[:, train[chosen]]
    used = np.flatnonzero((own > 0).any(axis=0))
    own, chosen = own[:, used], chosen[used]
    if bool((own.sum(axis=1) <= 0).any()):
        raise UsageError("no training image has a weight above 0")
    # scikit-learn's C weighs the sum of the losses: with fewer images L2 counts for more
    penalty = 1 / (model.strength * own.sum(axis=1))
    start = model.plain.take(np.zeros(len(own), np.int64))
    curvature = model.curvature_for(len(own), len(chosen))
    return fit_softmax(model.features[chosen], model.truth[chosen], len(model.present), own, penalty, start, curvature)


def rehearse(
    embedding: Floats,
    truth: Ints,
    scored_embedding: Floats,
    folds: tuple[Fold, ...],
    classes: int,
    seed: int = 0,
) -> Rehearsal:
    """Train a probe in every fold and answer for its scored images.

    embedding (n, D) and truth (n,) of the training images, 0..classes-1; scored_embedding (m, D). L2 is chosen in each
    fold from its training images alone, by the plain accuracy on held-out thirds of at most 10,000 of them over all
    folds. UsageError where a fold's training images are of fewer than two classes.
    """
    rows = CHOICE_ROWS // len(folds)
    models = each(
        lambda number: _fold_model(embedding, truth, scored_embedding, folds[number], rows, [seed, 31, number]),
        range(len(folds)),
    )
    answers = np.empty((len(scored_embedding), classes), np.float32)
    for model in models:
        answers[model.fold.scored] = all_classes(model.plain.logits(model.scored), model.present, classes)[0]
    return Rehearsal(classes=classes, models=tuple(models), logits=answers)


def _fold_model(
    embedding: Floats, truth: Ints, scored: Floats, fold: Fold, choice_rows: int, seed: list[int]
) -> FoldModel:
    kinds, codes = np.unique(truth[fold.train], return_inverse=True)
    if len(kinds) < 2:
        has = "has no image" if not len(kinds) else "is of one class"
        raise UsageError(f"the training part {has}: a model needs images of at least two classes")
    to_features = standardisation(embedding, fold.train)
    features, codes = to_features(embedding[fold.train]), codes.astype(np.int64)
    strength = chosen_strength(features, codes, len(kinds), choice_rows, seed)
    plain = fit_softmax(features, codes, len(kinds), np.ones((1, len(codes))), np.array([1 / (strength * len(codes))]))
    return FoldModel(
        fold=fold,
        to_features=to_features,
        features=features,
        scored=to_features(scored[fold.scored]),
        truth=codes,
        present=kinds.astype(np.int64),
        strength=strength,
        plain=plain,
    )


def chosen_strength(features: Float32s, truth: Ints, classes: int, rows: int, seed: list[int]) -> float:
    """C with the highest accuracy on held-out thirds of at most `rows` of the images; the strongest L2 of equals.

    features (n, r), truth (n,) 0..classes-1. Every third in its turn is left out, by weights of 0: all models of the
    choice are fitted at one time.
    """
    rng = np.random.default_rng(seed)
    part = rng.permutation(len(truth))[: max(rows, _CHOICE_FOLDS)]
    x, y = features[part], truth[part]
    third = np.arange(len(part)) % _CHOICE_FOLDS
    kept = (third[None] != np.arange(_CHOICE_FOLDS)[:, None]).astype(np.float64)
    if not kept.any(axis=1).all():
        return STRENGTHS[0]
    sizes = kept.sum(axis=1)
    best, best_right, worse, fits = STRENGTHS[0], -1, 0, None
    for strength in STRENGTHS:
        # from the strongest penalty on, each from the one before: weak ones alone take long
        fits = fit_softmax(x, y, classes, kept, 1 / (strength * sizes), fits)
        right = 0
        for fold in range(_CHOICE_FOLDS):
            out = np.flatnonzero(third == fold)
            right += int((fits.take(np.array([fold])).logits(x[out])[0].argmax(axis=1) == y[out]).sum())
        if right > best_right:
            best, best_right, worse = strength, right, 0
        else:
            worse += 1
        if worse == _WORSE:
            break
    return best


def all_classes(scores: Float32s, present: Ints, classes: int) -> Float32s:
    """(R, m, C) from scores (R, m, K) of the classes present; the others lie below all of them."""
    if len(present) == classes:
        return scores
    whole = np.repeat(scores.min(axis=2, keepdims=True) - np.float32(_ABSENT), classes, axis=2)
    whole[:, :, present] = scores
    return whole
