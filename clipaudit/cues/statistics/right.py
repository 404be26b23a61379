"""What an answer is, and a right one: the one meaning for every room (S9). What is not answered counts in nothing."""

from __future__ import annotations

import numpy as np

from clipaudit.arrays import Bools, Floats, Ints


def answered(logits: Floats) -> Bools:
    """(..., n) bool, images that logits (..., n, C) answer: without an answer all are equal, or not finite.

    Whoever counts right or wrong answers leaves the others out, of the denominator too.
    """
    given: Bools = np.isfinite(logits).all(axis=-1) & (logits.max(axis=-1) > logits.min(axis=-1))
    return given


def right_answers(logits: Floats, truth: Ints) -> Bools:
    """(..., n) bool, whether the class's (n,) logit of (..., n, C) is above every other's; a tie is no right answer."""
    own = np.broadcast_to(truth[:, None], (*logits.shape[:-1], 1))
    others = np.array(logits)
    np.put_along_axis(others, own, -np.inf, axis=-1)
    rights: Bools = np.take_along_axis(logits, own, axis=-1)[..., 0] > others.max(axis=-1)
    return rights
