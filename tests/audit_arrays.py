"""Shorthands of the audit's statistics on plain arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from clipaudit.arrays import Ints
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.cuts import Codes, honest
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.intervals import Paired
from clipaudit.cues.statistics.pseudo import ErrorRates
from clipaudit.cues.statistics.screen import Screen, screen_of
from clipaudit.cues.statistics.strength import BINS


def rates_from_truth(codes: Ints, truth: Ints) -> ErrorRates | None:
    """Error rates from images whose attribute is known.

    codes: (n,) pseudo-attribute; truth: (n,) 0 without, 1 with, -1 unknown. None with fewer than 20 of either value.
    """
    decided = (codes >= 0) & (truth >= 0)
    without, having = decided & (truth == 0), decided & (truth == 1)
    if min(int(without.sum()), int(having.sum())) < 20:
        return None
    return ErrorRates(
        false_with=float((codes[without] == 1).mean()),
        false_without=float((codes[having] == 0).mean()),
        known=int(decided.sum()),
    )


def screen_codes(codes: Iterable[Codes], design: Design, bins: int = BINS) -> Screen:
    """The tests of several directions from their binned scores, (n,) uint16 each, with at most `bins` codes."""
    return screen_of([honest(column, design, bins) for column in codes])


def average_change(change: Ints, cluster: Ints) -> Estimate:
    """The change of the plain average over all images, from changes (n,) and clusters (n,)."""
    return Paired(change=change, group=np.zeros(len(change), np.int64), cluster=cluster).of_group(0)
