"""Images that show a finding's cue, with what CLIP answers before and after its heads are put at their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Bools, Floats, Ints
from clipaudit.cues.measure.context import Context
from clipaudit.cues.result.finding_parts import Gallery, SampleRef
from clipaudit.cues.statistics.balance import balanced_mean
from clipaudit.cues.statistics.right import right_answers

_GALLERY: Final = 12


def gallery(
    context: Context, scores: Floats, upper: Bools, heads: Sequence[str], having: Ints, words: tuple[str, str]
) -> Gallery:
    """Images that show a cue, drawn at random from the sample, right and wrong answers in proportion.

    scores (s,) towards the cue; upper (K,) classes that have it; having (s,) 1 with, 0 without, -1 unknown; words for
    without and with.
    """
    inside = upper[context.truth]
    rng = np.random.default_rng([context.options.seed, 19])
    right = _right(context)
    showing = inside & (having == 1) if (inside & (having == 1)).any() else inside & (having != 0)
    cells = showing, inside & (having == 0), ~inside & (having == 1)
    aligned, own, others = (
        drawn_in_proportion(cell, right, count, rng)
        for cell, count in zip(cells, (_GALLERY, _GALLERY // 2, _GALLERY // 2), strict=True)
    )
    order = np.argsort(-scores, kind="stable")
    least = order[::-1][inside[order[::-1]]][:_GALLERY]
    places = np.unique(np.concatenate([aligned, own, others, least]))
    answers = _answers(context, places, heads)

    def refs(chosen: Ints) -> tuple[SampleRef, ...]:
        return tuple(_ref(context, place, scores, having, words, answers) for place in chosen.tolist())

    return Gallery(
        aligned=refs(aligned),
        conflicting=(*refs(own), *refs(others)),
        least_spurious=refs(least),
        drawn=_drawn(context, [int(cell.sum()) for cell in cells], right is not None),
    )


def _drawn(context: Context, sizes: Sequence[int], in_proportion: bool) -> str:
    """What the pictures are a sample of, and how it was drawn; sizes: images of the three cells."""
    with_it, without_it, others = (f"{size:,}" for size in sizes)
    how = ", right and wrong answers in proportion," if in_proportion else ""
    of_all = ""
    if len(context.sampled) < len(context.facts):
        of_all = f", all among a sample of {len(context.sampled):,} of the {len(context.facts):,} images"
    return (
        f"Drawn at random{how} from {with_it} images with the cue, {without_it} of the same classes without it and"
        f" {others} of other classes with it{of_all}; the least spurious are those with the lowest scores."
    )


def _right(context: Context) -> Bools | None:
    """(s,) whether CLIP answers the class of each sampled image; None where its answers are the classes, or are
    not one class."""
    if context.classes_from == "clip" or context.presence is not None:
        return None
    return right_answers(context.embedding @ context.classes.T, context.tested[context.truth])


def drawn_in_proportion(rows: Bools, right: Bools | None, count: int, rng: np.random.Generator) -> Ints:
    """Places of at most `count` rows of a mask (s,) bool, drawn; right (s,) bool, None where nothing is right or wrong.

    Of the first m of them, for every m, as large a share is right as of all rows of the mask, to the nearest image: a
    page may show the first four.
    """
    places = rng.permutation(np.flatnonzero(rows))
    if right is None:
        return places[:count]
    good, bad = places[right[places]], places[~right[places]]
    so_far = np.round(np.arange(min(count, len(places)) + 1) * (len(good) / max(len(places), 1))).astype(np.int64)
    is_good = np.diff(so_far) > 0
    chosen = np.empty(len(is_good), np.int64)
    chosen[is_good], chosen[~is_good] = good[: is_good.sum()], bad[: (~is_good).sum()]
    return chosen


def _answers(context: Context, places: Ints, heads: Sequence[str]) -> dict[int, tuple[int, int]]:
    """Zero-shot answers of some sampled images, as they are and with heads at their means; none where CLIP's answers
    are the classes or not one class, and so neither right nor wrong."""
    if not len(places) or context.classes_from == "clip" or context.presence is not None:
        return {}
    embedding = context.embedding[places]
    before = (embedding @ context.classes.T).argmax(axis=1)
    basis = context.run.basis()
    design = context.sample_design
    for head in heads:
        values = context.scan.values[head]
        # the mean of every other ablation (S10): classes alike, copies once, the half that heads are chosen on
        mean = balanced_mean(values, context.truth, design.halves, design.weight)
        away = values[places].astype(np.float64) - mean
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
    facts, names = context.sampled, context.names
    k = int(context.truth[place])
    before, after = (names.names[answer] for answer in answers[place]) if answers else (None, None)
    return SampleRef(
        **identity(context, place),
        label=context.label(k),
        class_name=context.name(k),
        predicted=before,
        predicted_without=after,
        value=None if having[place] < 0 else words[int(having[place])],
        score=float(scores[place]) if len(facts) else None,
    )


def identity(context: Context, place: int) -> dict[str, Any]:
    """Where a sampled image is."""
    facts = context.sampled
    shard = int(facts.shard_id[place])
    located = facts.offset[place] >= 0
    return {
        "shard_id": shard,
        "index": int(facts.index[place]),
        "key": str(facts.key[place].as_py()),
        "url": context.run.manifest.shards[shard].url,
        "offset": int(facts.offset[place]) if located else None,
        "nbytes": int(facts.nbytes[place]) if located else None,
    }
