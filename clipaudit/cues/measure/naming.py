"""Which text names what sets images apart: contrasts in the joint space, class names competing with the pool's texts.

A TextSpan direction is what is left of its text after the texts before it, so that its own text need not say what a
class does along it. A contrast (mean of the images with a cue minus mean of those without) is compared with every text
instead. Class names compete: what a class's own name describes best is the class's content and no cue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.measure.directions import class_subspace
from clipaudit.heads.texts.pool import CONTEXT, UNSPECIFIED, TextPool

USER: Final = "user"
"""The property of texts that a user names."""
_MIN_SIDE: Final = 5
"""Images with and without a value that a class needs to count."""


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


class Namer:
    """Names contrasts with texts: the pool's, the user's, and class names, relative to the mean of the pool.

    `texts`, `properties` and `kinds` are those of the user's texts, then of the pool's.
    """

    def __init__(
        self,
        pool: TextPool,
        vectors: Floats,
        names: Sequence[str],
        classes: Floats,
        user: Sequence[str] = (),
        user_vectors: Floats | None = None,
    ) -> None:
        """vectors: (T, D) of the pool; classes: (C, D) of the names; user_vectors: (U, D). All are unit vectors."""
        extra = np.empty((0, vectors.shape[1])) if user_vectors is None else user_vectors.astype(np.float64)
        self.vectors: Float64s = np.concatenate([extra, vectors.astype(np.float64)])
        self.texts = (*user, *pool.texts)
        self.properties = (*([USER] * len(user)), *pool.properties)
        self.kinds = (*([CONTEXT] * len(user)), *pool.kinds)
        self.names = tuple(names)
        base = vectors.mean(axis=0, dtype=np.float64)
        self._relative = _unit(self.vectors - base)
        self._classes = _unit(classes.astype(np.float64) - base)
        self._subspace = class_subspace(classes)
        own = [_words(name) for name in names]
        self._named = np.array([any(_contains(text, words) for words in own) for text in self.texts], np.bool_)
        labels = np.array(self.properties, object)
        self._context = np.array([kind in (CONTEXT, UNSPECIFIED) for kind in self.kinds], np.bool_) & ~self._named
        self._property_mean = {name: self.vectors[labels == name].mean(axis=0) for name in set(self.properties)}

    def words(self, contrast: Float64s, count: int = 3, context_only: bool = False) -> list[Word]:
        """The `count` texts that name a contrast (D,) best; one of those that are equal but for `a photo of`.

        context_only: without texts of things and texts with a class's name in them.
        """
        length = float(np.linalg.norm(contrast))
        if length == 0:
            return []
        cosines = self._relative @ (contrast / length)
        if context_only:
            cosines = np.where(self._context, cosines, -np.inf)
        words: list[Word] = []
        cores: set[str] = set()
        for place in np.argsort(-cosines, kind="stable")[: 20 * count].tolist():
            key = _core(self.texts[place])
            if key in cores or not np.isfinite(cosines[place]):
                continue
            cores.add(key)
            words.append(self._word(place, float(cosines[place])))
            if len(words) == count:
                break
        return words

    def own(self, contrast: Float64s, k: int) -> float:
        """Cosine, -1..1, of a contrast (D,) with the name of class k, relative to the mean of the pool."""
        return float(self._classes[k] @ contrast / max(float(np.linalg.norm(contrast)), 1e-300))

    def axis(self, place: int, class_free: bool) -> Float64s:
        """(D,) float64 axis along which images have or lack a text: the text minus the mean of its property's texts.

        What all texts of a property share (that there is a place at all) says nothing about which one it is. class_free
        takes the class prompts' part out (S0).
        """
        name = self.properties[place]
        centre = self._property_mean[name] if name != USER else self.vectors.mean(axis=0)
        axis: Float64s = self.vectors[place] - centre
        if not np.linalg.norm(axis):  # the only text of its property
            axis = self.vectors[place] - self.vectors.mean(axis=0)
        if class_free:
            axis = axis - self._subspace.T @ (self._subspace @ axis)
        return axis

    def distance(self, place: int, k: int) -> float:
        """1 - cosine of a text and the name of class k, relative to the mean of the pool: 0 the same, 1 unrelated."""
        return 1.0 - float(self._relative[place] @ self._classes[k])

    def farther_than(self, place: int, k: int) -> float:
        """Share, 0..1, of the texts that are closer to the name of class k; near 0 the text is about the class."""
        cosines = self._relative @ self._classes[k]
        return float((cosines > cosines[place]).mean())

    def _word(self, place: int, cosine: float) -> Word:
        return Word(
            text=self.texts[place],
            property=self.properties[place],
            kind=self.kinds[place],
            place=place,
            cosine=cosine,
        )


def class_contrast(embedding: Floats, truth: Ints, k: int, classes: int) -> Float64s:
    """(D,) float64 mean of class k minus the mean of the other classes' means; zeros when either has no images.

    embedding: (n, D); truth: (n,) classes. Classes without images are left out.
    """
    means = [
        embedding[truth == j].mean(axis=0, dtype=np.float64) for j in range(classes) if j != k and (truth == j).any()
    ]
    own = embedding[truth == k]
    if not len(own) or not means:
        return np.zeros(embedding.shape[1])
    contrast: Float64s = own.mean(axis=0, dtype=np.float64) - np.mean(means, axis=0)
    return contrast


def value_contrast(embedding: Floats, truth: Ints, having: Bools, known: Bools, classes: int) -> Float64s:
    """(D,) float64 mean with a value minus mean without it, inside classes, every class with both counting equally.

    embedding: (n, D); truth: (n,) classes; having: (n,) mask of the images with the value; known: (n,) mask of those of
    which it is known. Over all images when no class has five with and five without it; zeros when no image has.
    """
    differences = []
    for k in range(classes):
        inside = (truth == k) & known
        with_value, without = inside & having, inside & ~having
        if min(int(with_value.sum()), int(without.sum())) >= _MIN_SIDE:
            differences.append(
                embedding[with_value].mean(axis=0, dtype=np.float64) - embedding[without].mean(axis=0, dtype=np.float64)
            )
    if not differences:  # value and class always come together: compare over all images
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


def _contains(text: str, words: tuple[str, ...]) -> bool:
    """Whether a text has a class's name in it, singular or plural."""
    if not words:
        return False
    text_words = _words(text)
    return any(
        all(
            a == b or a == b + "s" or a == b + "es"
            for a, b in zip(text_words[start : start + len(words)], words, strict=True)
        )
        for start in range(len(text_words) - len(words) + 1)
    )


def _core(text: str) -> str:
    return re.sub(r"^(an? )?(photo|image|picture) of ", "", text.casefold())
