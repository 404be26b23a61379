"""Which text names what sets images apart: contrasts in the joint space, class names competing with the pool's texts.

A TextSpan direction is what is left of its text after the texts before it, so that its own text need not say what a
class does along it. A contrast (mean of the images with a cue minus mean of those without) is compared with every text
instead. Class names compete: what a class's own name describes best is the class's content and no cue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Floats, Ints
from clipaudit.cues.measure.directions import class_subspace
from clipaudit.heads.texts.pool import CONTEXT, UNSPECIFIED, TextPool, subject_of

USER: Final = "user"
NO_GOOD_WORD: Final = 0.5
"""Fit of the best text below which no text says what the cue is: words that are right fit by .54 to .91, the nearest to
a border, a watermark or a sticker by at most .47 (`benchmarks/words_acceptance.py`)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Word:
    """A text and how well it names a contrast."""

    text: str
    property: str
    kind: str
    place: int
    """Among the texts of `Namer`."""
    cosine: float
    """With the contrast, both relative to what all texts have in common."""
    fit: float
    """Cosine of the text's own axis (`Namer.axis`) with the contrast, both without the class prompts' part: how much of
    what sets the images apart the text says. A nearest text that shares only what all texts of its property share fits
    badly."""


class Namer:
    """Texts of the pool, the user's, and class names, relative to the mean of the pool."""

    def __init__(
        self,
        pool: TextPool,
        vectors: Floats,
        names: Sequence[str],
        classes: Floats,
        user: Sequence[str] = (),
        user_vectors: Floats | None = None,
    ) -> None:
        """vectors (T, D) of the pool, classes (C, D) of the names, user_vectors (U, D): unit."""
        extra = np.empty((0, vectors.shape[1])) if user_vectors is None else user_vectors.astype(np.float64)
        self.vectors: Float64s = np.concatenate([extra, vectors.astype(np.float64)])
        self.texts = (*user, *pool.texts)
        self.properties = (*([USER] * len(user)), *pool.properties)
        self.kinds = (*([CONTEXT] * len(user)), *pool.kinds)
        self.names = tuple(names)
        # what all texts have in common names nothing
        base = vectors.mean(axis=0, dtype=np.float64)
        self._relative = _unit(self.vectors - base)
        self._classes = _unit(classes.astype(np.float64) - base)
        self._subspace = class_subspace(classes)
        self._named = _naming(self.texts, names)
        labels = np.array(self.properties, object)
        self._context = np.array([kind in (CONTEXT, UNSPECIFIED) for kind in self.kinds], np.bool_) & ~self._named
        self._property_mean = {name: self.vectors[labels == name].mean(axis=0) for name in set(self.properties)}

    def words(
        self,
        contrast: Float64s,
        count: int = 3,
        context_only: bool = False,
        *,
        by_fit: bool = False,
        inside: Float64s | None = None,
    ) -> list[Word]:
        """The texts that name a contrast (D,) best, by cosine or fit; one of those alike but for `a photo of`.

        inside: (D,) what the fit is with, where that is not the contrast itself.
        """
        cosines, fits = self._matches(contrast[None], None if inside is None else inside[None])
        return self._best(fits[0] if by_fit else cosines[0], cosines[0], fits[0], count, context_only)

    def words_both_ways(self, contrasts: Float64s, count: int, inside: Float64s | None) -> list[list[Word]]:
        """For each contrast (S, D) the texts of settings, styles and the like that are nearest to it, and those that
        fit it best, as `words` has them; the best fit first. inside: (S, D)."""
        found = []
        for cosines, fits in zip(*self._matches(contrasts, inside), strict=True):
            words = (self._best(order, cosines, fits, count, True) for order in (cosines, fits))
            by_place = {word.place: word for both in words for word in both}
            found.append(sorted(by_place.values(), key=lambda word: -word.fit))
        return found

    def _matches(self, contrasts: Float64s, inside: Float64s | None) -> tuple[Float64s, Float64s]:
        """(S, T) cosines of the texts with contrasts (S, D), and (S, T) fits with them, or with `inside` (S, D).

        nan for a contrast of 0.
        """
        lengths = np.linalg.norm(contrasts, axis=1, keepdims=True)
        units = np.divide(contrasts, lengths, out=np.full_like(contrasts, np.nan), where=lengths > 0)
        # all contrasts in one pass over the texts
        cosines: Float64s = units @ self._relative.T
        return cosines, self._fits(contrasts if inside is None else inside)

    def _best(self, order: Float64s, cosines: Float64s, fits: Float64s, count: int, context_only: bool) -> list[Word]:
        """The texts that are first by order (T,)."""
        if context_only:
            order = np.where(self._context, order, -np.inf)
        words: list[Word] = []
        cores: set[str] = set()
        # more than `count`, because texts alike but for `a photo of` are passed over
        for place in np.argsort(-order, kind="stable")[: 20 * count].tolist():
            key = subject_of(self.texts[place])
            if key in cores or not np.isfinite(order[place]):
                continue
            cores.add(key)
            words.append(self._word(place, float(cosines[place]), float(fits[place])))
            if len(words) == count:
                break
        return words

    def vector_of(self, text: str) -> Float32s | None:
        """(D,) unit vector of a text of the pool or the user's; None for others."""
        if text not in self.texts:
            return None
        vector: Float32s = self.vectors[self.texts.index(text)].astype(np.float32)
        return vector

    def own(self, contrast: Float64s, k: int) -> float:
        """Cosine of a contrast (D,) with the class's own name, relative as for `words`."""
        return float(self._classes[k] @ contrast / max(float(np.linalg.norm(contrast)), 1e-300))

    def axis(self, place: int, class_free: bool) -> Float64s:
        """(D,) the axis along which images have or lack a text: the text minus the mean of its property's texts.

        What all texts of a property share (that there is a place at all) says nothing about which one it is.
        """
        name = self.properties[place]
        centre = self._property_mean[name] if name != USER else self.vectors.mean(axis=0)
        axis = self.vectors[place] - centre
        if not np.linalg.norm(axis):  # the only text of its property
            axis = self.vectors[place] - self.vectors.mean(axis=0)
        return self.class_free(axis) if class_free else axis

    def class_free(self, vectors: Float64s) -> Float64s:
        """Vectors (..., D) without the class prompts' part."""
        free: Float64s = vectors - (vectors @ self._subspace.T) @ self._subspace
        return free

    @property
    def subspace(self) -> Float64s:
        """(r, D) orthonormal: what class prompts differ in (S0)."""
        return self._subspace

    def context_axes(self) -> tuple[tuple[str, ...], Float32s]:
        """The T texts of settings, styles and the like, no things and no class names, and the user's; (T, D) their unit
        axes without the class prompts' part."""
        chosen = np.flatnonzero(self._context)
        return tuple(self.texts[place] for place in chosen.tolist()), self._free_axes[chosen].astype(np.float32)

    def fit(self, place: int, contrast: Float64s, class_free: bool = True) -> float:
        """`Word.fit` of a text with a contrast (D,); or the same cosine with the class prompts' part in both."""
        if class_free:
            return float(self._fits(contrast[None])[0, place])
        axis = self.axis(place, class_free=False)
        return float(axis @ contrast) / max(float(np.linalg.norm(axis) * np.linalg.norm(contrast)), 1e-300)

    def distance(self, place: int, k: int) -> float:
        """1 - cosine of a text and a class name, relative to what all texts share: 0 the same, 1 unrelated."""
        return 1.0 - float(self._relative[place] @ self._classes[k])

    def farther_than(self, place: int, k: int) -> float:
        """Share of the texts that are closer to the class's name, 0..1; near 0 the text is about the class."""
        cosines = self._relative @ self._classes[k]
        return float((cosines > cosines[place]).mean())

    @cached_property
    def _free_axes(self) -> Float64s:
        """(T, D) unit: every text's axis without the class prompts' part, rounded to float32 and kept as float64, which
        a contrast can be multiplied with."""
        axes = np.stack([self.axis(place, class_free=True) for place in range(len(self.texts))])
        return _unit(axes).astype(np.float32).astype(np.float64)

    def _fits(self, contrasts: Float64s) -> Float64s:
        """(S, T) `Word.fit` of every text with contrasts (S, D)."""
        # what class prompts say is taken out on both sides of the cosine
        free = self.class_free(contrasts)
        fits: Float64s = (free / np.maximum(np.linalg.norm(free, axis=1, keepdims=True), 1e-300)) @ self._free_axes.T
        return fits

    def _word(self, place: int, cosine: float, fit: float) -> Word:
        return Word(
            text=self.texts[place],
            property=self.properties[place],
            kind=self.kinds[place],
            place=place,
            cosine=cosine,
            fit=fit,
        )


