"""Embeddings as a probe sees them: standardised by the training images, turned to their principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Float32s, Float64s, Floats, Ints

_BLOCK: Final = 8192
_FLAT: Final = 1e-6
"""Share of the largest variance below which a principal component holds nothing but rounding."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Standardisation:
    """From embeddings (n, D) to features (n, r): (z - mean) @ matrix."""

    mean: Float64s
    """(D,)"""
    matrix: Float32s
    """(D, r): each dimension over its standard deviation, then the principal components."""

    def __call__(self, embedding: Floats) -> Float32s:
        """(n, r) float32 features of embeddings (n, D) of any float type."""
        features = np.empty((len(embedding), self.matrix.shape[1]), np.float32)
        mean = self.mean.astype(np.float32)
        for first in range(0, len(embedding), _BLOCK):
            block = embedding[first : first + _BLOCK].astype(np.float32) - mean
            features[first : first + _BLOCK] = block @ self.matrix
        return features


def standardisation(embedding: Floats, rows: Ints) -> Standardisation:
    """Of the embeddings (n, D) at places `rows` (m,), m >= 1.

    The rotation loses nothing that a penalised linear model could use: components without variance are left out.
    """
    D = embedding.shape[1]
    total, products = np.zeros(D), np.zeros((D, D))
    for first in range(0, len(rows), _BLOCK):
        block = embedding[rows[first : first + _BLOCK]].astype(np.float64)
        total += block.sum(axis=0)
        products += block.T @ block
    mean = total / len(rows)
    covariance = products / len(rows) - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    # a dimension that never varies stays 0
    scale = np.where(deviation > _FLAT * deviation.max(initial=0.0), 1 / np.maximum(deviation, 1e-12), 0.0)
    values, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    useful = values > _FLAT * max(float(values[-1]), 1e-12)
    return Standardisation(mean=mean, matrix=(scale[:, None] * vectors[:, useful][:, ::-1]).astype(np.float32))
