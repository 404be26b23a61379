"""Two sets of rows compared: associations, shares of attribute values, and where heads' means move to (S11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.measure.answers import read_vectors, sampled
from clipaudit.cues.measure.context import Context, TextSource
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.scan import SAMPLE
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.result.panels import HeadShift, Shift
from clipaudit.cues.result.result import Finding
from clipaudit.cues.statistics.environments import head_shift, most_shifted, shift_rows, strength_of
from clipaudit.cues.statistics.intervals import COUNT_ONLY, Paired
from clipaudit.heads.texts.pool import TextPool
from clipaudit.heads.textspan import fold

Pair: TypeAlias = tuple[str, str, str | None, Estimate, Estimate]
"""Class, cue, head, and the association's estimate in train and in test."""


def shift_between(
    context: Context, test: ImageFacts, findings: Sequence[Finding], pool: TextPool, texts: TextSource
) -> Shift:
    """The association's rows (train) against `test` (S11): each finding's strongest direction, each attribute's values.

    pool, texts: name where each head's mean moves to.
    """
    test_sample = sampled(test, SAMPLE, context.options.seed)
    local = np.full(len(context.names), -1, np.int64)
    local[context.tested] = np.arange(context.design.classes)
    pairs = [
        *_directions(context, test_sample, local[test_sample.truth], findings),
        *_values(context, test, local[test.truth]),
    ]
    return Shift(
        train=context.rows,
        test=context.answers_rows,
        rows=shift_rows(pairs, context.options.alpha),
        heads=most_shifted(_heads(context, test_sample, pool, texts)),
    )


def _directions(context: Context, test: ImageFacts, truth: Ints, findings: Sequence[Finding]) -> list[Pair]:
    pairs: list[Pair] = []
    K = context.design.classes
    for finding in findings:
        k = next(k for k in range(K) if context.name(k) == finding.class_name)
        places = [m for m, tested in enumerate(context.scan.directions) if tested.head in finding.cue.heads]
        if not places:
            continue
        m = max(places, key=lambda m: float(context.family.low[m, k]))
        direction, end = context.scan.directions[m], _end(float(context.family.d[m, k]), finding)
        values = read_vectors(test.run, direction.head, test.position).astype(np.float32)
        scores = (values - context.scan.means[direction.head].astype(np.float32)) @ direction.class_free.astype(
            np.float32
        )
        train = strength_of(end * context.scores(direction), context.truth, k, K, context.sampled.cluster)
        other = strength_of(end * scores, truth, k, K, test.cluster)
        if train is not None and other is not None:
            pairs.append((finding.class_name, finding.cue.name, direction.head, train, other))
    return pairs


def _end(d: float, finding: Finding) -> np.float32:
    """The end, -1 or 1, of a direction with strength `d` at which the cue is: the class's if it goes with the cue."""
    return np.float32(-1 if d * (finding.association.d.value or 0.0) < 0 else 1)


def _values(context: Context, test: ImageFacts, truth: Ints) -> list[Pair]:
    """P(value | class) of every tested value and class, in train and in test."""
    pairs: list[Pair] = []
    K = context.design.classes
    for screen in context.attributes:
        test_values = test.attributes[screen.attribute.column]
        train_values = context.facts.attributes[screen.attribute.column]
        for place in screen.values.tolist():
            value = screen.attribute.values[place]
            code = test_values.values.index(value) if value in test_values.values else -2
            for k in range(K):
                train = value_share(train_values.codes, place, context.design.truth == k, context.facts.cluster)
                other = value_share(test_values.codes, code, truth == k, test.cluster)
                if min(train.n, other.n) >= COUNT_ONLY:
                    pairs.append((context.name(k), f"share of {screen.attribute.column} = {value}", None, train, other))
    return pairs


def value_share(codes: Ints, value: int, inside: Bools, cluster: Ints) -> Estimate:
    """Share, 0..1, of a class's images with a known value that have this one, with its 95 % interval (S11).

    codes: (n,) values; inside: (n,) mask of the class; cluster: (n,) near-duplicate clusters.
    """
    labelled = inside & (codes >= 0)
    having = (codes[labelled] == value).astype(np.int64)
    share = Paired(change=having, group=np.zeros(len(having), np.int64), cluster=cluster[labelled]).of_group(0)
    return share if share.low is None else replace(share, low=max(share.low, 0.0))


def _heads(context: Context, test: ImageFacts, pool: TextPool, texts: TextSource) -> list[HeadShift]:
    vectors, basis = texts.vectors(pool.texts), context.run.basis()
    shifts = []
    for head in context.scan.values:
        train = context.scan.values[head].astype(np.float64)
        other = read_vectors(test.run, head, test.position).astype(np.float64)
        spread = float(np.sqrt(train.var(axis=0).sum()))
        shifts.append(
            head_shift(head, train.mean(axis=0), other.mean(axis=0), spread, fold(basis.Q(head), vectors), pool.texts)
        )
    return shifts
