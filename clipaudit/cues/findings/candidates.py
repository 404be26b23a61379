"""Which texts name a cue of a class when there is no attribute: chosen on one half of the images, tested on the other.

What sets a class's images apart is mostly the class itself, and class labels alone do not say which part is which. So a
text is a candidate (docs/method.md 8) only if

1. directions of heads that differ significantly between the classes go with it;
2. it is context and not a thing, or the user asked for it;
3. along the text's own axis in the whole embedding the class stands out by `delta_fail`: either after the class
   prompts' part is taken out of the axis, or when the text describes what sets the class apart at least as well as the
   class's own name does;
4. if the class has a stronger candidate, the class stands out even among images that all have that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Floats, Ints
from clipaudit.cues.measure.context import Context, inside_classes, inside_strength
from clipaudit.cues.measure.naming import USER, Word, class_contrast
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.environments import strength_of
from clipaudit.cues.statistics.pseudo import pseudo_values

GOES_WITH: Final = 0.3
"""Correlation (with an attribute: strength) inside classes from which a direction goes with a text or an attribute."""
_TEXTS_TRIED: Final = 6
"""Texts nearest to what sets the class apart that are tried for each cue."""
_PER_CLASS: Final = 3
"""Cues of a class, at most."""
_MARGIN_AS_NAME: Final = -0.05
"""Margin from which a text describes what sets the class apart as well as the class's name: cosine of the text minus
cosine of the name, with the class's contrast."""
_MARGIN_TRIED: Final = -0.3
"""Margin below which a text is not tried. Both margins were set on the demo world's `planted` and `things`, seed 0;
figures are taken on other seeds."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TextCue:
    """A text that names a cue of a class."""

    k: int
    """Tested class, 0..K-1."""
    word: Word
    scores: Float32s
    """(s,) float32 scores of the sample along the text's axis, in the whole embedding."""
    axis: Estimate
    """D of the class along that axis, on the confirmation half."""
    margin: float
    """Cosine of the text minus cosine of the class's own name, with the class's contrast."""
    members: Ints
    """(m,) flagged directions that go with it, strongest first."""
    signs: Float64s
    """(m,) which end of each direction, -1 or 1."""
    words: tuple[Word, ...]
    """Other texts that name it nearly as well."""


def text_cues(context: Context, k: int) -> list[TextCue]:
    """The texts that name cues of tested class k, at most three; user texts first."""
    flagged = np.flatnonzero(context.flagged[: len(context.scan.directions), k])
    if not len(flagged):
        return []
    discovery = context.sampled.discovery
    contrast = class_contrast(context.embedding[discovery], context.truth[discovery], k, context.design.classes)
    own = context.namer.own(contrast, int(context.tested[k]))
    cues: list[TextCue] = []
    remaining = contrast.copy()
    words = _user_words(context, contrast)
    for _ in range(_PER_CLASS):
        words += context.namer.words(remaining, _TEXTS_TRIED, context_only=True)
        candidates = (_tried(context, k, word, own, flagged) for word in words)
        cue = next((cue for cue in candidates if cue is not None and _adds(context, cue, cues)), None)
        if cue is None:
            break
        cues.append(cue)
        flagged = np.setdiff1d(flagged, cue.members)
        # the next cue is sought in what this one's axis leaves of the contrast
        axis = context.namer.axis(cue.word.place, class_free=False)
        remaining = remaining - axis * float(axis @ remaining) / float(axis @ axis)
        words = [word for word in words if word.property == USER and word.place != cue.word.place]
    return cues


def _known(context: Context, cue: TextCue, earlier: list[TextCue]) -> bool:
    """Whether an earlier text names the same thing: their scores are correlated inside classes."""
    K = context.design.classes
    return any(abs(_correlation(cue.scores, other.scores, context.truth, K)) >= GOES_WITH for other in earlier)


