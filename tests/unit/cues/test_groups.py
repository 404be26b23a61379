"""Intervals and groups: Wilson, worst group, gaps by chance, paired changes, conflicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.cues.statistics.groups import conflict_of, describe_groups, grouping
from clipaudit.cues.statistics.intervals import (
    Paired,
    accuracy,
    gap_if_equal,
    group_mean,
    size_word,
)
from tests.audit_arrays import average_change

CLASSES, PLACES = ("landbird", "waterbird"), ("land", "water")


def equal_groups(seed, accuracy_of_all=0.8, sizes=(400, 60, 60, 400)):
    """Four groups of one accuracy: grouping and right answers."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(4), sizes)
    found = grouping(group // 2, CLASSES, "place", PLACES, group % 2)
    return found, rng.random(len(group)) < accuracy_of_all


def test_the_worst_groups_interval_covers_when_groups_are_equal():
    """Coverage is at least 93 % of 500 seeds."""
    covered = 0
    for seed in range(500):
        found, good = equal_groups(seed)
        worst = describe_groups(found, good, "rows", n_min=30, seed=0).worst
        assert worst is not None
        assert worst.accuracy is not None
        covered += worst.accuracy.low <= 0.8 <= worst.accuracy.high
    print(f"worst-group coverage {covered / 500:.3f}")
    assert covered / 500 >= 0.93


def test_a_gap_is_compared_with_chance():
    gaps = []
    for seed in range(200):
        found, good = equal_groups(seed)
        gaps.append(describe_groups(found, good, "rows", n_min=30, seed=0).gap)
    assert gap_if_equal(np.array([400, 60, 60, 400]), 0.8) == pytest.approx(np.mean(gaps), abs=0.006)
    assert gap_if_equal(np.array([50]), 0.8) == 0.0


def test_description_of_groups():
    truth = np.array([0] * 40 + [1] * 40 + [1] * 5 + [0] * 12)
    place = np.array([0] * 40 + [1] * 40 + [0] * 5 + [-1] * 12)
    good = np.array([True] * 36 + [False] * 4 + [True] * 20 + [False] * 20 + [True] * 5 + [True] * 12)
    found = describe_groups(
        grouping(truth, CLASSES, "place", PLACES, place),
        good,
        "rows",
        n_min=30,
        seed=0,
        train=np.array([95, 5, 10, 90]),
    )
    assert [(g.class_name, g.value, g.n, g.size) for g in found.groups] == [
        ("landbird", "land", 40, "shown"),
        ("waterbird", "land", 5, "count only"),
        ("waterbird", "water", 40, "shown"),
    ]
    assert found.groups[1].accuracy is None
    assert found.plain_average.n == 85
    assert found.worst.value == "water"
    assert found.group_mean.value == pytest.approx((0.9 + 0.5) / 2)  # five images say nothing of a group
    assert found.train_weighted == pytest.approx((95 * 0.9 + 10 * 1.0 + 90 * 0.5) / 195)
    assert found.left_out == ("waterbird, land: 5 images",)


def test_nothing_to_describe():
    empty = grouping(np.empty(0, int), CLASSES, "place", PLACES, np.empty(0, int))
    found = describe_groups(empty, np.empty(0, bool), "rows", n_min=30, seed=0)
    assert found.worst is None
    assert found.gap is None
    assert found.plain_average.value is None


@pytest.mark.parametrize(("n", "word"), [(9, "count only"), (10, "greyed"), (30, "shown"), (100, "may gate")])
def test_sizes(n, word):
    assert size_word(n) == word


def test_wilson_limits_are_simultaneous():
    assert accuracy(8, 10).level == 0.95
    assert accuracy(8, 10, 4).level == pytest.approx(0.9875)
    assert accuracy(8, 10, 4).low < accuracy(8, 10).low
    assert accuracy(0, 0).value is None


def test_group_mean_covers():
    rng = np.random.default_rng(0)
    total, truth = np.array([30, 50, 200]), np.array([0.5, 0.7, 0.95])
    hits = 0
    for _ in range(500):
        found = group_mean(rng.binomial(total, truth), total)
        hits += found.low <= truth.mean() <= found.high
    assert hits / 500 > 0.93


def test_paired_change_covers():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(500):
        change = rng.choice([-1, 0, 1], 120, p=[0.05, 0.8, 0.15])
        found = Paired(change=change, group=np.zeros(120, int), cluster=np.arange(120)).of_group(0)
        hits += found.low <= 0.1 <= found.high
    assert hits / 500 > 0.93


def test_near_duplicates_widen_a_paired_interval():
    change = np.repeat(np.random.default_rng(2).choice([-1, 0, 1], 20), 10)
    group = np.zeros(200, int)
    alone = Paired(change=change, group=group, cluster=np.arange(200)).of_group(0)
    together = Paired(change=change, group=group, cluster=np.repeat(np.arange(20), 10)).of_group(0)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_no_change_is_zero_and_not_certain():
    found = average_change(np.zeros(50, int), np.arange(50))
    assert found.value == 0
    assert found.low < 0 < found.high


def test_a_conflict_has_two_equal_sides():
    found, _ = equal_groups(0, sizes=(400, 60, 20, 400))
    conflict = conflict_of(found, 1, 1)
    assert conflict.groups == (2, 1)
    assert conflict.weights == pytest.approx((1.0, 1.0))
    assert (conflict.own, conflict.others) == (20, 60)
    lacking, _ = equal_groups(0, sizes=(400, 60, 0, 400))
    assert conflict_of(lacking, 1, 1).groups == (1,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60), st.integers(1, 4))
def test_properties_of_paired_change(change, groups):
    values = np.array(change)
    paired = Paired(change=values, group=np.arange(len(values)) % groups, cluster=np.arange(len(values)))
    found = paired.mean(list(range(groups)))
    assert -1 <= found.low <= found.value <= found.high <= 1
    flipped = Paired(change=-values, group=paired.group, cluster=paired.cluster).mean(list(range(groups)))
    assert flipped.value == pytest.approx(-found.value)
    assert paired.mean([]).value is None


def test_copies_of_one_changed_image_count_once():
    """As in the accuracies beside it (S2b): one image five times is one image."""
    change = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0])
    cluster = np.array([0, 0, 0, 0, 0, 1, 2, 3, 4])
    found = Paired(change=change, group=np.zeros(9, int), cluster=cluster).of_group(0)
    once = Paired(change=change[4:], group=np.zeros(5, int), cluster=np.arange(5)).of_group(0)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((once.low, once.high))
