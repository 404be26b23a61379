"""What sets some images apart from others: texts, columns, image properties, with effect and false-discovery rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import erfc
from scipy.stats import rankdata

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.run.filter_columns import value_text
from clipaudit.statistics import benjamini_hochberg

MOST: Final = 50_000
"""Images of each side that are compared; a random sample of more."""
RATE: Final = 0.05
"""What is listed has an adjusted p-value of at most this: of all that is listed, 5 % are expected to be false."""
LEAST: Final = 5
"""Images on each side."""
_LEAST_SHARE: Final = 0.05
_LEAST_D: Final = 0.2
_VALUES: Final = 50
"""Values of a column that are tested, those that most of the images have."""
_ALIKE: Final = 0.85
"""Cosine of two texts of which the weaker one is left out."""
_LISTED: Final = 8


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing in which the images inside differ from the others."""

    kind: Literal["text", "value", "number"]
    name: str
    """A text, or a column."""
    value: str | None
    """Of a column whose values are counted."""
    inside: float
    others: float
    """Shares 0..1 of images with the value, medians of numbers, mean scores of texts."""
    effect: float
    """Difference of the shares; of numbers the rank difference D, -1..1; of texts the difference in standard
    deviations of a score."""
    q: float
    """The p-value, adjusted over everything that was tested (Benjamini and Hochberg)."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """What sets images apart."""

    inside: int
    others: int
    tested: int
    differences: tuple[Difference, ...]
    """Those within RATE and not tiny: the largest first, of each kind at most a few."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TextScores:
    """How texts score images of one space."""

    texts: tuple[str, ...]
    vectors: Float32s
    """(T, D) in the joint space."""
    folded: Float64s
    """(T, length) in the coordinates of `values`."""
    values: npt.NDArray[Any]
    """(n, length) as stored."""
    deviation: Float64s
    """(T,) standard deviation of each text's scores over the run."""


def apart(inside: Bools, others: Bools, columns: Sequence[tuple[str, Any]], texts: TextScores | None) -> Apart:
    """Compare the rows inside (n,) with the others (n,).

    columns: (name, values (n,) of pyarrow), numbers, booleans or texts. Images count as independent.
    """
    a, b = sampled(inside), sampled(others)
    found: list[tuple[Difference, float]] = []
    if min(len(a), len(b)) >= LEAST:
        for name, values in columns:
            found += column_differences(name, values, a, b)
        if texts is not None:
            found += _text_differences(texts, a, b)
    q = benjamini_hochberg(np.array([p for _, p in found]))
    listed = [_adjusted(each, rate) for (each, _), rate in zip(found, q.tolist(), strict=True) if rate <= RATE]
    strong = sorted((each for each in listed if _counts(each)), key=lambda each: -abs(each.effect))
    return Apart(
        inside=int(inside.sum()),
        others=int(others.sum()),
        tested=len(found),
        differences=(
            *_first(strong, lambda each: each.kind == "value"),
            *_first(strong, lambda each: each.kind == "number"),
            *_distinct(strong, texts),
        ),
    )


def sampled(chosen: Bools) -> Ints:
    """(m,) places of at most MOST of the rows chosen (n,)."""
    places = np.flatnonzero(chosen)
    return places if len(places) <= MOST else np.sort(np.random.default_rng(0).choice(places, MOST, replace=False))


def _adjusted(each: Difference, q: float) -> Difference:
    return Difference(**{**vars(each), "q": q})


def _counts(each: Difference) -> bool:
    """Whether a difference is large enough to be told."""
    return abs(each.effect) >= (_LEAST_SHARE if each.kind == "value" else _LEAST_D)


def _first(listed: Sequence[Difference], which: Callable[[Difference], bool]) -> list[Difference]:
    """The strongest few, one a column."""
    taken: dict[str, Difference] = {}
    for each in listed:
        if which(each):
            taken.setdefault(each.name, each)
    return list(taken.values())[:_LISTED]


def _distinct(listed: Sequence[Difference], texts: TextScores | None) -> list[Difference]:
    """The strongest texts that say something of their own."""
    if texts is None:
        return []
    place = {text: number for number, text in enumerate(texts.texts)}
    taken: list[Difference] = []
    for each in listed:
        vector = texts.vectors[place[each.name]] if each.kind == "text" else None
        if vector is None or any(abs(float(vector @ texts.vectors[place[one.name]])) > _ALIKE for one in taken):
            continue
        taken.append(each)
        if len(taken) == _LISTED:
            break
    return taken


