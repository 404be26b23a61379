"""From a cue to the parts of its finding: association, words, tables, distributions, gallery, stability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Floats, Ints
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.naming import value_contrast
from clipaudit.cues.measure.sample_refs import sample_ref
from clipaudit.cues.result.finding_parts import (
    Association,
    CellTable,
    CueWord,
    Distribution,
    Distributions,
    Estimate,
    Gallery,
    Rival,
    SampleRef,
    Stability,
    strength_word,
)
from clipaudit.cues.statistics.attributes import AttributeScreen, alignment, cramers_v, expected_counts, odds_ratio
from clipaudit.cues.statistics.environments import environments_of, stability
from clipaudit.cues.statistics.strength import Z95, binned, strengths

_RIVALS: Final = 20
"""Rivals that are listed, those with the largest |D|."""
_TABLE_CLASSES: Final = 12
"""Classes of a table; with more, all others are put together."""
_BINS: Final = 32
"""Of a histogram."""
_GALLERY: Final = 12
"""Images of each kind."""


# -- association -------------------------------------------------------------------------------------------------------


def direction_association(context: Context, m: int, k: int) -> Association:
    """Association of direction m (row of the family) with tested class k, positive towards the class's end (S1)."""
    sign = 1.0 if context.family.d[m, k] >= 0 else -1.0
    codes = context.scan.codes[:, m]
    pairs = strengths(codes, context.sample_design).pairs[k] * sign
    plain = strengths(binned(context.scores(context.scan.directions[m], plain=True)), context.sample_design).d[k] * sign
    return replace(_association(context, m, k, sign, _rivals(context, k, pairs)), d_plain=float(plain))


def attribute_association(context: Context, screen: AttributeScreen, place: int, k: int) -> Association:
    """Association of an attribute's value with tested class k, negative when the class has less of it (S6)."""
    value = int(screen.values[place])
    shares = screen.counts[:, value] / np.maximum(screen.counts.sum(axis=1), 1)
    having, rows = screen.counts[:, value], screen.counts.sum(axis=1)
    table = [
        [having[k], rows[k] - having[k]],
        [having.sum() - having[k], rows.sum() - rows[k] - having.sum() + having[k]],
    ]
    m = context.row_of(screen, place)
    return replace(
        _association(context, m, k, 1.0, _rivals(context, k, shares[k] - shares)),
        cramers_v=cramers_v(screen.counts),
        odds_ratio=odds_ratio(table),
        alignment=alignment(screen.counts[k]),
    )


def _association(context: Context, m: int, k: int, sign: float, rivals: tuple[Rival, ...]) -> Association:
    """What directions and attributes have in common: D times `sign` with its interval, p and q."""
    family, delta = context.family, context.options.delta_warn
    d, half = float(family.d[m, k]) * sign, Z95 * float(family.error[m, k])
    low, high = max(-1.0, d - half), min(1.0, d + half)
    return Association(
        rows=context.rows,
        d=Estimate(value=d, low=low, high=high, n=len(context.facts)),
        d_plain=None,
        strength=strength_word(d),
        rivals=rivals,
        p=float(family.p[m, k]),
        q=float(family.q[m, k]),
        p_family=context.p_family(float(family.z[m, k])),
        delta=delta,
        above_delta=bool(context.flagged[m, k]) and d > 0,
        within_delta=low > -delta and high < delta,
    )


def guess_warning(context: Context, name: str, cue: str) -> str:
    """Why a class that is not from labels may go with a cue though the class's images do not."""
    if context.classes_from == "caption":
        return (
            f"Captions decide: people may name {name} where there is {cue!r} and leave it out elsewhere, and images"
            " whose caption names no class are not compared."
        )
    return f"{cue!r} may be what makes CLIP answer {name}, also in images of other classes."


def _rivals(context: Context, k: int, d: npt.NDArray[np.floating[Any]]) -> tuple[Rival, ...]:
    counts = context.design.counts
    order = [j for j in np.argsort(-np.abs(d), kind="stable").tolist() if j != k]
    return tuple(Rival(class_name=context.name(j), d=float(d[j]), n=int(counts[j])) for j in order[:_RIVALS])


# -- words, tables, distributions --------------------------------------------------------------------------------------


def head_words(
    context: Context, heads: Sequence[str], members: Ints, having: Ints, k: int, count: int = 3
) -> list[CueWord]:
    """The text nearest to how each of the first `count` heads' output differs with the cue, inside classes.

    members: (m,) directions of the cue; having: (s,) 1 with the cue, 0 without, -1 unknown. A word's d is the strength
    of class k along the head's strongest member.
    """
    words = []
    basis = context.run.basis()
    for head in heads[:count]:
        values = context.scan.values[head].astype(np.float32)
        K = context.design.classes
        contrast = value_contrast(values, context.truth, having == 1, having >= 0, K) @ basis.Q(head).astype(np.float64)
        nearest = context.namer.words(contrast, 1, context_only=True)
        own = [m for m in members.tolist() if context.scan.directions[m].head == head]
        d = max((abs(float(context.family.d[m, k])) for m in own), default=None)
        words += [CueWord(text=w.text, property=w.property, kind=w.kind, head=head, d=d) for w in nearest]
    return words


def attribute_cells(context: Context, screen: AttributeScreen, k: int | None = None) -> CellTable:
    """Class x value counts; with many classes only class k and all others together."""
    counts, names = screen.counts, [context.name(j) for j in range(context.design.classes)]
    if k is not None and len(names) > _TABLE_CLASSES:
        counts = np.stack([screen.counts[k], screen.counts.sum(axis=0) - screen.counts[k]])
        names = [names[k], "all others"]
    return cell_table(screen.attribute.column, names, screen.attribute.values, counts, screen.missing)


