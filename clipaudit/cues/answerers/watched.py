"""Answerers of which only scores or answers are known: the user's own model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipaudit.arrays import Float32s, Ints


@dataclass(frozen=True, eq=False, kw_only=True)
class WatchedAnswerer:
    """Scores without heads: it can be watched, not taken apart."""

    name: str
    logits: Float32s
    """(n, C)"""
    parts: None = None


def watched_answerer(answers: Ints, classes: int, name: Literal["given", "rehearsed"] = "given") -> WatchedAnswerer:
    """From answers alone (n,), 0..classes-1; -1 for none, which is never right."""
    # without an answer all scores tie, and a tie is never right
    logits = np.zeros((len(answers), classes), np.float32)
    rows = np.flatnonzero(answers >= 0)
    logits[rows, answers[rows]] = 1.0
    return WatchedAnswerer(name=name, logits=logits)
