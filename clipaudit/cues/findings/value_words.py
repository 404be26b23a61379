"""Which text says what a value of a column is: chosen on the discovery half, and held to its word on the other one.

A text that fits what sets images with the value apart may only come near it. Of "sharp pictures" those of other classes
are sketches, and those of the class that the finding names carry a watermark: "a sketch" fits, and says nothing of the
finding. So the text must say which images have the value, and why the classes differ in it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from clipaudit.arrays import Ints
from clipaudit.cues.findings.measured_reliance import ValueCue
from clipaudit.cues.findings.same_cue import inside_difference
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.naming import NO_GOOD_WORD, Word, value_contrast
from clipaudit.cues.statistics.environments import side_strength

EXPLAINS: Final = 0.7
"""D of the classes along a word, as a share of their D in the value, below which the word does not say why they differ.
Right words have .76 and more, words of a watermark, a sticker or of another class's pictures at most .64, on the worlds
that the limit was set on (`benchmarks/words_acceptance.py`, seeds 700 to 703, 8800 and 9100)."""
_LEVEL: Final = 0.9
"""Of the interval whose lower limit must be above `delta_warn`: one-sided 5 %."""
_LEAST: Final = 2
"""Independent images with and without the value that a class must have: few have it in the classes that lack it."""


def nearest_words(context: Context, having: Ints) -> tuple[list[Word], list[Word]]:
    """The three texts that fit best what images with a value have, having (s,) 1, 0, -1, and the one that fits best
    what the others have; from the discovery half."""
    discovery = context.sampled.discovery
    contrast = value_contrast(
        context.embedding[discovery],
        context.truth[discovery],
        having[discovery] == 1,
        having[discovery] >= 0,
        context.design.classes,
    )
    towards = context.namer.words(contrast, 3, context_only=True, by_fit=True)
    return towards, context.namer.words(-contrast, 1, context_only=True, by_fit=True)


def says_what_it_is(context: Context, cue: ValueCue, having: Ints, word: Word, d: float | None) -> bool:
    """Whether a word describes a value, having (s,) 1, 0, -1, well enough to be its name (trap 20).

    It fits what sets the images apart; on the confirmation half images with the value have more of it than others of
    their class, D surely above `delta_warn`; and the classes that have the value, whose D in it is d, stand out along
    the word about as far.
    """
    if word.fit < NO_GOOD_WORD:
        return False
    sampled = context.sampled
    rows = ~sampled.discovery & (having >= 0)
    scores = context.embedding @ context.namer.axis(word.place, class_free=True).astype(np.float32)
    # copies are one image
    own = inside_difference(scores[rows], having[rows] == 1, context.truth[rows], sampled.cluster[rows], least=_LEAST)
    # where no class has images with and without the value, nothing tells whether they differ
    if own is not None and (own.estimate(_LEVEL).low or 0.0) <= context.options.delta_warn:
        return False
    if not cue.associated or d is None:
        return True
    between = side_strength(scores[rows], context.truth[rows], cue.upper, sampled.cluster[rows])
    return between is None or (between.value or 0.0) >= EXPLAINS * d