def sides_contrast(embedding: Floats, truth: Ints, upper: Bools) -> Float64s:
    """(D,) mean of the means of the classes above (upper (K,)) minus that of the others, from (n, D) and truth (n,);
    classes without rows count not, and a side without any gives zeros."""
    sides = []
    for side in (upper, ~upper):
        means = [
            embedding[truth == k].mean(axis=0, dtype=np.float64)
            for k in np.flatnonzero(side).tolist()
            if (truth == k).any()
        ]
        if not means:
            return np.zeros(embedding.shape[1])
        sides.append(np.mean(means, axis=0))
    contrast: Float64s = sides[0] - sides[1]
    return contrast


def value_contrast(embedding: Floats, truth: Ints, having: Bools, known: Bools, classes: int) -> Float64s:
    """(D,) mean with a value minus mean without it, inside classes, every class with both counting equally."""
    differences = []
    for k in range(classes):
        inside = (truth == k) & known
        with_value, without = inside & having, inside & ~having
        # a mean of under five images is mostly noise
        if min(int(with_value.sum()), int(without.sum())) >= 5:
            differences.append(
                embedding[with_value].mean(axis=0, dtype=np.float64) - embedding[without].mean(axis=0, dtype=np.float64)
            )
    if not differences:  # the value and the class cannot be told apart: fall back to all images
        with_value, without = known & having, known & ~having
        if not with_value.any() or not without.any():
            return np.zeros(embedding.shape[1])
        differences = [
            embedding[with_value].mean(axis=0, dtype=np.float64) - embedding[without].mean(axis=0, dtype=np.float64)
        ]
    mean: Float64s = np.mean(differences, axis=0)
    return mean


def _unit(rows: Float64s) -> Float64s:
    units: Float64s = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return units


def _words(name: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", name.casefold()))


def _naming(texts: Sequence[str], names: Sequence[str]) -> Bools:
    """(T,) texts that have the name of a class in them, singular or plural."""
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for words in filter(None, map(_words, names)):
        for form in _forms(words[0]):
            by_first.setdefault(form, []).append(words)

    def named(words: tuple[str, ...]) -> bool:
        return any(
            len(words) - start >= len(name)
            and all(word in _forms(own) for word, own in zip(words[start:], name, strict=False))
            for start, first in enumerate(words)
            for name in by_first.get(first, ())
        )

    return np.array([named(_words(text)) for text in texts], np.bool_)


def _forms(word: str) -> tuple[str, str, str]:
    return word, word + "s", word + "es"
