"""What goes with an answerer being wrong inside one class, chosen on the discovery half (S15).

A *trait* is something that images of a class have or lack: they look like a text (score above a cut), have a value of a
column, or lie above or below a cut of a number. Traits are tried one after the other: each is the one that says most
about the errors which the traits before it leave unexplained, so that several texts for one thing are one trait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Floats, Ints
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.statistics import normal_quantile

TraitKind: TypeAlias = Literal["text", "value", "above", "below"]

MIN_EFFECTIVE: Final = 30.0
"""Independent images that a slice, and the rest of its class, need on the confirmation half."""
_CHOSEN_EFFECTIVE: Final = 40.0
"""The same on the discovery half: with as many, a cut leaves under 30 on the other half in 1 of 20 cases."""
MAX_SLICES: Final = 4
"""Traits tried one after the other in a class."""
SAME: Final = 0.5
"""Correlation of two traits' images inside a class from which on they are one slice."""
_TOP_SHARES: Final = (0.8, 0.65, 0.5, 0.4, 0.33, 0.27, 0.22, 0.18, 0.15, 0.12, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02)
"""Cuts of a score: these shares of the class's images lie above."""
_CHANCE: Final = 0.1
"""A trait is tested when the best of as many traits at random would be as strong with this chance, at most: tests that
are made in vain cost the others power."""
_LEAST_FIT: Final = 0.3
"""Fit below which a text behind another trait is what is left of that one, and no trait of its own."""
_AS_STRONG: Final = 0.8
"""Part of the largest statistic with which a text may name the slice in the place of the strongest."""
_ROWS: Final = 10_000
"""Images of a class that traits are chosen on, at most."""
_BLOCK: Final = 256
_RIDGE: Final = 1e-2
_STEPS: Final = 30


@dataclass(frozen=True, eq=False, kw_only=True)
class Traits:
    """What n images may have in common."""

    texts: tuple[str, ...]
    axes: Float32s
    """(T, D) axis of each text, of unit length, without the class prompts' part."""
    embedding: Floats
    """(n, D); a text's scores are `embedding @ axis`."""
    subspace: Float64s
    """(r, D) orthonormal: what class prompts differ in (S0), which the axes do not have."""
    columns: tuple[Attribute, ...] = ()
    """Columns whose values are traits."""
    numbers: tuple[tuple[str, Float64s], ...] = ()
    """Names and values (n,) of columns that are cut above and below; nan without a value."""

    def take(self, rows: Ints) -> Traits:
        """The same of some images, by their places (m,)."""
        return replace(
            self,
            embedding=self.embedding[rows],
            columns=tuple(column.take(rows) for column in self.columns),
            numbers=tuple((name, values[rows]) for name, values in self.numbers),
        )


@dataclass(frozen=True, kw_only=True)
class Trait:
    """One trait."""

    kind: TraitKind
    name: str
    """The text, or the column."""
    value: str
    """Of a column; empty for others."""
    cut: float
    """Least score of a text, or the number's cut; 0 for a value."""
    place: int
    """Among the texts, columns or numbers."""
    z: float
    """On the discovery half, given the traits chosen before it."""
    fit: float | None
    """Of a text, -1..1: how much of what sets the wrong images apart it says (`_text_fits`); None for others."""

    def scores(self, traits: Traits, rows: Ints) -> Float64s:
        """(m,) how much some images have of it; above 0 they have it."""
        if self.kind == "text":
            part: Float64s = traits.embedding[rows].astype(np.float64) @ traits.axes[self.place].astype(np.float64)
            return part - self.cut
        if self.kind == "value":
            column = traits.columns[self.place]
            return np.where(column.codes[rows] == column.values.index(self.value), 1.0, -1.0)
        numbers = traits.numbers[self.place][1][rows]
        side = numbers - self.cut if self.kind == "above" else self.cut - numbers
        return np.where(np.isfinite(side), side, -1.0)


