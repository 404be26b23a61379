"""Which texts name a cue of some classes when there is no attribute: chosen on one half, tested on the other.

What sets classes apart is mostly the classes themselves, and a data set says nothing about which part is which. So a
text is a candidate only if (1) directions of heads along which its classes differ significantly go with it, (2) it is
context and not a thing (or the user asked for it), (3) along the text's own axis in the whole embedding the classes
that have it stand out by `delta_fail`: either after the class prompts' part is taken out of the axis, or when the text
describes what sets them apart at least as well as the classes' own names do, (4) they have more of it as they are, and
it fits what sets them apart inside classes, so that it is no part of what these classes look like, and (5) if there is
a stronger candidate, they stand out even among images that all have that one. Other cuts are differences between
classes, no candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.measure.context import Context, inside_classes, inside_strength
from clipaudit.cues.measure.naming import USER, Word, sides_contrast, value_contrast
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.cuts import Honest, honest, strength_interval
from clipaudit.cues.statistics.environments import side_strength
from clipaudit.cues.statistics.pseudo import pseudo_values
from clipaudit.cues.statistics.screen import named_side
from clipaudit.cues.statistics.strength import binned

GOES_WITH: Final = 0.3
"""Correlation (with an attribute: strength) inside classes from which a direction goes with a text or an attribute."""
_SAME_CLASSES: Final = 0.15
"""The same for two texts that name the same classes: an image with a cue differs from others along many axes."""
LEAST_FIT: Final = 0.4
"""Fit of a text with what sets its classes apart, with or without the class prompts' part, below which it only says
what these classes look like: of planted cues .45 and more, of clean classes at most .34 (one of .50 fails the other
condition), on the worlds that the limit was set on (`things`, seeds 101 to 116; `planted`, 201 to 204; `birds`, 0)."""
_TRIED: Final = 6
_BINS: Final = 256
_PER_SIDE: Final = 3
_SIDES: Final = 40
"""Ways to part the classes that are looked at, strongest first."""
_SHARED: Final = 0.25
"""What most classes share is looked for where those that lack it are at least this share of all classes."""
_AS_WELL: Final = -0.05
_NOT_MUCH_WORSE: Final = -0.3
"""Cosine of the text minus cosine of the class's name, with what sets the class apart. The two limits were set on the
demo world's `planted` and `things`, seed 0; figures are taken on other seeds."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TextCue:
    """A text that names a cue of some classes."""

    upper: Bools
    """(K,) classes that have it: those above the cut along its axis."""
    word: Word
    scores: Float32s
    """(s,) along the text's axis, in the whole embedding."""
    axis: Honest
    """The classes along it, or along its class-free part: cut on the discovery half, read on the other."""
    margin: float
    """Cosine of the text minus cosine of those classes' own names, with what sets them apart."""
    members: Ints
    """Passing directions that go with it, strongest first."""
    signs: Float64s
    """(members,) which end of each direction."""
    words: tuple[Word, ...] = ()
    """Other texts that name it nearly as well; none while it is tried."""
    fit: float = 0.0
    """Of the word with what sets these classes apart, on the half where it is less."""


def text_cues(context: Context) -> list[TextCue]:
    """The texts that name cues, over all ways in which directions part the classes; best described parting first."""
    cues: list[TextCue] = []
    partings = _partings(context)
    # Bonferroni over the partings that are searched
    quantile = context.design.quantile(1 - 0.05 / max(len(partings), 1), 0.5)
    axes = _Axes(context, quantile)
    sides = _sides(context, partings)
    # A text may pass for classes that are only a part of its parting: before a text that says what sets exactly these
    # classes apart it would take that one's place, because the two go together.
    described = [max(_best_fit(context, axes, side) for side in ends) for ends in sides]
    for place in np.argsort(-np.array(described), kind="stable").tolist():
        # the two ends of one axis may both have a word: the one that says more of what sets the sides apart
        both = [cue for side in sides[place] for cue in _cues_of(context, axes, side, cues)]
        for cue in sorted(both, key=lambda cue: -cue.fit):
            if not _known(context, cue, cues):
                cues.append(cue)
    return cues


def _ends(named: Bools) -> list[Bools]:
    """Sides (K,) of a parting that may have the word: of equal sides, or where enough classes lack it, either."""
    return [named, ~named] if named.all() or _may_be_shared(named) else [named]