def _adds(context: Context, cue: TextCue, earlier: list[TextCue]) -> bool:
    """Whether a text names something that earlier cues do not.

    It is not correlated with them inside classes, and the class stands out along it among the images that have an
    earlier cue, too, if other classes have that one at all. An image with a cue differs from others along many axes;
    its class then seems to have all of what those name.
    """
    if _known(context, cue, earlier):
        return False
    if cue.word.property == USER:
        return True
    for other in earlier:
        estimate = _among(context, cue, pseudo_values(other.scores)[0] == 1)
        if estimate is not None and (estimate.low is None or estimate.low < context.options.delta_warn):
            return False
    return True


def _user_words(context: Context, contrast: Float64s) -> list[Word]:
    texts = context.options.user_texts
    words = {word.text: word for word in context.namer.words(contrast, len(context.namer.texts))} if texts else {}
    return [words[text] for text in texts if text in words]


def _tried(context: Context, k: int, word: Word, own: float, flagged: Ints) -> TextCue | None:
    """The cue that a text names of class k, if it meets conditions 1 to 3; own: cosine of the class's name."""
    margin = word.cosine - max(own, 0.0)
    user = word.property == USER
    if not user and margin < _MARGIN_TRIED:
        return None
    least = context.options.delta_fail if not user else context.options.delta_warn
    scores = context.embedding @ context.namer.axis(word.place, class_free=False).astype(np.float32)
    free = context.embedding @ context.namer.axis(word.place, class_free=True).astype(np.float32)
    estimate = _stands_out(context, k, free, least)
    if estimate is None and (margin >= _MARGIN_AS_NAME or user):
        estimate = _stands_out(context, k, scores, least)
    if estimate is None:
        return None
    correlation = context.correlations(scores)[flagged]
    d = context.family.d[flagged, k]
    goes = (np.abs(correlation) >= GOES_WITH) & (np.sign(correlation) == np.sign(d))
    if not goes.any():
        return None
    order = np.argsort(-context.family.low[flagged[goes], k], kind="stable")
    members = flagged[goes][order]
    near = [
        other for other in context.namer.words(context.namer.axis(word.place, False), 4) if other.place != word.place
    ]
    return TextCue(
        k=k,
        word=word,
        scores=scores,
        axis=estimate,
        margin=margin,
        members=members,
        signs=np.sign(context.family.d[members, k]),
        words=tuple(near[:2]),
    )


def _among(context: Context, cue: TextCue, having: Bools) -> Estimate | None:
    """D of the class against all others together, along a text, on confirmation images that have an earlier cue.

    having: (s,) mask of the images with the earlier cue. None when there are too few.
    """
    rows = having & ~context.sampled.discovery
    inside = (context.truth[rows] == cue.k).astype(np.int64)
    return strength_of(cue.scores[rows], inside, 1, 2, context.sampled.cluster[rows])


def _stands_out(context: Context, k: int, scores: Float32s, least: float) -> Estimate | None:
    """The class's strength along scores (s,) on the confirmation half, if its lower limit reaches `least`."""
    half = ~context.sampled.discovery
    estimate = strength_of(scores[half], context.truth[half], k, context.design.classes, context.sampled.cluster[half])
    return None if estimate is None or estimate.low is None or estimate.low < least else estimate


def grounded_in(context: Context, scores: Float32s) -> str | None:
    """The attribute column of which a value goes with scores (s,) inside classes; None without one.

    A column was measured, a text was guessed: the column's own finding takes the text's place.
    """
    for screen in context.attributes:
        codes = screen.attribute.codes[context.scan.sample]
        for value in screen.values.tolist():
            having = np.where(codes < 0, -1, (codes == value).astype(np.int64))
            strength = inside_strength(scores[:, None], having, context.truth, context.design.classes)
            if abs(float(strength[0])) >= GOES_WITH:
                return screen.attribute.column
    return None


def _correlation(a: Floats, b: Floats, truth: Ints, classes: int) -> float:
    """Correlation of two scores (s,) inside classes, -1..1."""
    both = np.stack([a.astype(np.float32), b.astype(np.float32)], axis=1)
    centred = inside_classes(both, truth, classes)
    return float(centred[:, 0] @ centred[:, 1])
