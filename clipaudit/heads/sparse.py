"""Embeddings as sparse sums of texts: SpLiCE of Bhalla, Oesterling, Srinivas, Calmon and Lakkaraju (NeurIPS 2024)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import ArrayHolder, Float32s, Float64s, Floats, Ints
from clipaudit.heads.texts.pool import TextPool, subject_of

_CHUNK: Final = 256
"""Images that are solved at once."""
_SWEEPS: Final = 5000


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Dictionary(ArrayHolder):
    """The T concepts that embeddings are made of: texts alike but for `a photo of` are one."""

    texts: tuple[str, ...]
    """(T) the shortest of each concept's texts."""
    properties: tuple[str, ...]
    """(T) each concept's property, such as `place`."""
    vectors: Float64s
    """(T, D) of length 1, relative to the mean of all texts."""

    def __len__(self) -> int:
        return len(self.texts)


def dictionary_of(pool: TextPool, vectors: Floats) -> Dictionary:
    """The concepts of a pool; vectors (P, D) are its texts' unit vectors.

    The mean of all texts is taken out, which is what they share as texts (the modality gap; SpLiCE, section 4.2).
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(pool.texts):
        places.setdefault(subject_of(text), []).append(place)
    members = list(places.values())
    first = [min(group, key=lambda place: len(pool.texts[place])) for group in members]
    means = np.stack([np.asarray(vectors, np.float64)[group].mean(axis=0) for group in members])
    return Dictionary(
        texts=tuple(pool.texts[place] for place in first),
        properties=tuple(pool.properties[place] for place in first),
        vectors=_unit(means - means.mean(axis=0)),
    )


def sparse_weights(
    embeddings: Floats,
    mean: Floats,
    dictionary: Dictionary,
    penalty: float,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> Float32s:
    """(n, T) float32 weights >= 0 of the concepts in each of n embeddings, most of them 0.

    embeddings: (n, D) unit; mean: (D,) of the embeddings that these are seen among, which is taken out. For each
    centred unit embedding z, w minimises ||z - C'w||^2 / 2 + penalty * sum(w), w >= 0 (SpLiCE, equation 4), so that
    each concept with a weight has a cosine of `penalty` with what the concepts leave of z: at 1 none has one, towards
    0 nearly all have. `on_images(done, total)` as it goes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso

    centred = _unit(np.asarray(embeddings, np.float64) - mean)
    concepts = np.asarray(dictionary.vectors.T, np.float64, order="F")
    # scikit-learn divides the squared error by the D numbers of an embedding
    solver = Lasso(
        alpha=penalty / len(concepts),
        positive=True,
        fit_intercept=False,
        precompute=dictionary.vectors @ dictionary.vectors.T,
        max_iter=_SWEEPS,
    )
    weights = np.zeros((len(centred), len(dictionary)), np.float32)
    with warnings.catch_warnings():
        # an embedding of 0 has no duality gap to close, and a gap of 1e-4 of |z|^2 left open changes no digit shown
        warnings.simplefilter("ignore", ConvergenceWarning)
        for start in range(0, len(centred), _CHUNK):
            piece = centred[start : start + _CHUNK]
            weights[start : start + len(piece)] = solver.fit(concepts, piece.T).coef_.reshape(len(piece), -1)
            on_images(start + len(piece), len(centred))
    return weights


def fidelity(embeddings: Floats, mean: Floats, dictionary: Dictionary, weights: Float32s) -> Float64s:
    """(n,) cosines of the centred embeddings with their sums of concepts; 0 where no concept has a weight."""
    centred = _unit(np.asarray(embeddings, np.float64) - mean)
    cosines: Float64s = np.einsum("nd,nd->n", centred, _unit(weights.astype(np.float64) @ dictionary.vectors))
    return cosines


def strongest(weights: Floats, count: int) -> Ints:
    """(m,) places of the up to `count` largest weights (T,) above 0, the largest first."""
    order = np.argsort(-weights, kind="stable")[:count]
    return order[weights[order] > 0]


def _unit(rows: Float64s) -> Float64s:
    """(n, D) rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Float64s = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return unit
