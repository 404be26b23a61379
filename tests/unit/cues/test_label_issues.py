"""Label issues on arrays: which labels are listed, in which order, and how many of them are right all the same."""

from __future__ import annotations

import numpy as np
import pytest

from clipaudit.cues.mistakes.label_issues import MAX_FDR, label_issues

CLASSES = 4


def answers(n: int, noise: float, seed: int, sure: float = 6.0):
    """(logits, labels, flipped): sure answers for most images, unsure and wrong ones for some."""
    rng = np.random.default_rng([seed, 80])
    truth = rng.integers(0, CLASSES, n)
    hard = rng.random(n) < 0.15
    logits = 0.8 * rng.standard_normal((n, CLASSES))
    logits[np.arange(n), truth] += np.where(hard, 0.5, sure)
    flipped = rng.random(n) < noise
    labels = np.where(flipped, (truth + rng.integers(1, CLASSES, n)) % CLASSES, truth)
    return logits, labels, flipped


def average_precision(order, flipped) -> float:
    hits = flipped[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_wrong_labels_come_first_and_the_stated_rate_is_about_true(noise):
    logits, labels, flipped = answers(3000, noise, 1)
    issues = label_issues(logits, labels)
    assert average_precision(np.argsort(issues.margin), flipped) > 0.85
    assert flipped[issues.listed].sum() > 0.75 * flipped.sum()
    right = float((~flipped[issues.listed]).mean())
    # rather too large than too small
    assert right - 0.05 < issues.fdr < right + 0.2
    assert issues.wrong_share == pytest.approx(noise, abs=0.03)
    assert issues.expected_wrong == pytest.approx(flipped[issues.listed].sum(), rel=0.2)


def test_labels_that_are_only_hard_are_not_listed():
    listed = [len(label_issues(*answers(2000, 0.0, seed)[:2]).listed) for seed in range(10)]
    assert sum(count > 0 for count in listed) <= 1


def test_what_is_listed_is_off_the_confident_joints_diagonal():
    logits, labels, _ = answers(1500, 0.1, 3)
    issues = label_issues(logits, labels)
    assert (issues.suggested[issues.contradicted] != labels[issues.contradicted]).all()
    assert len(issues.contradicted) == issues.joint.sum() - np.trace(issues.joint)
    assert len(issues.listed) <= len(issues.contradicted)
    assert (np.diff(issues.margin[issues.listed]) >= 0).all()
    assert issues.rates[len(issues.listed) - 1] <= MAX_FDR
    # Northcutt et al.'s thresholds: mean self-confidence of each class
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for k in range(CLASSES):
        assert issues.thresholds[k] == pytest.approx(probability[labels == k, k].mean())


def test_two_classes_and_a_class_without_images():
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, 800)
    logits = np.zeros((800, 3))
    logits[np.arange(800), truth] = 5 + rng.standard_normal(800)
    flipped = rng.random(800) < 0.1
    labels = np.where(flipped, 1 - truth, truth)
    issues = label_issues(logits, labels)
    assert set(issues.listed.tolist()) == set(np.flatnonzero(flipped).tolist())
    assert (issues.suggested < 2).all(), "nothing is taken for a class that no image has"


def test_answers_that_agree_with_every_label_list_nothing():
    labels = np.arange(60) % CLASSES
    logits = np.eye(CLASSES)[labels] * 4.0
    issues = label_issues(logits, labels)
    assert len(issues.listed) == 0
    assert issues.fdr is None
    assert issues.expected_wrong == 0


def test_an_image_counts_as_a_class_from_its_threshold_on():
    labels = np.arange(400) % 2
    logits = np.eye(2)[labels] * 4.0
    # a little more likely the other class than its own, and far below what images of either are
    logits[0] = [0.0, 0.2]
    issues = label_issues(logits, labels)
    assert (issues.thresholds > 0.9).all()
    assert issues.suggested[0] == -1
    assert len(issues.contradicted) == 0


def test_the_order_is_that_of_log_odds_against_the_likeliest_other_class():
    logits, labels, _ = answers(300, 0.1, 5)
    others = logits.copy()
    others[np.arange(300), labels] = -np.inf
    assert np.allclose(label_issues(logits, labels).margin, logits[np.arange(300), labels] - others.max(axis=1))


@pytest.mark.parametrize(("wrong", "listed"), [(2, 0), (4, 4)])
def test_a_list_of_one_or_two_is_a_guess_and_stays_empty(wrong, listed):
    labels = np.arange(100) % CLASSES
    logits = np.eye(CLASSES)[labels] * 6.0
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    issues = label_issues(logits, labels)
    assert len(issues.contradicted) == wrong
    assert len(issues.listed) == listed