class _Axes:
    """The classes along texts' axes, which no parting changes."""

    def __init__(self, context: Context, quantile: float) -> None:
        """quantile: of the limits that cues must reach, for all partings together."""
        self._context, self._quantile = context, quantile
        self._known: dict[tuple[int, bool], tuple[Float32s, Honest]] = {}

    def scores(self, place: int) -> Float32s:
        """(s,) along a text's own axis."""
        return self._of(place, False)[0]

    def standing_out(self, place: int, class_free: bool, least: float) -> Honest | None:
        """The classes along the axis, if the lower limit of the cut's D on the confirmation half reaches `least`."""
        axis = self._of(place, class_free)[1]
        low, _ = strength_interval(axis.cut.d, axis.cut.error, self._quantile)
        return None if low < least else axis

    def _of(self, place: int, class_free: bool) -> tuple[Float32s, Honest]:
        key = (place, class_free)
        if key not in self._known:
            context = self._context
            scores = context.embedding @ context.namer.axis(place, class_free=class_free).astype(np.float32)
            self._known[key] = scores, honest(binned(scores, _BINS), context.sample_design, _BINS)
        return self._known[key]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Side:
    """One side of a parting, which is looked at twice: for the order of the partings, and for its cues."""

    contrast: Float64s
    """(D,) what sets its classes apart on the discovery half."""
    own: float
    """How much of that their names say."""
    words: list[Word]
    """Texts to try for it."""


def _sides(context: Context, partings: Sequence[Bools]) -> list[list[_Side]]:
    """Of each parting the sides that may have the word."""
    discovery = context.sampled.discovery
    embedding, truth = context.embedding[discovery], context.truth[discovery]
    ends = [_ends(named) for named in partings]
    uppers = [upper for both in ends for upper in both]
    if not uppers:
        return []
    contrasts = np.stack([sides_contrast(embedding, truth, upper) for upper in uppers])
    sides = iter(
        _Side(
            contrast=contrast,
            own=max(context.namer.own(contrast, int(context.tested[k])) for k in np.flatnonzero(upper).tolist()),
            words=words,
        )
        for upper, contrast, words in zip(uppers, contrasts, _words_to_try(context, contrasts), strict=True)
    )
    return [[next(sides) for _ in both] for both in ends]


def _best_fit(context: Context, axes: _Axes, side: _Side) -> float:
    """The largest fit of a text that would pass the gates for one side; -1 where none does."""
    return next((word.fit for word in side.words if _tried(context, axes, word, side.own, []) is not None), -1.0)


def _may_be_shared(lacking: Bools) -> bool:
    """Whether a cue that all but these classes (K,) have is looked for: what a single one of ten lacks is its own."""
    K = len(lacking)
    return K <= 3 or bool(lacking.sum() >= _SHARED * K)


def _partings(context: Context) -> list[Bools]:
    """The named sides (K,) of the cuts of passing directions, those with the largest D first."""
    M = len(context.scan.directions)
    limits = context.family.limits[:M, 0]
    passing = np.flatnonzero(context.passed[:M])
    sides: dict[bytes, Bools] = {}
    for m in passing[np.argsort(-limits[passing], kind="stable")].tolist():
        upper = context.family.cuts[m].upper
        named = named_side(upper[None])[0]
        # equal sides are the same parting whichever is above
        side = named if not named.all() else (upper if upper[0] else ~upper)
        sides.setdefault(side.tobytes(), side)
    return list(sides.values())[:_SIDES]


def _cues_of(context: Context, axes: _Axes, side: _Side, earlier: list[TextCue]) -> list[TextCue]:
    """The texts that name what one side has, at most three; user texts first."""
    cues: list[TextCue] = []
    remaining = side.contrast.copy()
    words = _user_words(context, side.contrast)
    for _ in range(_PER_SIDE):
        words += _words_to_try(context, remaining[None])[0] if cues else side.words
        tried = (_tried(context, axes, word, side.own, [*earlier, *cues]) for word in words)
        cue = next((cue for cue in tried if cue is not None and _adds(context, cue, [*earlier, *cues])), None)
        if cue is None:
            break
        cues.append(replace(cue, words=_near(context, cue.word)))
        # without its part along the text: the next one has to name something else
        remaining = _without(remaining, [context.namer.axis(cue.word.place, class_free=False)])
        words = [word for word in words if word.property == USER and word.place != cue.word.place]
    return cues


