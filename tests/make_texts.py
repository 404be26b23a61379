"""Texts for runs without a model: unit vectors drawn from a hash of each text, and pools of such texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipaudit.heads.texts.pool import TextPool


class HashedTexts:
    """What `RunTexts` does, without a model: the same text has the same unit vector everywhere."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.stack([self._vector(text) for text in texts])

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> npt.NDArray[np.float32]:
        return self.vectors(names)

    def _vector(self, text: str) -> npt.NDArray[np.float32]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        vector = np.random.default_rng(seed).standard_normal(self._dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_pool(count: int = 40, properties: Sequence[str] = ("colour", "animal")) -> TextPool:
    """Texts whose properties alternate; colours are context-like."""
    names = [properties[n % len(properties)] for n in range(count)]
    return TextPool(
        texts=tuple(f"{name} number {n}" for n, name in enumerate(names)),
        properties=tuple(names),
        kinds=tuple("context-like" if name == "colour" else "core-like" for name in names),
        source="test",
    )


def write_pool(path, pool: TextPool) -> str:
    """The pool as a file of text, property and kind."""
    rows = zip(pool.texts, pool.properties, pool.kinds, strict=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return str(path)
