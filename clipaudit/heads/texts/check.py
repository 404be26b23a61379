"""Which texts of a list a model tells apart: each is worded anew, and looked for among all the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Float64s, Ints
from clipaudit.errors import UsageError
from clipaudit.heads.texts.fit import TextVectors, made_up_texts, unknown_texts
from clipaudit.heads.texts.pool import TextPool, subject_of
from clipaudit.statistics import Proportion

WORDINGS: Final = ("an image of {}", "this picture shows {}", "{} can be seen here")
"""What a text without its `a photo of` is put into; none says more than another."""
_BLOCK: Final = 1024
"""Texts that are compared with all others at once."""


@dataclass(frozen=True, kw_only=True)
class MistakenText:
    """A text that a model takes for another one."""

    text: str
    taken_for: str
    wordings: int
    """Of the wordings of the text, those that are nearer to the other text than to their own."""
    cosine: float
    """Of the two texts, relative to the mean of all texts: 1 the same, 0 unrelated."""


@dataclass(frozen=True, kw_only=True)
class PropertyCheck:
    """How well the texts of one property are told apart."""

    property: str
    told_apart: Proportion


@dataclass(frozen=True, eq=False, kw_only=True)
class TextCheck:
    """Which texts of a pool a model tells apart."""

    pool: TextPool = field(repr=False)
    told_apart: Proportion
    """Texts of which no wording is nearer to another text."""
    unknown: tuple[str, ...]
    """Texts that are to the model like made-up words."""
    confusions: tuple[MistakenText, ...]
    """Texts that are not told apart, those with most wrong wordings first, then the most alike."""
    properties: tuple[PropertyCheck, ...]
    """Worst first; empty where the pool has one property or none."""


def check_texts(pool: TextPool, texts: TextVectors) -> TextCheck:
    """Which texts of a pool the model of `texts` tells apart; no image is needed.

    Each text is put into three wordings. A wording belongs to the text that it has the largest cosine with, all texts
    and all texts in that wording each relative to their own mean, so that what a wording adds to every text counts for
    nothing. A text is told apart when all of its wordings are its own. Texts of one subject (`a dog`, `a photo of a
    dog`) are one another's.

    UsageError for fewer than two texts that are not wordings of each other, and as in `encode_texts`.
    """
    subjects = [subject_of(text) for text in pool.texts]
    if len(set(subjects)) < 2:
        raise UsageError(f"{pool.source} has one text only: there is nothing to tell it apart from")
    own = np.asarray(texts.vectors(pool.texts), np.float64)
    group = np.unique(subjects, return_inverse=True)[1].astype(np.int64)
    relative = _relative(own)
    wrong = np.zeros(len(pool), np.int64)
    nearest: list[Counter[int]] = [Counter() for _ in pool.texts]
    for wording in WORDINGS:
        worded = np.asarray(texts.vectors(tuple(wording.replace("{}", subject) for subject in subjects)), np.float64)
        others = _taken_for(_relative(worded), relative, group)
        for place in np.flatnonzero(others >= 0).tolist():
            wrong[place] += 1
            nearest[place][int(others[place])] += 1
    unknown = unknown_texts(own, np.asarray(texts.vectors(made_up_texts()), np.float64))
    return TextCheck(
        pool=pool,
        told_apart=Proportion(right=int((wrong == 0).sum()), total=len(pool)),
        unknown=tuple(pool.texts[place] for place in np.flatnonzero(unknown).tolist()),
        confusions=_confusions(pool, relative, wrong, nearest),
        properties=_by_property(pool, wrong),
    )


def _relative(vectors: Float64s) -> Float64s:
    """(T, D) unit vectors relative to their mean; zeros stay."""
    centred = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: Float64s = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    return unit


def _taken_for(worded: Float64s, relative: Float64s, group: Ints) -> Ints:
    """(T,) the text that each worded text is nearer to than to any of its own subject; -1 where there is none."""
    taken = np.full(len(worded), -1, np.int64)
    for start in range(0, len(worded), _BLOCK):
        rows = slice(start, start + _BLOCK)
        cosines = worded[rows] @ relative.T
        same = group[rows, None] == group
        best_own = np.where(same, cosines, -np.inf).max(axis=1)
        cosines[same] = -np.inf
        best = cosines.argmax(axis=1)
        nearer = cosines[np.arange(len(best)), best] > best_own
        taken[rows] = np.where(nearer, best, -1)
    return taken


def _confusions(
    pool: TextPool, relative: Float64s, wrong: Ints, nearest: list[Counter[int]]
) -> tuple[MistakenText, ...]:
    confusions = []
    for place in np.flatnonzero(wrong).tolist():
        other, count = nearest[place].most_common(1)[0]
        cosine = float(relative[place] @ relative[other])
        confusions.append(
            MistakenText(text=pool.texts[place], taken_for=pool.texts[other], wordings=count, cosine=cosine)
        )
    return tuple(sorted(confusions, key=lambda each: (-each.wordings, -each.cosine)))


def _by_property(pool: TextPool, wrong: Ints) -> tuple[PropertyCheck, ...]:
    names = np.array(pool.properties, object)
    checks = [
        PropertyCheck(
            property=name,
            told_apart=Proportion(right=int((wrong[names == name] == 0).sum()), total=int((names == name).sum())),
        )
        for name in dict.fromkeys(pool.properties)
    ]
    return tuple(sorted(checks, key=lambda check: check.told_apart.value)) if len(checks) > 1 else ()


def check_json(check: TextCheck, model: str) -> dict[str, Any]:
    """Plain JSON values; `model` is how the model is named."""
    low, high = check.told_apart.interval()
    return {
        "model": model,
        "texts": {"source": check.pool.source, "count": len(check.pool), "fingerprint": check.pool.fingerprint},
        "duplicates_left_out": check.pool.duplicates,
        "wordings": list(WORDINGS),
        "told_apart": {**asdict(check.told_apart), "value": check.told_apart.value, "low": low, "high": high},
        "like_made_up_words": list(check.unknown),
        "confusions": [asdict(each) for each in check.confusions],
        "properties": [
            {"property": each.property, **asdict(each.told_apart), "value": each.told_apart.value}
            for each in check.properties
        ],
    }