def _words_to_try(context: Context, contrasts: Float64s) -> list[list[Word]]:
    """For each contrast (S, D) the texts nearest to it and those that fit it best; the best fit first."""
    # images without a label have nothing in common, so that their differences are not those of the cue
    inside = _inside(context, contrasts, context.sampled.discovery) if context.presence is None else None
    return context.namer.words_both_ways(contrasts, _TRIED, inside)


def _fit(context: Context, cue: TextCue, earlier: Sequence[TextCue], class_free: bool) -> float:
    """How well a cue's word fits what sets its classes apart, without the class prompts' part or with it, on the half
    where it fits less.

    The classes may be other ones than those that the word was chosen for, and the best of many fits is too large on the
    half that it was chosen on. What earlier cues of these classes say is left out.
    """
    embedding, truth, discovery = context.embedding, context.truth, context.sampled.discovery
    axes = [context.namer.axis(other.word.place, False) for other in earlier if (other.upper & cue.upper).any()]
    contrast = _without(sides_contrast(embedding[discovery], truth[discovery], cue.upper), axes)
    if context.presence is None:
        apart = [_inside(context, contrast[None], rows, class_free)[0] for rows in (discovery, ~discovery)]
    else:  # as in `_words_to_try`
        apart = [contrast, sides_contrast(embedding[~discovery], truth[~discovery], cue.upper)]
    return min(context.namer.fit(cue.word.place, _without(part, axes), class_free) for part in apart)


def _without(contrast: Float64s, axes: Sequence[Float64s]) -> Float64s:
    """A contrast (D,) without its parts along axes (D,), one after the other."""
    for axis in axes:
        contrast = contrast - axis * float(axis @ contrast) / float(axis @ axis)
    return contrast


def _inside(context: Context, contrasts: Float64s, rows: Bools, class_free: bool = True) -> Float64s:
    """(S, D) what sets those of rows (s,) that are far along each contrast (S, D) of classes apart from others of their
    own class.

    A contrast of classes holds all that makes them, which no text of the cue says. Where a cue is part of it, some
    images of each class have it and some lack it: they differ by the cue, and not by the class.
    """
    embedding, truth = context.embedding[rows], context.truth[rows]
    along = context.namer.class_free(contrasts) if class_free else contrasts
    scores = embedding @ along.astype(np.float32).T
    values = [pseudo_values(column)[0] for column in np.ascontiguousarray(scores.T)]
    K = context.design.classes
    return np.stack([value_contrast(embedding, truth, having == 1, having >= 0, K) for having in values])


def _known(context: Context, cue: TextCue, earlier: list[TextCue]) -> bool:
    """Whether another text has named the same thing already: their scores go together inside classes."""
    K = context.design.classes

    def limit(other: TextCue) -> float:
        return _SAME_CLASSES if (cue.upper == other.upper).all() else GOES_WITH

    return any(abs(_correlation(cue.scores, other.scores, context.truth, K)) >= limit(other) for other in earlier)


def _adds(context: Context, cue: TextCue, earlier: list[TextCue]) -> bool:
    """Whether a text names something that the earlier ones have not: it does not go with them inside classes, and its
    classes stand out along it among the images that have an earlier cue, too, if other classes have that one at all.

    An image with a cue differs from others along many axes; its class then seems to have all of what those name.
    """
    if _known(context, cue, earlier):
        return False
    if cue.word.property == USER:
        return True
    for other in earlier:
        among = _among(context, cue, pseudo_values(other.scores)[0] == 1)
        if among is not None and (among.low is None or among.low < context.options.delta_warn):
            return False
    return True


def _user_words(context: Context, contrast: Float64s) -> list[Word]:
    wanted = context.options.user_texts
    everything = {word.text: word for word in context.namer.words(contrast, len(context.namer.texts))} if wanted else {}
    return [everything[text] for text in wanted if text in everything]


def _tried(context: Context, axes: _Axes, word: Word, own: float, earlier: Sequence[TextCue]) -> TextCue | None:
    """The cue that a text names, if it passes the gates; own: cosine of the classes' own names with what it names."""
    margin = word.cosine - max(own, 0.0)
    user = word.property == USER
    if not user and margin < _NOT_MUCH_WORSE:
        return None
    # a text that the user asks for is reported from the smaller strength on
    strong = context.options.delta_fail if not user else context.options.delta_warn
    axis = axes.standing_out(word.place, True, strong)
    if axis is None and (margin >= _AS_WELL or user):
        axis = axes.standing_out(word.place, False, strong)
    if axis is None or not _may_be_named(axis.cut.upper):
        return None
    scores = axes.scores(word.place)
    members, signs = _carriers(context, axis.cut.upper, scores, earlier)
    if not len(members):
        return None
    cue = TextCue(
        upper=axis.cut.upper, word=word, scores=scores, axis=axis, margin=margin, members=members, signs=signs
    )
    cue = replace(cue, fit=_fit(context, cue, earlier, class_free=True))
    return cue if user or _is_seen(context, cue, earlier) else None


