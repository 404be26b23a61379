"""Strengths: pairwise AUC against brute force and scipy, DeLong and clustered errors, invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, mannwhitneyu, norm

from clipaudit.cues.statistics.cuts import strength_interval
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.strength import binned, strengths, typical


def brute(scores: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) P(k above j) + half the ties."""
    pairs = np.full((classes, classes), 0.5)
    for k in range(classes):
        for j in range(classes):
            a, b = scores[truth == k][:, None], scores[truth == j][None, :]
            pairs[k, j] = (a > b).mean() + (a == b).mean() / 2
    return pairs


def draw(n: int, classes: int, seed: int, rounded: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.repeat(np.arange(classes), 5), rng.integers(0, classes, n - 5 * classes)])
    scores = rng.normal(size=n) + 0.4 * (truth == 1)
    return (np.round(scores, 1) if rounded else scores), truth


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_strength_is_the_mean_pairwise_auc(classes, rounded):
    scores, truth = draw(300, classes, classes, rounded)
    A = brute(scores, truth, classes)
    found = strengths(binned(scores), Design(truth, classes))
    off = ~np.eye(classes, dtype=bool)
    expected = np.array([2 * A[k][off[k]].mean() - 1 for k in range(classes)])
    assert np.allclose(found.d, expected, atol=1e-12)
    assert np.allclose(found.pairs[off], (2 * A - 1)[off], atol=1e-12)


@pytest.mark.parametrize("rounded", [False, True])
def test_two_classes_give_the_mann_whitney_p_value(rounded):
    scores, truth = draw(200, 2, 3, rounded)
    p = mannwhitneyu(scores[truth == 1], scores[truth == 0], method="asymptotic", use_continuity=False).pvalue
    assert strengths(binned(scores), Design(truth, 2)).p == pytest.approx([p, p], rel=1e-9)


def test_binning_loses_nothing_that_matters():
    scores, truth = draw(20_000, 3, 4)
    exact = strengths(binned(scores, 2**15), Design(truth, 3), 2**15)
    coarse = strengths(binned(scores), Design(truth, 3))
    assert np.abs(exact.d - coarse.d).max() < 1e-4
    assert np.allclose(exact.error, coarse.error, rtol=1e-3)


def test_the_standard_error_is_that_of_repeated_draws():
    d, error = [], []
    for seed in range(300):
        scores, truth = draw(240, 3, seed)
        found = strengths(binned(scores), Design(truth, 3))
        d.append(found.d)
        error.append(found.error)
    assert np.allclose(np.mean(error, axis=0), np.std(d, axis=0), rtol=0.15)


@pytest.mark.full
def test_null_z_has_unit_variance_with_unequal_classes_and_ties():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [15, 60, 200])
    scores = np.round(rng.normal(size=len(truth)), 1)
    z = [strengths(binned(scores), Design(rng.permutation(truth), 3)).z for _ in range(2000)]
    assert np.std(z, axis=0) == pytest.approx([1, 1, 1], abs=0.06)
    assert np.abs(np.mean(z, axis=0)).max() < 0.08


@pytest.mark.parametrize("same_label", [True, False])
def test_null_z_has_unit_variance_with_clusters(same_label):
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(60), 20)
    z = []
    for _ in range(400):
        truth = np.repeat(rng.permutation(np.arange(60) % 3), 20) if same_label else rng.integers(0, 3, 1200)
        scores = np.repeat(rng.normal(size=60), 20) + 0.2 * rng.normal(size=1200)
        z.append(strengths(binned(scores), Design(truth, 3, cluster)).z)
    assert np.std(z, axis=0) == pytest.approx([1, 1, 1], abs=0.12)


@pytest.mark.full
def test_clusters_widen_the_error_as_repeated_draws_vary():
    rng = np.random.default_rng(2)
    cluster, truth = np.repeat(np.arange(80), 10), np.repeat(np.arange(80) % 2, 10)
    d, error, naive = [], [], []
    for _ in range(200):
        scores = np.repeat(rng.normal(size=80), 10) + 0.3 * rng.normal(size=800) + 0.5 * truth
        d.append(strengths(binned(scores), Design(truth, 2, cluster)).d[1])
        error.append(strengths(binned(scores), Design(truth, 2, cluster)).error[1])
        naive.append(strengths(binned(scores), Design(truth, 2)).error[1])
    assert np.mean(error) == pytest.approx(np.std(d), rel=0.15)
    assert np.mean(naive) < 0.5 * np.std(d)


