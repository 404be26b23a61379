"""Counts of right answers: against one set at a time, and intervals and controls against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from clipaudit.errors import UsageError
from clipaudit.heads import zeroshot
from clipaudit.heads.zeroshot import LogitBatch, control, score, score_sets
from clipaudit.statistics import Proportion


def make_batches(seed=0, rows=90, classes=3, columns=4, pieces=3):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, rows)
    base = rng.standard_normal((rows, classes)).astype(np.float32)
    base[np.arange(rows), truth] += 1
    removed = rng.standard_normal((columns, rows, classes)).astype(np.float32)
    values = np.array([(None, "land", "water")[n] for n in rng.integers(0, 3, rows)], object)
    cuts = np.array_split(np.arange(rows), pieces)
    return [LogitBatch(base=base[c], removed=removed[:, c], truth=truth[c], values=values[c]) for c in cuts]


def by_hand(batches, chosen):
    """Right answers of one set of columns, row by row: {class: [right, total]}, {group: [right, total]}, confusion."""
    classes, groups, confusion = {}, {}, np.zeros((3, 3), int)
    for batch in batches:
        for n, truth in enumerate(batch.truth.tolist()):
            logits = batch.base[n] - sum((batch.removed[p, n] for p in np.flatnonzero(chosen)), np.zeros(3))
            answer = int(np.argmax(logits))
            confusion[truth, answer] += 1
            counters = [classes.setdefault(truth, [0, 0])]
            if batch.values[n] is not None:
                counters.append(groups.setdefault((truth, batch.values[n]), [0, 0]))
            for counter in counters:
                counter[0] += answer == truth
                counter[1] += 1
    return classes, groups, confusion


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), pieces=st.integers(1, 7))
def test_vectorised_sets_are_the_sets_one_by_one(seed, pieces):
    batches = make_batches(seed, rows=40, pieces=pieces)
    sets = np.random.default_rng(seed).random((12, 4)) < 0.5
    many, each = score_sets(batches, sets), score(batches, sets)
    for row, chosen in enumerate(sets):
        classes, groups, confusion = by_hand(batches, chosen)
        assert {c: [int(many.class_right[row, c]), int(many.class_total[c])] for c in classes} == classes
        assert many.class_total.sum() == 40
        assert {g: [int(many.group_right[row, n]), int(many.group_total[n])] for n, g in enumerate(many.groups)} == (
            groups
        )
        assert (each[row].confusion == confusion).all()
        assert {g: [p.right, p.total] for g, p in each[row].groups.items()} == groups
        assert many.accuracy[row] == each[row].accuracy.value
        assert many.worst_group()[row] == each[row].worst_group()[1].value
        assert [p.right for p in each[row].by_class] == many.class_right[row].tolist()


def test_pieces_of_rows_and_of_sets_change_nothing(monkeypatch):
    sets = np.random.default_rng(1).random((50, 4)) < 0.5
    whole = score_sets(make_batches(pieces=1), sets)
    few = score(make_batches(pieces=1), sets[:5])
    monkeypatch.setattr(zeroshot, "_BLOCK", 100)
    for pieces in (1, 5, 90):
        found = score_sets(make_batches(pieces=pieces), sets)
        for name in ("class_right", "class_total", "group_right", "group_total"):
            assert (getattr(found, name) == getattr(whole, name)).all(), name
        assert found.groups == whole.groups == tuple(sorted(whole.groups))
        for a, b in zip(score(make_batches(pieces=pieces), sets[:5]), few, strict=True):
            assert (a.confusion == b.confusion).all()
            assert a.groups == b.groups


def test_the_empty_set_is_the_plain_model():
    batches = make_batches()
    plain = score(batches, np.zeros(4, bool))[0]
    right = sum(int((batch.base.argmax(axis=1) == batch.truth).sum()) for batch in batches)
    assert plain.accuracy == Proportion(right=right, total=90)


def test_worst_group_over_large_enough_groups():
    batches = make_batches()
    found = score(batches, np.zeros(4, bool))[0]
    sizes = sorted(p.total for p in found.groups.values())
    group, worst = found.worst_group(min_rows=sizes[-1])
    assert worst.total == sizes[-1]
    assert found.groups[group] == worst
    assert found.worst_group(min_rows=1000) is None
    assert np.isnan(score_sets(batches, np.zeros((2, 4), bool)).worst_group(min_rows=1000)).all()


def test_near_chance_is_said():
    rng = np.random.default_rng(0)

    def scored(shift):
        truth = rng.integers(0, 4, 400)
        base = rng.standard_normal((400, 4)).astype(np.float32)
        base[np.arange(400), truth] += shift
        empty = np.zeros((0, 400, 4), np.float32)
        batch = LogitBatch(base=base, removed=empty, truth=truth, values=np.full(400, None, object))
        return score([batch], np.zeros((1, 0), bool))[0]

    assert scored(0).near_chance
    assert not scored(1).near_chance
    assert scored(0).worst_group() is None


def test_no_rows_and_wrong_sets():
    for function in (score, score_sets):
        with pytest.raises(UsageError, match="no rows"):
            function([], np.zeros((1, 4), bool))
        with pytest.raises(ValueError, match="over 3 columns"):
            function(make_batches(), np.zeros((1, 3), bool))


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(8, 10, 0.490162, 0.943318), (0, 20, 0.0, 0.161125), (20, 20, 0.838875, 1.0), (50, 100, 0.403832, 0.596168)],
)
def test_wilson(right, total, low, high):
    found = Proportion(right=right, total=total).interval()
    assert found == pytest.approx((low, high), abs=2e-6)
    wider = Proportion(right=right, total=total).interval(0.99)
    assert wider == pytest.approx(binomtest(right, total).proportion_ci(0.99, method="wilson"), abs=1e-12)
    assert wider[0] <= found[0] <= right / total <= found[1] <= wider[1]


def test_proportion_of_nothing():
    nothing = Proportion(right=0, total=0)
    assert nothing.interval() == (0, 1)
    assert math.isnan(nothing.value)


def test_control():
    found = control(0.8, [0.5, 0.8, 0.9, 0.1])
    assert found.p == pytest.approx(3 / 5)
    assert found.beaten == 0.5
    assert found.mean == pytest.approx(0.575)
    assert found.sets == 4
    assert control(1.0, np.zeros(999)).p == 1 / 1000
    with pytest.raises(UsageError, match="at least one random set"):
        control(1.0, [])
