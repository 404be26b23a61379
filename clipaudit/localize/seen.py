"""Whether a picture has what a text says: its cosine against those of unrelated texts (docs/localize.md)."""

from __future__ import annotations

from typing import Final

import numpy as np

from clipaudit.arrays import Floats
from clipaudit.heads.texts.pool import pool_for

_UNRELATED: Final = 64
"""Texts of the pool that a text's cosine is compared with. Most say nothing of any one picture."""
_SHARE: Final = 0.9
"""A text is seen when its cosine exceeds those of this share of them (docs/localize.md has the error rates)."""


def unrelated_texts(model: str) -> list[str]:
    """Texts of the pool of a model, by its name, evenly spread over it: at most 64, each once."""
    texts = pool_for(model).texts
    chosen = np.linspace(0, len(texts) - 1, min(_UNRELATED, len(texts))).round().astype(np.int64)
    return [texts[n] for n in dict.fromkeys(chosen.tolist())]


def unrelated_cosine(products: Floats) -> float:
    """The cosine that 9 in 10 unrelated texts do not exceed: a text below it is not seen.

    products: cosines of one image with the texts of `unrelated_texts`, of any shape.
    """
    return float(np.quantile(np.asarray(products, np.float32), _SHARE))
