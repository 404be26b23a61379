"""Whether a model knows the words of a text pool: its texts are compared with texts of made-up words."""

from __future__ import annotations

import random
from typing import Any, Final, Protocol

import numpy as np

from clipaudit.arrays import Bools, Float32s
from clipaudit.errors import ClipauditError
from clipaudit.heads.texts.pool import TextPool

_WORDS: Final = 64
_LETTERS: Final = "bcdfghjklmnpqrstvwxz"  # no vowels: no language has such words
_UNKNOWN_SHARE: Final = 1 / 3
"""Of texts like those of made-up words, from which on it is said."""
_LOW: Final = 0.05


class TextVectors(Protocol):
    """What gives texts their vectors: `RunTexts`, or a stand-in."""

    def vectors(self, texts: tuple[str, ...], /) -> Any:  # noqa: ANN401 - an array of any float type
        """(T, D) unit vectors."""


def made_up_texts() -> tuple[str, ...]:
    """64 texts of the form `a photo of a xqzvf`, always the same."""
    draw = random.Random(0)  # noqa: S311 - words, no secrets
    words = ("".join(draw.choice(_LETTERS) for _ in range(draw.randint(4, 7))) for _ in range(_WORDS))
    return tuple(f"a photo of a {word}" for word in words)


def fit_remark(pool: TextPool, vectors: Float32s, texts: TextVectors) -> str | None:
    """One sentence when the model tells many texts of the pool from made-up words no better than those from each other.

    vectors: (T, D) unit vectors of the pool's texts. None when the texts fit, or the model cannot be loaded here: what
    is stored of texts is used without it.
    """
    try:
        made_up = np.asarray(texts.vectors(made_up_texts()), np.float64)
    except ClipauditError:
        return None
    unknown = share_unknown(np.asarray(vectors, np.float64), made_up)
    if unknown < _UNKNOWN_SHARE:
        return None
    return (
        f"few of these texts fit: to this model {100 * unknown:.0f} % of the {len(pool):,} texts are like made-up"
        " words; give --texts FILE with words that it knows"
    )


def share_unknown(vectors: Any, made_up: Any) -> float:  # noqa: ANN401 - arrays of any float type
    """Share, 0..1, of the (T, D) unit vectors that are `unknown_texts`."""
    return float(unknown_texts(vectors, made_up).mean())


def unknown_texts(vectors: Any, made_up: Any) -> Bools:  # noqa: ANN401 - arrays of any float type
    """(T,) which of the (T, D) unit vectors are as near to the (n, D) made-up ones as those are to each other.

    Near is the mean cosine; a text is unknown when its own is above the 5 % quantile of the made-up texts'.
    """
    n = len(made_up)
    # mean over the n - 1 others: (sum of the row - 1) / (n - 1)
    among = (made_up @ made_up.sum(axis=0) - 1) / (n - 1)
    unknown: Bools = vectors @ made_up.mean(axis=0) > np.quantile(among, _LOW)
    return unknown