def test_full_separation_of_few_images_is_not_certain():
    truth = np.repeat([0, 1], 10)
    found = strengths(binned(np.arange(20.0)), Design(truth, 2))
    assert found.d == pytest.approx([-1, 1])
    assert 0.6 < found.low[1] < 0.9


def test_typical_is_the_weaker_middle_rival():
    pairs = np.array([[0, 0.9, 0.1], [-0.9, 0, 0.0], [-0.1, 0.0, 0]])
    assert typical(pairs) == pytest.approx([0.1, 0.0, 0.0])
    assert typical(np.array([[0.0, 0.4], [-0.4, 0.0]])) == pytest.approx([0.4, -0.4])


def test_design_counts_independent_images():
    design = Design(np.array([0, 0, 0, 1, 1]), 2, np.array([0, 0, 1, 1, 2]))
    assert design.independent.tolist() == [2, 2]
    assert design.clusters == 3


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(-20, 20)), min_size=8, max_size=120).filter(
        lambda rows: len({label for label, _ in rows}) == 3
    )
)
def test_properties_of_strength(rows):
    truth = np.array([label for label, _ in rows])
    scores = np.array([value for _, value in rows], float)
    design = Design(truth, 3)
    found = strengths(binned(scores), design)
    assert np.abs(found.d).max() <= 1 + 1e-12
    assert (found.error > 0).all()
    assert np.allclose(found.pairs, -found.pairs.T, atol=1e-12)
    flipped = strengths(binned(-scores), design)
    assert np.allclose(flipped.d, -found.d, atol=1e-12)
    monotone = strengths(binned(scores**3 + 5), design)
    assert np.allclose(monotone.d, found.d, atol=1e-12)
    order = np.random.default_rng(0).permutation(len(truth))
    assert np.allclose(strengths(binned(scores[order]), Design(truth[order], 3)).d, found.d, atol=1e-12)
    lone = strengths(binned(scores), Design(truth, 3, np.arange(len(truth))))
    assert np.allclose(lone.error, found.error)
    assert np.allclose(lone.z, found.z)


@pytest.mark.parametrize("kind", ["normal", "far off", "tied", "one value", "rounded", "few", "not a number"])
def test_binning_many_scores_is_a_search_among_the_edges(kind):
    rng = np.random.default_rng(4)
    normal = rng.standard_normal(150_000).astype(np.float32)
    scores = {
        "normal": normal,
        "far off": rng.standard_cauchy(20_000),
        "tied": rng.integers(0, 50, 20_000).astype(np.float32),
        "one value": np.zeros(20_000, np.float32),
        "rounded": np.round(normal, 2),
        "few": normal[:7],
        "not a number": np.where(np.arange(20_000) == 77, np.nan, normal[:20_000]),
    }[kind]
    with np.errstate(invalid="ignore"):
        codes = binned(scores, 256)
    ordered = np.sort(scores[:: max(1, len(scores) // 65_536)])
    edges = np.unique(ordered[np.arange(1, 256) * len(ordered) // 256])
    assert codes.dtype == np.uint16
    assert (codes == np.searchsorted(edges, scores, side="right")).all()


@pytest.mark.parametrize(("images", "quantile", "level"), [(25, 1.96, 0.025), (50, 3.0, 0.005), (12, 1.96, 0.025)])
def test_a_cue_that_separates_all_images_is_no_less_sure_than_a_weaker_one(images, quantile, level):
    least = np.sqrt(2.0) / images  # D's least error, S1
    full, nearly = strength_interval(1.0, least, quantile), strength_interval(0.9, 2 * least, quantile)
    assert full[0] >= nearly[0]
    assert full[1] == 1.0
    assert strength_interval(-1.0, least, quantile) == pytest.approx((-full[1], -full[0]))
    rng = np.random.default_rng(6)
    design = Design(np.repeat([0, 1], images), 2)
    for shift in (1.8, 2.4, 3.2):
        true = 2 * norm.cdf(shift / np.sqrt(2)) - 1
        above = 0
        for _ in range(200):
            scores = rng.standard_normal(2 * images) + shift * design.truth
            measured = strengths(binned(scores), design)
            above += strength_interval(float(measured.d[1]), float(measured.error[1]), quantile)[0] > true
        assert above <= binom.ppf(0.999, 200, level)
