"""Two sets of rows compared: associations, shares of attribute values, and where heads' means move to (S11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.measure.answers import sampled
from clipaudit.cues.measure.context import Context, TextSource
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.scan import SAMPLE
from clipaudit.cues.measure.vectors import each_of_vectors, read_vectors
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.result.panels import HeadShift, Shift
from clipaudit.cues.result.result import Finding
from clipaudit.cues.statistics.environments import head_shift, most_shifted, shift_rows, side_strength
from clipaudit.cues.statistics.intervals import COUNT_ONLY, Paired
from clipaudit.heads.texts.pool import TextPool
from clipaudit.heads.textspan import fold

Pair: TypeAlias = tuple[str, str, str | None, Estimate, Estimate]


def shift_between(
    context: Context, test: ImageFacts, findings: Sequence[Finding], pool: TextPool, texts: TextSource
) -> Shift:
    """The association's rows against `test`: every finding's strongest direction, every attribute's values."""
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
    """The strongest direction of each finding's heads: on the confirmation half, and on the other rows."""
    pairs: list[Pair] = []
    half = ~context.sampled.discovery
    for finding in findings:
        upper = having_classes(context, finding)
        m, end = strongest_direction(context, finding, upper)
        if m is None:
            continue
        direction = context.scan.directions[m]
        values = read_vectors(test.run, direction.head, test.position).astype(np.float32)
        scores = (values - context.scan.means[direction.head].astype(np.float32)) @ direction.class_free.astype(
            np.float32
        )
        # turned so that classes with the cue lie high
        own = np.float32(end) * context.scores(direction)
        sampled = context.sampled
        source = None if sampled.source is None else sampled.source[half]
        train = side_strength(own[half], context.truth[half], upper, sampled.cluster[half], source)
        other = side_strength(np.float32(end) * scores, truth, upper, test.cluster, test.source)
        if train is not None and other is not None:
            pairs.append((finding.class_name, finding.cue.name, direction.head, train, other))
    return pairs


def having_classes(context: Context, finding: Finding) -> Bools:
    """(K,) bool, the classes that have a finding's cue: all named ones have rows, others are on the other side."""
    rows = {row.class_name: row.has for row in finding.classes}
    return np.array(
        [rows.get(context.name(k), finding.side == "lacks") for k in range(context.design.classes)], np.bool_
    )


def strongest_direction(context: Context, finding: Finding, upper: Bools) -> tuple[int | None, float]:
    """The direction of a finding's heads along which the classes that have it (K,) differ most, by the discovery half,
    and the end at which they are; None without heads."""
    places = [m for m, direction in enumerate(context.scan.directions) if direction.head in finding.cue.heads]
    if not places:
        return None, 1.0
    k = int(np.flatnonzero(upper)[0])
    same = [
        m
        for m in places
        if bool((context.family.cuts[m].upper == upper).all() or (context.family.cuts[m].upper == ~upper).all())
    ]
    # of directions that part the classes in this way; if none does, the one that parts off the first class
    m = max(same or places, key=lambda m: context.family.cuts[m].low if same else float(context.family.low[m, k]))
    d = float(context.family.d[m, upper].mean() - context.family.d[m, ~upper].mean())
    return m, 1.0 if d >= 0 else -1.0


def _values(context: Context, test: ImageFacts, truth: Ints) -> list[Pair]:
    """P(value | class) of every tested value and class, here and there."""
    pairs: list[Pair] = []
    K = context.design.classes
    for screen in context.attributes:
        test_values = test.attributes[screen.attribute.column]
        for place in screen.values.tolist():
            value = screen.attribute.values[place]
            # -2 for a value that no image there has: -1 would match the unknown ones
            code = test_values.values.index(value) if value in test_values.values else -2
            for k in range(K):
                facts, inside = context.facts, context.design.truth == k
                train = value_share(screen.attribute.codes, place, inside, facts.cluster, facts.sources)
                other = value_share(test_values.codes, code, truth == k, test.cluster, test.sources)
                if min(train.n, other.n) >= COUNT_ONLY:
                    cue = f"share of {column_in_words(screen.attribute.column)} = {value}"
                    pairs.append((context.name(k), cue, None, train, other))
    return pairs


def value_share(codes: Ints, value: int, inside: Bools, cluster: Ints, source: Ints | None = None) -> Estimate:
    """Share of the images of a class, the mask `inside` (n,), with a known value that have this one; 95 % interval,
    over sources (n,) where there are any."""
    labelled = inside & (codes >= 0)
    having = (codes[labelled] == value).astype(np.int64)
    # having a value as a change of 1 or 0: the clustered interval of paired changes serves shares too
    share = Paired(
        change=having,
        group=np.zeros(len(having), np.int64),
        cluster=cluster[labelled],
        source=None if source is None else source[labelled],
    ).of_group(0)
    return share if share.low is None else replace(share, low=max(share.low, 0.0))


def _heads(context: Context, test: ImageFacts, pool: TextPool, texts: TextSource) -> list[HeadShift]:
    vectors, basis = texts.vectors(pool.texts), context.run.basis()
    shifts = []
    for head, values in each_of_vectors(test.run, list(context.scan.values), test.position):
        train, other = context.scan.values[head].astype(np.float64), values.astype(np.float64)
        # root of the total variance: one unit for moves in any direction of the head
        spread = float(np.sqrt(train.var(axis=0).sum()))
        shifts.append(
            head_shift(head, train.mean(axis=0), other.mean(axis=0), spread, fold(basis.Q(head), vectors), pool.texts)
        )
    return shifts