def cell_table(
    source: str,
    names: Sequence[str],
    values: Sequence[str],
    counts: npt.ArrayLike,
    missing: int,
    *,
    corrected: bool = False,
    purity: float | None = None,
    error_rates: tuple[float, float] | None = None,
) -> CellTable:
    """A table of (K, V) counts of classes `names` and `values`, with the counts expected under independence (S6)."""
    table = np.asarray(counts, np.float64)
    return CellTable(
        source=source,
        corrected=corrected,
        classes=tuple(names),
        values=tuple(values),
        counts=tuple(tuple(map(float, row)) for row in table),
        expected=tuple(tuple(map(float, row)) for row in expected_counts(table)),
        missing=missing,
        purity=purity,
        error_rates=error_rates,
    )


def distributions(
    context: Context, label: str, scores: Floats, k: int, values: Sequence[str] = (), codes: Ints | None = None
) -> Distributions:
    """Histograms of scores (s,): of class k and of all others, and of each with each of two to four values.

    codes: (s,) places in `values`, -1 for images without one. The outermost 0.1 % on each side go into the end bins.
    """
    low, high = np.quantile(scores, (0.001, 0.999))
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    inside = context.truth == k
    sides = [(context.name(k), inside), ("all others", ~inside)]
    series = [_series(name, name, None, scores[rows], edges) for name, rows in sides]
    if codes is not None and 2 <= len(values) <= 4:
        series += [
            _series(f"{name}, {value}", name, value, scores[rows & (codes == place)], edges)
            for name, rows in sides
            for place, value in enumerate(values)
        ]
    return Distributions(label=label, edges=tuple(map(float, edges)), series=tuple(series))


def _series(name: str, class_name: str, value: str | None, scores: Floats, edges: Floats) -> Distribution:
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), bins=edges)
    return Distribution(
        name=name, class_name=class_name, value=value, n=len(scores), counts=tuple(int(n) for n in counts)
    )


def finding_stability(context: Context, scores: Floats, k: int) -> Stability | None:
    """D of class k along scores (s,) in each environment, shards unless the options name a column (S12)."""
    column = context.options.environment
    if column is not None and column in context.sampled.attributes:
        attribute = context.sampled.attributes[column]
        codes, names = environments_of(context.sampled.shard_id, attribute.values, attribute.codes)
    else:
        codes, names = environments_of(context.sampled.shard_id, None, None)
    by = "shard" if column is None else column
    return stability(scores, context.truth, k, context.design.classes, codes, names, by)


# -- gallery -----------------------------------------------------------------------------------------------------------


def gallery(
    context: Context, scores: Floats, k: int, heads: Sequence[str], having: Ints, words: tuple[str, str]
) -> Gallery:
    """Images of the sample that show a cue of class k.

    scores: (s,) towards the cue; having: (s,) 1 with the cue, 0 without, -1 unknown; words: for images without and with
    it; heads: at their means in the second answer of each image.
    """
    inside = context.truth == k
    order = np.argsort(-scores, kind="stable")
    aligned = _first(order, inside & (having != 0), _GALLERY)
    own = _first(order[::-1], inside & (having == 0), _GALLERY // 2)
    others = _first(order, ~inside & (having == 1), _GALLERY // 2)
    least = _first(order[::-1], inside, _GALLERY)
    places = np.unique(np.concatenate([aligned, own, others, least]))
    answers = _answers(context, places, heads)

    def refs(chosen: Ints) -> tuple[SampleRef, ...]:
        return tuple(_ref(context, place, scores, having, words, answers) for place in chosen.tolist())

    return Gallery(aligned=refs(aligned), conflicting=(*refs(own), *refs(others)), least_spurious=refs(least))


def _first(order: Ints, rows: Bools, count: int) -> Ints:
    places: Ints = order[rows[order]][:count]
    return places


def _answers(context: Context, places: Ints, heads: Sequence[str]) -> dict[int, tuple[int, int]]:
    """Zero-shot answers, classes as rows of the class vectors, by place: as they are and with heads at their means.

    Empty where CLIP's answers are the classes, and so neither right nor wrong.
    """
    if not len(places) or context.classes_from == "clip":
        return {}
    embedding = context.embedding[places]
    before = (embedding @ context.classes.T).argmax(axis=1)
    basis = context.run.basis()
    for head in heads:
        away = context.scan.values[head][places].astype(np.float64) - context.scan.means[head]
        embedding = embedding - (away @ basis.Q(head).astype(np.float64)).astype(np.float32)
    after = (embedding @ context.classes.T).argmax(axis=1)
    return {place: (int(a), int(b)) for place, a, b in zip(places.tolist(), before, after, strict=True)}


def _ref(
    context: Context,
    place: int,
    scores: Floats,
    having: Ints,
    words: tuple[str, str],
    answers: dict[int, tuple[int, int]],
) -> SampleRef:
    """The image at a place of the sample, with its answers, its value in words and its score."""
    names = context.names.names
    before, after = (names[answer] for answer in answers[place]) if answers else (None, None)
    return replace(
        sample_ref(context.sampled, place, context.names),
        predicted=before,
        predicted_without=after,
        value=None if having[place] < 0 else words[int(having[place])],
        score=float(scores[place]),
    )