def _carriers(context: Context, upper: Bools, scores: Float32s, earlier: Sequence[TextCue]) -> tuple[Ints, Float64s]:
    """Passing directions that go with scores (s,) of a text that classes upper (K,) have, strongest first, and the end
    of each that they are at; none that carries an earlier cue of these classes."""
    taken = [cue.members for cue in earlier if (cue.upper & upper).any()]
    passing = np.flatnonzero(context.passed[: len(context.scan.directions)])
    passing = np.setdiff1d(passing, np.concatenate([np.empty(0, np.int64), *taken]))
    # along a direction that carries it the named classes themselves must differ, not some other class
    named = named_side(upper[None])[0]
    passing = passing[context.class_low[passing][:, named].mean(axis=1) >= context.options.delta_warn]
    correlation = context.correlations(scores)[passing]
    d = context.family.d[passing]
    side = np.sign(d[:, upper].mean(axis=1) - d[:, ~upper].mean(axis=1))
    # images further along the text must lie at the end where the classes that have it are
    goes = (np.abs(correlation) >= GOES_WITH) & (np.sign(correlation) == side)
    members = passing[goes]
    order = np.argsort([-context.family.cuts[m].low for m in members.tolist()], kind="stable")
    return members[order], side[goes][order]


def _is_seen(context: Context, cue: TextCue, earlier: Sequence[TextCue]) -> bool:
    """Whether a text says what its classes have, and not only what these classes look like to the model.

    Along the axis without the class prompts' part a class may stand out though its images have no more of the text than
    others: they must have more of it as they are, too. And where a class goes with a cue, images with it and without it
    differ inside classes by what the text says; that a cactus is green, as a meadow is, tells no two cactuses apart.
    """
    rows = ~context.sampled.discovery
    sampled = context.sampled
    source = None if sampled.source is None else sampled.source[rows]
    plain = side_strength(cue.scores[rows], context.truth[rows], cue.upper, sampled.cluster[rows], source)
    if plain is not None and (plain.low is None or plain.low < context.options.delta_warn):
        return False
    if context.presence is not None or cue.fit >= LEAST_FIT:
        return True
    # where the names say it themselves (waterbird, landbird) nothing of it is left without their part
    return _fit(context, cue, earlier, class_free=False) >= LEAST_FIT


def _near(context: Context, word: Word) -> tuple[Word, ...]:
    """Two other texts that say nearly the same."""
    words = context.namer.words(context.namer.axis(word.place, False), 4)
    return tuple([other for other in words if other.place != word.place][:2])


def _among(context: Context, cue: TextCue, having: Bools) -> Estimate | None:
    """The cue's classes against all others together, along a text, on the images of the confirmation half that have an
    earlier cue (s,); None when there are too few."""
    rows = having & ~context.sampled.discovery
    inside = cue.upper[context.truth[rows]].astype(np.int64)
    sampled = context.sampled
    source = None if sampled.source is None else sampled.source[rows]
    return side_strength(cue.scores[rows], inside, np.array([False, True]), sampled.cluster[rows], source)


def _may_be_named(upper: Bools) -> bool:
    """Whether a text may name the cut: few classes have what it says, or enough lack it."""
    return bool(2 * upper.sum() <= len(upper)) or _may_be_shared(~upper)


def grounded_in(context: Context, scores: Float32s, screen_rows: list[tuple[int, Ints]]) -> int | None:
    """The finding's place whose column's value goes with scores (s,) inside classes; None when there is none.

    screen_rows: place and having (s,) 1, 0, -1 of each value that is a finding of its own. A column without a finding
    says nothing about a text (trap 16).
    """
    for place, having in screen_rows:
        strength = inside_strength(scores[:, None], having, context.truth, context.design.classes)
        if abs(float(strength[0])) >= GOES_WITH:
            return place
    return None


def _correlation(a: npt.NDArray[np.floating[Any]], b: Float32s, truth: Ints, classes: int) -> float:
    both = np.stack([a.astype(np.float32), b.astype(np.float32)], axis=1)
    centred = inside_classes(both, truth, classes)
    return float(centred[:, 0] @ centred[:, 1])