@dataclass(frozen=True, kw_only=True)
class ChosenTrait:
    """A trait that goes with errors of a class, and the traits that are the same images."""

    trait: Trait
    same: tuple[Trait, ...]
    """Strongest first; their images correlate with the trait's by at least SAME."""


def chosen_traits(traits: Traits, wrong: Bools, weight: Float64s, rows: Ints, seed: int = 0) -> list[ChosenTrait]:
    """Traits that go with errors among rows (m,) of one class on the discovery half, in the order of their choice.

    wrong, weight: (n,) whether the answer is not the label, and 1 / images of the cluster. At most 10,000 rows, drawn,
    are used. A trait's statistic is the score test of adding it to a logistic regression of the errors on the traits
    before it (Rao, Proceedings of the Cambridge Philosophical Society 1948), the largest over its cuts.
    """
    if len(rows) > _ROWS:
        rows = np.sort(np.random.default_rng([seed, 31]).choice(rows, _ROWS, replace=False))
    w, e = weight[rows], wrong[rows].astype(np.float64)
    if min(float(w @ e), float(w @ (1 - e))) < 1 or float(w.sum()) < 2 * _CHOSEN_EFFECTIVE:
        return []
    candidates = _Candidates(traits, rows, w)
    chosen: list[ChosenTrait] = []
    while len(chosen) < MAX_SLICES:
        null = null_design(traits, [entry.trait for entry in chosen], rows)
        probability = fitted(null, e, w)
        residual = w * (e - probability)
        z = candidates.statistics(null, residual, w * probability * (1 - probability))
        best = int(np.argmax(z))
        if z[best] < -normal_quantile(_CHANCE / len(z)):
            break
        entry = candidates.entry(best, z, _text_fits(traits, residual, rows))
        if chosen and entry.trait.fit is not None and entry.trait.fit < _LEAST_FIT:
            break
        known = [(other.trait, *other.same) for other in chosen]
        # what is left of a trait that was chosen before is no new one
        if any((t.kind, t.name, t.value) == _identity(entry.trait) for group in known for t in group):
            break
        chosen.append(entry)
    return chosen


def _text_fits(traits: Traits, residual: Float64s, rows: Ints) -> Float64s:
    """(T,) cosine of each text's axis with what sets wrong images apart: the sum of residual (m,) x embedding.

    The class prompts' part is taken out. The part that errors at random would give is subtracted from the square of the
    sum's length, for with few wrong images most of it is noise. 0 where nothing is left.
    """
    x = traits.embedding[rows].astype(np.float64)
    x -= x.mean(axis=0)
    x -= (x @ traits.subspace.T) @ traits.subspace
    contrast = x.T @ residual
    # E |sum r x|^2 = |signal|^2 + sum r^2 |x|^2 for independent errors
    square = float(contrast @ contrast) - float(residual**2 @ np.einsum("md,md->m", x, x))
    if square <= 0:
        return np.zeros(len(traits.texts))
    fits: Float64s = np.clip(traits.axes.astype(np.float64) @ (contrast / np.sqrt(square)), -1.0, 1.0)
    return fits


def _identity(trait: Trait) -> tuple[str, str, str]:
    return trait.kind, trait.name, trait.value


def null_design(traits: Traits, before: Sequence[Trait], rows: Ints) -> Float64s:
    """(m, 1 + 2 b) intercept, and of each of b traits whether an image has it and its standardised score.

    rows: (m,) positions of the images. The score is there because the images just below a cut have a little of the
    trait, too.
    """
    columns = [np.ones(len(rows))]
    for trait in before:
        scores = trait.scores(traits, rows)
        columns.append((scores > 0).astype(np.float64))
        if trait.kind == "text":
            columns.append((scores - scores.mean()) / max(float(scores.std()), 1e-12))
    return np.stack(columns, axis=1)


