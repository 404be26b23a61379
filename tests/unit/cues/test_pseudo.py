"""Pseudo-attributes: threshold, undecided middle, error rates, and the correction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.cues.statistics.groups import grouping
from clipaudit.cues.statistics.intervals import Paired
from clipaudit.cues.statistics.pseudo import (
    MIN_PURITY,
    UNDECIDED,
    ErrorRates,
    corrected_change,
    corrected_counts,
    otsu,
    pseudo_values,
    purity,
    rates_from_scores,
)
from tests.audit_arrays import rates_from_truth

CLASSES, VALUES = ("landbird", "waterbird"), ("without cue", "with cue")


def skewed(seed, n=8000, skew=0.95, error=0.1, effect=0.2):
    """95 % of each class on its own side; 10 % of the cue labels wrong; replacing the cue's heads fixes a share
    `effect` of the true conflicts and breaks 2 % of the rest. Returns truth, true cue, said cue, change."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    cue = np.where(rng.random(n) < skew, truth, 1 - truth)
    said = np.where(rng.random(n) < error, 1 - cue, cue)
    conflict = cue != truth
    fixed = conflict & (rng.random(n) < effect)
    broken = ~conflict & (rng.random(n) < 0.02)
    return truth, cue, said, fixed.astype(int) - broken.astype(int)


def change_of(truth, codes, change):
    found = grouping(truth, CLASSES, "cue", VALUES, codes)
    own, others = found.conflict(1, 1)
    return found, Paired(change=change, group=found.group, cluster=np.arange(len(truth))).mean([*own, *others])


def test_skew_and_error_make_a_conflict_impure_and_the_correction_restores_the_effect():
    """Trap 6 of docs/method.md 9."""
    covered, flipped = 0, 0
    for seed in range(60):
        truth, cue, said, change = skewed(seed)
        found, uncorrected = change_of(truth, said, change)
        flipped += uncorrected.value < 0.12
        rates = rates_from_truth(said, cue)
        assert purity(found.sizes().reshape(2, 2), rates, 1, 1) < MIN_PURITY
        corrected = corrected_change(change, found, 1, 1, rates, seed).conflict
        covered += corrected.low <= 0.2 <= corrected.high
    assert flipped == 60
    assert covered / 60 >= 0.9


def test_copies_narrow_no_corrected_interval():
    """Trap 18: 800 images five times are 800 images."""
    truth, _, said, change = skewed(3, n=800)
    rows, rates = np.repeat(np.arange(800), 5), ErrorRates(false_with=0.1, false_without=0.1)
    once = corrected_change(change, change_of(truth, said, change)[0], 1, 1, rates).conflict
    found = change_of(truth[rows], said[rows], change[rows])[0]
    copies = corrected_change(change[rows], found, 1, 1, rates, cluster=rows).conflict
    assert copies.value == pytest.approx(once.value)
    assert copies.high - copies.low == pytest.approx(once.high - once.low, rel=0.15)
    assert copies.n == once.n == 800


@pytest.mark.slow
def test_coverage_of_the_corrected_interval():
    """Where rates from 800 known images leave a conflict to speak of; elsewhere there is no answer."""
    covered, answered = 0, 0
    for seed in range(400):
        truth, cue, said, change = skewed(seed)
        rates = rates_from_truth(said[:800], cue[:800])
        corrected = corrected_change(change, change_of(truth, said, change)[0], 1, 1, rates, seed)
        answered += corrected is not None
        covered += corrected is not None and corrected.conflict.low <= 0.2 <= corrected.conflict.high
    print(f"\ncorrected interval covers {covered / answered:.3f} of {answered}; {400 - answered} without an answer")
    assert covered / answered >= 0.92
    assert answered / 400 >= 0.9


def test_without_known_rates_there_is_no_correction():
    truth, _, said, change = skewed(0)
    found, _ = change_of(truth, said, change)
    assert purity(found.sizes().reshape(2, 2), None, 1, 1) is None
    assert corrected_change(change, found, 1, 1, ErrorRates(false_with=0.5, false_without=0.4)) is None


def test_no_error_needs_no_correction():
    truth, cue, _, change = skewed(1)
    found, plain = change_of(truth, cue, change)
    corrected = corrected_change(change, found, 1, 1, ErrorRates(false_with=0.0, false_without=0.0))
    assert corrected.conflict.value == pytest.approx(plain.value)
    assert purity(found.sizes().reshape(2, 2), ErrorRates(false_with=0.0, false_without=0.0), 1, 1) == pytest.approx(1)


def test_otsu_parts_two_humps_in_the_middle():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(-3, 0.4, 500), rng.normal(3, 0.4, 100)])
    assert -1.5 < otsu(scores) < 1.5


def test_the_middle_is_left_undecided():
    codes, threshold = pseudo_values(np.random.default_rng(1).normal(size=1000))
    assert (codes < 0).mean() == pytest.approx(UNDECIDED, abs=0.01)
    assert abs(threshold) < 0.5


def test_equal_scores_are_all_undecided():
    codes, _ = pseudo_values(np.full(50, 0.3))
    assert (codes == -1).all()


def test_rates_of_two_humps_are_those_of_their_overlap():
    rng = np.random.default_rng(2)
    cue = rng.integers(0, 2, 20_000)
    scores = rng.normal(size=20_000) + 3.0 * cue
    codes, threshold = pseudo_values(scores)
    found = rates_from_scores(scores, codes, threshold)
    true = rates_from_truth(codes, cue)
    assert found.false_with == pytest.approx(true.false_with, abs=0.01)
    assert found.false_without == pytest.approx(true.false_without, abs=0.01)


def test_one_hump_has_no_rates():
    scores = np.random.default_rng(3).normal(size=2000)
    codes, threshold = pseudo_values(scores)
    assert rates_from_scores(scores, codes, threshold) is None


def test_rates_from_too_few_known_images():
    assert rates_from_truth(np.array([1, 0] * 10), np.array([1, 0] * 10)) is None


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 0.35),
    st.floats(0, 0.35),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=4),
)
def test_correction_inverts_the_error(false_with, false_without, true):
    rates = ErrorRates(false_with=false_with, false_without=false_without)
    table = np.array(true, float)
    matrix = np.array([[1 - false_with, false_with], [false_without, 1 - false_without]])
    assert np.allclose(corrected_counts(table @ matrix, rates), table, atol=1e-6)