# -- columns -----------------------------------------------------------------------------------------------------------


def column_differences(name: str, values: Any, a: Ints, b: Ints) -> list[tuple[Difference, float]]:  # noqa: ANN401
    """Differences of a column (n,) between rows a (m,) and rows b (k,), with their p-values."""
    kind = values.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        distinct = pc.count_distinct(values).as_py()
        if pa.types.is_floating(kind) or distinct > _VALUES:
            return _number(name, values, a, b)
    return _values(name, values, a, b)


def _number(name: str, values: Any, a: Ints, b: Ints) -> list[tuple[Difference, float]]:  # noqa: ANN401
    x, y = (np.asarray(pc.cast(values.take(pa.array(rows)), pa.float64()).drop_null()) for rows in (a, b))
    x, y = x[np.isfinite(x)], y[np.isfinite(y)]
    if min(len(x), len(y)) < LEAST:
        return []
    ranks = rankdata(np.concatenate([x, y]))
    n, m = len(x), len(y)
    auc = (float(ranks[:n].sum()) - n * (n + 1) / 2) / (n * m)
    _, ties = np.unique(ranks, return_counts=True)
    N = n + m
    # variance of Mann and Whitney's U / nm, with ties
    variance = ((N + 1) - float((ties**3 - ties).sum()) / (N * (N - 1))) / (12 * n * m)
    p = two_sided((auc - 0.5) / math.sqrt(max(variance, 1e-300)))
    each = Difference(
        kind="number",
        name=name,
        value=None,
        inside=float(np.median(x)),
        others=float(np.median(y)),
        effect=2 * auc - 1,
        q=1.0,
    )
    return [(each, p)]


def _values(name: str, values: Any, a: Ints, b: Ints) -> list[tuple[Difference, float]]:  # noqa: ANN401
    encoded = (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values).dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(-1), np.int64)
    K = len(encoded.dictionary)
    if K < 2 or len(codes) / 2 < K:  # every image its own value: a key, a caption
        return []
    x, y = (codes[rows][codes[rows] >= 0] for rows in (a, b))
    if min(len(x), len(y)) < LEAST:
        return []
    n, m = np.bincount(x, minlength=K), np.bincount(y, minlength=K)
    names = encoded.dictionary.to_pylist()
    differences = []
    for place in np.argsort(-(n + m), kind="stable")[: _VALUES if K > 2 else 1].tolist():
        inside, others = n[place] / len(x), m[place] / len(y)
        if K == 2 and inside < others:  # of two values the one that there is more of inside
            place = 1 - place
            inside, others = 1 - inside, 1 - others
        pooled = (n[place] + m[place]) / (len(x) + len(y))
        error = math.sqrt(max(pooled * (1 - pooled) * (1 / len(x) + 1 / len(y)), 1e-300))
        each = Difference(
            kind="value",
            name=name,
            value=value_text(names[place]),
            inside=float(inside),
            others=float(others),
            effect=float(inside - others),
            q=1.0,
        )
        differences.append((each, two_sided((inside - others) / error)))
    return differences


def two_sided(z: float) -> float:
    """The p-value of a normal deviate."""
    return float(erfc(abs(z) / math.sqrt(2)))


# -- texts -------------------------------------------------------------------------------------------------------------


def _text_differences(texts: TextScores, a: Ints, b: Ints) -> list[tuple[Difference, float]]:
    means = [texts.folded @ _mean(texts.values, rows) for rows in (a, b)]
    effect = (means[0] - means[1]) / np.maximum(texts.deviation, 1e-12)
    z = effect / math.sqrt(1 / len(a) + 1 / len(b))
    return [
        (
            Difference(
                kind="text",
                name=text,
                value=None,
                inside=float(means[0][t]),
                others=float(means[1][t]),
                effect=float(effect[t]),
                q=1.0,
            ),
            two_sided(float(z[t])),
        )
        for t, text in enumerate(texts.texts)
    ]


def _mean(values: npt.NDArray[Any], rows: Ints) -> Float64s:
    total = np.zeros(values.shape[1])
    for start in range(0, len(rows), 16_384):
        total += values[rows[start : start + 16_384]].sum(axis=0, dtype=np.float64)
    return total / max(len(rows), 1)
