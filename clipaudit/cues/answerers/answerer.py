"""What an answerer is: whatever gives each image a class."""

from __future__ import annotations

from typing import Protocol

from clipaudit.arrays import Float32s
from clipaudit.cues.reliance.head_parts import HeadParts


class Answerer(Protocol):
    """Scores of n images for C classes, and, where it is linear in the stored table, what each head adds to them."""

    @property
    def name(self) -> str:
        """`clip`, `rehearsed` or `given`."""

    @property
    def logits(self) -> Float32s:
        """(n, C); the answer is the largest. One-hot rows for a model of which only the answers are known."""

    @property
    def parts(self) -> HeadParts | None:
        """What heads add; None where heads cannot be taken out."""
