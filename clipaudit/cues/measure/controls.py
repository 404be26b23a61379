"""What every report prints beside its findings: audits on permuted labels, and planted shifts (S13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from clipaudit.arrays import Float32s, Ints
from clipaudit.cues.result.panels import NegativeControl, PositiveControl
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import attribute_screen
from clipaudit.cues.statistics.multiplicity import permuted
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT, Screen, joined, screen_codes
from clipaudit.cues.statistics.strength import BINS, Design, binned

LIMIT: Final = 0.05
"""Share of audits on permuted labels that may find something."""
_MORE: Final = 5
"""Times as many audits when the share is above the limit: of 20, two find something by accident once in four runs whose
true share is at the limit, and a run is not condemned for that."""
_BINS: Final = 256
STRENGTHS: Final = (0.3, 0.5)
_MOST_CLASSES: Final = 20


def few_classes(design: Design, seed: int) -> Ints:
    """Rows of at most 20 classes, drawn: controls on permuted labels cost classes^2."""
    if design.classes <= _MOST_CLASSES:
        return np.arange(len(design.truth))
    chosen = np.random.default_rng([seed, 7]).permutation(design.classes)[:_MOST_CLASSES]
    return np.flatnonzero(np.isin(design.truth, chosen))


def subset(design: Design, rows: Ints) -> tuple[Design, Ints]:
    """The design of some rows, of the classes that still have enough independent images, and which rows remain."""
    cluster = None if design.cluster is None else np.unique(design.cluster[rows], return_inverse=True)[1]
    _, truth = np.unique(design.truth[rows], return_inverse=True)
    part = Design(truth.astype(np.int64), int(truth.max(initial=-1)) + 1, cluster)
    enough = part.independent >= MIN_INDEPENDENT
    if enough.all():
        return part, rows
    remaining = enough[part.truth]
    return subset(design, rows[remaining]) if remaining.any() else (Design(np.empty(0, np.int64), 0), rows[:0])


def negative_control(
    codes: npt.NDArray[np.uint16],
    attributes: Sequence[Attribute],
    design: Design,
    *,
    audits: int,
    alpha: float,
    delta: float,
    seed: int,
) -> NegativeControl:
    """The same tests and rules on labels dealt again; codes (s, M) and attributes of the design's rows.

    `audits` times; five times as often when more than 5 % of those found something.
    """
    rng = np.random.default_rng([seed, 8])
    columns = [(codes[:, m] // (BINS // _BINS)).astype(np.uint16) for m in range(codes.shape[1])]

    def findings_of_one() -> int:
        dealt = Design(permuted(design, rng), design.classes, design.cluster)
        parts = [screen_codes(columns, dealt, _BINS)] if columns else []
        screens = [attribute_screen(attribute, dealt) for attribute in attributes]
        parts += [screen.tests for screen in screens if screen is not None]
        return int(joined(parts).flagged(alpha, delta).sum()) if parts else 0

    first_audits = audits if design.classes >= 2 else 0
    findings = [findings_of_one() for _ in range(first_audits)]
    share = _share_with_any(findings)
    if share > LIMIT:
        findings += [findings_of_one() for _ in range((_MORE - 1) * first_audits)]
        share = _share_with_any(findings)
    return NegativeControl(
        audits=len(findings),
        mean_findings=float(np.mean(findings)) if findings else 0.0,
        share_with_any=share,
        limit=LIMIT,
        rows=len(design.truth),
        valid=share <= LIMIT,
    )


def _share_with_any(findings: Sequence[int]) -> float:
    return float(np.mean([count > 0 for count in findings])) if findings else 0.0


def positive_control(
    whole: Screen | None, spare: Float32s, design: Design, *, d: float, alpha: float, delta: float, seed: int
) -> PositiveControl:
    """Shift one class's scores along each unused direction (s, trials) by what makes D = d, and look for it.

    Every trial is one more direction in the family of all tests; found means flagged for the right class, and named
    means that no other class is flagged more strongly.
    """
    rng = np.random.default_rng([seed, 9])
    detected = named = 0
    trials = spare.shape[1] if design.classes >= 2 else 0
    for trial in range(trials):
        k = int(rng.integers(design.classes))
        scores = spare[:, trial].astype(np.float64)
        # for normal scores of one spread, D = 2 Phi(shift / sqrt 2) - 1
        shift = np.sqrt(2.0) * float(stats.norm.ppf((1 + d) / 2)) * scores.std()
        planted = screen_codes([binned(scores + shift * (design.truth == k), _BINS)], design, _BINS)
        if whole is not None and whole.d.shape[1] == design.classes:
            planted = last_row(joined([whole, planted]))
        flagged = planted.flagged(alpha, delta)[0]
        detected += bool(flagged[k])
        size = np.abs(planted.z[0])  # of two classes both differ alike
        named += bool(flagged[k] and planted.d[0, k] > 0 and size[k] >= size.max() * (1 - 1e-9))
    return PositiveControl(d=d, trials=trials, detected=detected, named=named, rows=len(design.truth))


def last_row(screen: Screen) -> Screen:
    """The last direction's tests, with the q-values that they have among all."""
    return replace(
        screen,
        d=screen.d[-1:],
        error=screen.error[-1:],
        z=screen.z[-1:],
        p=screen.p[-1:],
        typical=screen.typical[-1:],
        q=screen.q[-1:],
    )
