"""Controls that every report prints beside its findings: audits on permuted labels, and planted shifts (S13)."""

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
"""Share of audits on permuted labels that may have a finding."""
_REPEATED: Final = 5
"""Times as many audits when the share is above the limit: of 20 audits, two have a finding by accident in one of four
runs whose true share is at the limit."""
_BINS: Final = 256
"""Of scores: fewer than in the audit itself, for speed."""
STRENGTHS: Final = (0.3, 0.5)
"""D of the planted shifts."""
_MAX_CLASSES: Final = 20
"""Classes of a control, at most."""


def few_classes(design: Design, seed: int) -> Ints:
    """(r,) rows of at most 20 classes, drawn: the cost of a control grows with the square of their number."""
    if design.classes <= _MAX_CLASSES:
        return np.arange(len(design.truth))
    chosen = np.random.default_rng([seed, 7]).permutation(design.classes)[:_MAX_CLASSES]
    return np.flatnonzero(np.isin(design.truth, chosen))


def subset(design: Design, rows: Ints) -> tuple[Design, Ints]:
    """The design of some rows (r,), of the classes that still have 10 independent images, and the rows that remain."""
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
    """The audit's tests and rules on permuted labels (S13), `audits` times; five times as often if over 5 % find a cue.

    codes: (s, M) binned scores of the design's rows; attributes: with codes (s,). alpha, delta: as for
    `Screen.flagged`.
    """
    rng = np.random.default_rng([seed, 8])
    columns = [(codes[:, m] // (BINS // _BINS)).astype(np.uint16) for m in range(codes.shape[1])]

    def findings_on_permuted_labels() -> int:
        dealt = Design(permuted(design, rng), design.classes, design.cluster)
        parts = [screen_codes(columns, dealt, _BINS)] if columns else []
        screens = [attribute_screen(attribute, dealt) for attribute in attributes]
        parts += [screen.tests for screen in screens if screen is not None]
        return int(joined(parts).flagged(alpha, delta).sum()) if parts else 0

    first_audits = audits if design.classes >= 2 else 0
    findings = [findings_on_permuted_labels() for _ in range(first_audits)]
    share = _share_with_any(findings)
    if share > LIMIT:
        findings += [findings_on_permuted_labels() for _ in range((_REPEATED - 1) * first_audits)]
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
    """Shift one class's scores along each unused direction by what makes D = d, and test for it (S13).

    whole: the audit's tests, or None for the planted test alone; spare: (s, trials) scores without an association.
    Every trial is one more direction in the family of all tests; it is detected when it is flagged for the right class,
    and named when no other class has a larger |z|.
    """
    rng = np.random.default_rng([seed, 9])
    detected = named = 0
    trials = spare.shape[1] if design.classes >= 2 else 0
    for trial in range(trials):
        k = int(rng.integers(design.classes))
        scores = spare[:, trial].astype(np.float64)
        # for normal scores of one spread, D = 2 Phi(shift / sqrt 2) - 1
        shift = np.sqrt(2.0) * float(stats.norm.ppf((1 + d) / 2)) * scores.std()  # in units of the score
        planted = screen_codes([binned(scores + shift * (design.truth == k), _BINS)], design, _BINS)
        if whole is not None and whole.d.shape[1] == design.classes:
            planted = _last_row(joined([whole, planted]))
        flagged = planted.flagged(alpha, delta)[0]
        detected += bool(flagged[k])
        size = np.abs(planted.z[0])  # of two classes both differ alike
        named += bool(flagged[k] and planted.d[0, k] > 0 and size[k] >= size.max() * (1 - 1e-9))
    return PositiveControl(d=d, trials=trials, detected=detected, named=named, rows=len(design.truth))


def _last_row(screen: Screen) -> Screen:
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
