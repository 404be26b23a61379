"""What every report prints beside its findings: audits on permuted labels, and planted shifts (S13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from clipaudit.arrays import Float32s, Ints
from clipaudit.cues.result.panels import NegativeControl, PositiveControl
from clipaudit.cues.statistics.cuts import Honest, class_means, cut_contrasts, honest, strength_interval, units_of
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.multiplicity import Largest, Permuter, tie_limit
from clipaudit.cues.statistics.strength import binned
from clipaudit.statistics import normal_quantile

LIMIT: Final = 0.05
"""Share of audits on permuted labels that may find something."""
_MORE: Final = 5
"""Times as many audits when the share is above the limit: of 20, two find something by accident once in four runs whose
true share is at the limit, and a run is not condemned for that."""
_BINS: Final = 256
STRENGTHS: Final = (0.3, 0.5)
"""D of planted shifts."""


def negative_control(
    ranks: Float32s,
    design: Design,
    largest: Largest,
    *,
    audits: int,
    alpha: float,
    delta: float,
    seed: int,
    strata: Ints | None = None,
) -> NegativeControl:
    """The same rules on permuted labels: order and cut from the discovery half, test and interval from the other.

    ranks (s, M): centred ranks of all tests, rows of `design`; largest: what the family's tests are held against;
    strata (s,): inside which the family's labels were permuted, and these are, too. `audits` times; five times as often
    when more than 5 % of those found something.
    """
    rng = np.random.default_rng([seed, 8])
    wanted = audits if design.classes >= 2 and ranks.shape[1] else 0
    findings = [_findings_of_one(ranks, design, largest, alpha, delta, rng, strata) for _ in range(wanted)]
    share = _share_with_any(findings)
    if share > LIMIT:
        more = (_MORE - 1) * wanted
        findings += [_findings_of_one(ranks, design, largest, alpha, delta, rng, strata) for _ in range(more)]
        share = _share_with_any(findings)
    return NegativeControl(
        audits=len(findings),
        mean_findings=float(np.mean(findings)) if findings else 0.0,
        share_with_any=share,
        limit=LIMIT,
        rows=len(design.truth),
        valid=share <= LIMIT,
    )


def _findings_of_one(
    ranks: Float32s,
    design: Design,
    largest: Largest,
    alpha: float,
    delta: float,
    rng: np.random.Generator,
    strata: Ints | None,
) -> int:
    """Findings with labels dealt once; only tests beyond the family's threshold need their exact strengths."""
    # another null than the family's would condemn runs whose shards differ, or pass tests that shards alone make
    labels = Permuter(Design(design.truth, design.classes, design.groups), strata).draw(rng)
    dealt = Design(labels, design.classes, design.cluster, design.source, design.halves)
    # a class that a half lacks cannot be ordered there, or read: no finding
    if min(np.bincount(labels[dealt.halves == half], minlength=design.classes).min() for half in (False, True)) < 1:
        return 0
    # halves exchanged, because `units_of` takes the rows off the discovery half
    turned = Design(labels, design.classes, design.cluster, design.source, ~design.halves)
    first, second = units_of(ranks, turned), units_of(ranks, dealt)
    sizes, K = design.cut_sizes, design.classes
    orders = np.argsort(-class_means(first, first.truth, K).T, axis=1, kind="stable")
    spread = largest.spread if largest.spread.size else np.full((ranks.shape[1], len(sizes)), np.inf)
    # the cut that the audit would choose, by the fast statistic in place of the limit of D
    chosen = np.argmax(cut_contrasts(class_means(first, first.truth, K), orders, sizes) / spread, axis=1)
    contrast = cut_contrasts(class_means(second, second.truth, K), orders, sizes) / spread
    z = contrast[np.arange(len(chosen)), chosen]
    beyond = np.flatnonzero(np.abs(z) > largest.threshold * (1 - _MARGIN))
    return sum(
        is_finding(honest(binned(ranks[:, m], _BINS), dealt, _BINS), z[m], largest, alpha, delta) for m in beyond
    )


_MARGIN: Final = 0.1
"""Tests this share below the threshold are looked at, too: the fast statistic orders cuts by mean ranks."""


def is_finding(test: Honest, z: float, largest: Largest, alpha: float, delta: float) -> bool:
    """Whether a further test would pass beside the family: significant among the largest, and larger than delta."""
    low, _ = strength_interval(test.cut.d, test.cut.error, test.quantile)
    # its p against the maxima of the family, which one more test hardly changes
    beyond = int((largest.largest >= tie_limit(abs(z))).sum())
    return low > delta and (1 + beyond) / (1 + len(largest.largest)) <= alpha


def _share_with_any(findings: Sequence[int]) -> float:
    return float(np.mean([count > 0 for count in findings])) if findings else 0.0


def positive_control(
    spare: Float32s, design: Design, largest: Largest, *, d: float, alpha: float, delta: float, seed: int
) -> PositiveControl:
    """Shift one class's scores along each unused direction (s, trials) by what makes D = d, and look for it.

    Every trial is one more direction in the family of all tests; detected means that it passes with the class on one
    side of the cut, and named that the class is alone on the named side.
    """
    rng = np.random.default_rng([seed, 9])
    detected = named = 0
    trials = spare.shape[1] if design.classes >= 2 else 0
    for trial in range(trials):
        k = int(rng.integers(design.classes))
        scores = spare[:, trial].astype(np.float64)
        # for normal scores of one spread, D = 2 Phi(shift / sqrt 2) - 1
        shift = np.sqrt(2.0) * normal_quantile((1 + d) / 2) * scores.std()
        test = honest(binned(scores + shift * (design.truth == k), _BINS), design, _BINS)
        passes = is_finding(test, test.cut.z, largest, alpha, delta) and bool(test.cut.upper[k])
        detected += passes
        named += passes and int(test.cut.upper.sum()) == 1
    return PositiveControl(d=d, trials=trials, detected=detected, named=named, rows=len(design.truth))