def fitted(design: Float64s, wrong: Float64s, weight: Float64s) -> Float64s:
    """(m,) probabilities of a logistic regression of wrong (m,) 0 or 1 on design (m, p), by Newton's method; a small
    penalty keeps a trait whose images are all wrong finite."""
    b = np.zeros(design.shape[1])
    share = float(np.clip(weight @ wrong / weight.sum(), 1e-6, 1 - 1e-6))
    b[0] = np.log(share / (1 - share))
    penalty = np.full(len(b), _RIDGE)
    penalty[0] = 0.0
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ b, -30, 30)))
        slope = design.T @ (weight * (wrong - p)) - penalty * b
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, slope)
        b = b + np.clip(step, -5, 5)
        if float(np.abs(step).max()) < 1e-8:
            break
    probability: Float64s = 1 / (1 + np.exp(-np.clip(design @ b, -30, 30)))
    return probability


class _Candidates:
    """All traits of one class's rows: scores in bins between their cuts, and flags of values."""

    def __init__(self, traits: Traits, rows: Ints, weight: Float64s) -> None:
        self.traits, self.rows, self.weight = traits, rows, weight.astype(np.float32)
        total = float(weight.sum())
        least = _CHOSEN_EFFECTIVE / total
        self.shares = [share for share in _TOP_SHARES if least <= share <= 1 - least] or [0.5]
        T = len(traits.texts)
        sides = [sign * values[rows] for _, values in traits.numbers for sign in (1.0, -1.0)]
        self.scored = T + len(sides)
        self.cuts = np.empty((len(self.shares), self.scored))
        self.bins = np.empty((len(rows), self.scored), np.uint8)
        embedding = np.asarray(traits.embedding[rows], np.float32)
        for start in range(0, T, _BLOCK):
            stop = min(start + _BLOCK, T)
            self._cut(embedding @ traits.axes[start:stop].T, start)
        if sides:
            self._cut(np.where(np.isfinite(numbers := np.stack(sides, axis=1)), numbers, -np.inf), T)
        flags = [(place, value) for place, column in enumerate(traits.columns) for value in range(len(column.values))]
        self.values = flags
        self.flags = np.zeros((len(rows), len(flags)), np.float32)
        for position, (place, value) in enumerate(flags):
            self.flags[:, position] = traits.columns[place].codes[rows] == value
        self.level = np.zeros(self.scored, np.int64)
        """(scored,) cut of each score at its last largest statistic."""

    def _cut(self, scores: Floats, start: int) -> None:
        stop = start + scores.shape[1]
        levels, known = [1 - share for share in self.shares], np.isfinite(scores)
        whole = known.all(axis=0)
        # no number lies above a cut that none has
        quantiles = np.full((len(levels), scores.shape[1]), np.inf)
        quantiles[:, whole] = np.quantile(scores[:, whole], levels, axis=0)
        for column in np.flatnonzero(~whole & known.any(axis=0)).tolist():
            # cuts lie among the numbers that there are: images without one have no part in it
            quantiles[:, column] = np.quantile(scores[known[:, column], column], levels)
        self.cuts[:, start:stop] = quantiles
        bins = np.zeros(scores.shape, np.uint8)
        for level in range(len(self.shares)):  # cuts ascend: a bin is the number of cuts below the score
            bins += scores > quantiles[level]
        self.bins[:, start:stop] = bins

    def statistics(self, null: Float64s, residual: Float64s, variance: Float64s) -> Float64s:
        """(scored + values,) score statistic of adding each trait to a regression, its best cut's; -inf where too few
        images have or lack it. residual, variance (m,): weighted, of the regression on `null` (m, p)."""
        information = np.linalg.pinv((null * variance[:, None]).T @ null).astype(np.float64)
        # one product gives all sums over the images that have a trait: residuals, variances, with the null's columns, n
        parts = np.concatenate([residual[:, None], variance[:, None], variance[:, None] * null], axis=1)
        parts = np.concatenate([parts, self.weight[:, None].astype(np.float64)], axis=1).astype(np.float32)
        z = np.full(self.scored + len(self.values), -np.inf)
        for start in range(0, self.scored, _BLOCK):
            bins = self.bins[:, start : start + _BLOCK]
            for level in range(1, len(self.shares) + 1):
                values = self._z(parts, (bins >= level).astype(np.float32), information)
                place = slice(start, start + bins.shape[1])
                better = values > z[place]
                z[place] = np.where(better, values, z[place])
                self.level[place] = np.where(better, level - 1, self.level[place])
        if len(self.values):
            z[self.scored :] = self._z(parts, self.flags, information)
        return z

    def _z(self, parts: Float32s, has: Float32s, information: Float64s) -> Float64s:
        sums = (parts.T @ has).astype(np.float64)  # (p + 3, traits)
        crossed, inside = sums[2:-1], sums[-1]
        spread = sums[1] - np.einsum("pt,pq,qt->t", crossed, information, crossed)
        total = float(parts[:, -1].sum())
        usable = (inside >= _CHOSEN_EFFECTIVE) & (total - inside >= _CHOSEN_EFFECTIVE) & (spread > 1e-6 * sums[1])
        return np.where(usable, sums[0] / np.sqrt(np.maximum(spread, 1e-12)), -np.inf)

    def entry(self, best: int, z: Float64s, fits: Float64s) -> ChosenTrait:
        """The best trait and those that are the same images; of texts that are about as strong, the one that fits best
        is the trait. fits: (T,) of the texts."""
        mine = self._has(np.array([best]))[:, 0]
        likely = np.flatnonzero(z >= z[best] / 2)
        likely = likely[np.argsort(-z[likely], kind="stable")]
        same = likely[(likely != best) & (_correlations(mine, self._has(likely)) >= SAME)]
        places = [best, *same.tolist()]
        T = len(fits)
        if best < T:
            strong = [place for place in places if place < T and z[place] >= _AS_STRONG * z[best]]
            named = max(strong, key=lambda place: fits[place])
            places = [named, *(place for place in places if place != named)]
        first, *others = (
            self._trait(place, float(z[place]), float(fits[place]) if place < T else None) for place in places
        )
        return ChosenTrait(trait=first, same=tuple(others))

    def _has(self, places: Ints) -> Float32s:
        """(m, places) 1 where an image has a trait at its best cut."""
        scored = places < self.scored
        has = np.empty((len(self.rows), len(places)), np.float32)
        has[:, scored] = self.bins[:, places[scored]] > self.level[places[scored]]
        has[:, ~scored] = self.flags[:, places[~scored] - self.scored]
        return has

    def _trait(self, place: int, z: float, fit: float | None) -> Trait:
        traits, T = self.traits, len(self.traits.texts)
        if place >= self.scored:
            column, value = self.values[place - self.scored]
            named = traits.columns[column]
            return Trait(
                kind="value", name=named.column, value=named.values[value], cut=0.0, place=column, z=z, fit=fit
            )
        cut = float(self.cuts[self.level[place], place])
        if place < T:
            return Trait(kind="text", name=traits.texts[place], value="", cut=cut, place=place, z=z, fit=fit)
        number, below = divmod(place - T, 2)
        kind: TraitKind = "below" if below else "above"
        name = traits.numbers[number][0]
        return Trait(kind=kind, name=name, value="", cut=-cut if below else cut, place=number, z=z, fit=fit)


def _correlations(mine: Float32s, others: Float32s) -> Float64s:
    """(t,) correlations of flags (m,) with flags (m, t)."""
    a = mine - mine.mean()
    b = others - others.mean(axis=0)
    below = np.sqrt((a**2).sum() * (b**2).sum(axis=0))
    correlations: Float64s = np.where(below > 0, (a @ b) / np.maximum(below, 1e-12), 0.0)
    return correlations
