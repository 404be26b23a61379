"""Error rates: random labels give no finding, a planted cue is found and its class named."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm

from clipaudit.cues.measure import controls
from clipaudit.cues.statistics.cuts import honest, units_of
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.multiplicity import Largest, Permuter, hash_order, largest_cuts, strata_of
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT
from clipaudit.cues.statistics.strength import binned
from clipaudit.statistics import benjamini_hochberg
from tests.audit_arrays import screen_codes
from tests.audit_worlds import balanced_labels

ALPHA, DELTA, DIRECTIONS = 0.05, 0.2, 60
BALANCES = (0.5, 0.75, 0.9, 0.98)


def design_of(truth, cluster):
    """The design of the classes with enough independent images, and their rows; None with fewer than two."""
    whole = Design(truth, int(truth.max()) + 1, cluster)
    enough = whole.independent >= MIN_INDEPENDENT
    if enough.sum() < 2:
        return None
    rows = np.flatnonzero(enough[truth])
    groups = None if cluster is None else np.unique(cluster[rows], return_inverse=True)[1]
    return Design((np.cumsum(enough) - 1)[truth[rows]], int(enough.sum()), groups), rows


def null_audit(n, classes, first, seed, size=1):
    """Whether an audit of noise finds anything; None when it has too few images to test. Half of the directions are
    correlated, as those of one head are; clusters are of near duplicates with one label."""
    rng = np.random.default_rng([n, classes, int(100 * first), seed, size])
    pieces = n // size
    if min(first, 1 - first) * pieces < 1:
        return None
    truth = np.repeat(balanced_labels(pieces, classes, first, rng), size)
    scores = np.repeat(rng.normal(size=(pieces, DIRECTIONS)), size, axis=0)
    scores[:, 1::2] += 0.7 * scores[:, :1]
    if size > 1:
        scores += 0.1 * rng.normal(size=scores.shape)
    found = design_of(truth, np.repeat(np.arange(pieces), size) if size > 1 else None)
    if found is None:
        return None
    design, rows = found
    tests = screen_codes((binned(scores[rows, m]) for m in range(DIRECTIONS)), design)
    return bool(tests.flagged(ALPHA, DELTA).any())


def rate(results):
    known = [result for result in results if result is not None]
    return (np.mean(known) if known else 0.0), len(known)


@pytest.mark.parametrize("first", BALANCES)
@pytest.mark.parametrize("classes", [2, pytest.param(10, marks=pytest.mark.full)])
def test_random_labels_give_no_finding(classes, first):
    found, audits = rate([null_audit(500, classes, first, seed) for seed in range(25)])
    assert audits in (0, 25)
    assert found <= 0.12  # 3 of 25; the slow version measures the rate


@pytest.mark.full
def test_random_labels_with_near_duplicates_give_no_finding():
    found, audits = rate([null_audit(1000, 2, 0.5, seed, size=20) for seed in range(40)])
    assert audits == 40
    assert found <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 20])
@pytest.mark.parametrize("first", BALANCES)
@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("n", [500, 5000, 50_000])
def test_false_finding_rate(n, classes, first, size):
    """P(any finding) <= .07, over 100 seeds where cheap (10 of 50,000 images with 100 classes)."""
    seeds = 200 if n == 500 else 100 if n == 5000 else 40 if classes <= 10 else 10
    found, audits = rate([null_audit(n, classes, first, seed, size) for seed in range(seeds)])
    print(f"\nn {n}, {classes} classes, {first:.0%} first, clusters of {size}: {found:.3f} of {audits}")
    assert found <= 0.07 + 2 * np.sqrt(0.07 * 0.93 / max(audits, 1)) * (audits < 200)


def planted_audit(seed, n=2000, classes=10, d=0.5, directions=200):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n) % classes)
    scores = rng.normal(size=(n, directions))
    k = int(rng.integers(classes))
    scores[truth == k, 0] += np.sqrt(2) * norm.ppf((1 + d) / 2)
    found = screen_codes((binned(scores[:, m]) for m in range(directions)), Design(truth, classes))
    flagged = found.flagged(ALPHA, DELTA)
    named = bool(flagged[0, k]) and flagged[0].sum() == 1
    return named, bool(flagged[1:].any())


def test_a_planted_cue_is_found_and_its_class_named():
    """In 20 seeds."""
    results = np.array([planted_audit(seed) for seed in range(20)])
    assert results[:, 0].mean() >= 0.95
    assert results[:, 1].mean() <= 0.1


@pytest.mark.slow
def test_detection_rate():
    results = np.array([planted_audit(seed) for seed in range(300)])
    print(f"\ndetected and named {results[:, 0].mean():.3f}, false {results[:, 1].mean():.3f}")
    assert results[:, 0].mean() >= 0.95
    assert results[:, 1].mean() <= 0.07


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_benjamini_hochberg_is_scipys():
    p = np.random.default_rng(0).uniform(size=(7, 5)) ** 3
    assert np.allclose(benjamini_hochberg(p).ravel(), false_discovery_control(p.ravel()))
    assert benjamini_hochberg(np.empty((0, 3))).shape == (0, 3)


def test_permuted_labels_keep_clusters_and_counts():
    cluster = np.repeat(np.arange(30), 4)
    truth = np.repeat(np.arange(30) % 3, 4)
    dealt = Permuter(Design(truth, 3, cluster)).draw(np.random.default_rng(0))
    assert (dealt.reshape(30, 4) == dealt.reshape(30, 4)[:, :1]).all()
    assert np.bincount(dealt).tolist() == np.bincount(truth).tolist()
    assert (dealt != truth).any()


def test_permuted_labels_stay_in_their_stratum():
    truth = np.repeat([0, 1], 50)
    dealt = Permuter(Design(truth, 2), np.repeat([0, 1], 50)).draw(np.random.default_rng(0))
    assert (dealt == truth).all()


def test_labels_are_dealt_inside_shards_where_those_mix_classes():
    cluster, shards = np.repeat(np.arange(40), 2), np.repeat([0, 1], 40)
    mixed = np.repeat(np.arange(40) % 2, 2)
    assert strata_of(Design(mixed, 2, cluster), shards).tolist() == shards.tolist()
    assert strata_of(Design(mixed, 2), shards) is None  # every image for itself
    assert strata_of(Design(np.repeat([0, 1], 40), 2, cluster), shards) is None  # sorted by class: nothing to deal
    assert strata_of(Design(mixed, 2, cluster), np.tile([0, 1], 40)) is None  # copies lie in both shards


def test_labels_are_dealt_over_all_shards_where_shards_are_the_clusters():
    """Inside a shard that is one cluster nothing could be permuted, and every test would have p = 1."""
    shards = np.repeat(np.arange(10), 8)
    mixed = np.arange(80) % 2
    assert strata_of(Design(mixed, 2, shards), shards) is None
    assert (Permuter(Design(np.arange(80) // 3 % 2, 2, shards)).draw(np.random.default_rng(0)) != mixed).any()


def test_the_negative_control_deals_labels_as_the_family_does():
    """Shards differ along every direction, and classes are equally frequent in all of them."""
    rng = np.random.default_rng(3)
    shard, cluster = np.repeat(np.arange(10), 60), np.repeat(np.arange(300), 2)
    truth = np.repeat(np.arange(300) % 2, 2)
    offsets = 3.0 * rng.normal(size=(10, 60))
    scores = np.repeat(rng.normal(size=(300, 60)), 2, axis=0) + offsets[shard]
    design = Design(truth, 2, cluster)
    strata = strata_of(design, shard)
    ranks = ranks_of(scores)
    units = units_of(ranks, design)
    orders = np.stack([honest(binned(column), design, 1024).cut.order for column in scores.T])
    largest = largest_cuts(units, orders, design.cut_sizes, 2, 199, 0, strata[units.rows])
    asked = {"audits": 20, "alpha": 0.05, "delta": 0.0, "seed": 0}
    assert controls.negative_control(ranks, design, largest, **asked, strata=strata).valid
    # dealt over all shards, shards' chance shares of a class are taken for findings, and a sound run is condemned
    assert not controls.negative_control(ranks, design, largest, **asked).valid


def ranks_of(scores):
    """(n, M) scores as centred ranks, -1/2..1/2."""
    columns = np.stack([binned(column) for column in scores.T], axis=1).astype(np.float32)
    return (columns - columns.mean(axis=0)) / columns.max()


def family_of(scores, design, permutations, seed, strata=None):
    """The family of all tests and its p-values."""
    units = units_of(ranks_of(scores), design)
    cuts = [honest(binned(column), design, 1024).cut for column in scores.T]
    orders = np.stack([cut.order for cut in cuts])
    levels = None if strata is None else strata[units.rows]
    largest = largest_cuts(units, orders, design.cut_sizes, design.classes, permutations, seed, levels)
    places = np.searchsorted(design.cut_sizes, [int(cut.upper.sum()) for cut in cuts])
    return largest.p(places)


def test_a_tie_to_shards_is_no_finding_of_the_family():
    """Half of each shard's scores are shifted with its class shares: inside shards labels say nothing."""
    rng = np.random.default_rng(0)
    shard = np.repeat([0, 1], 200)
    truth = np.repeat((rng.random(200) < np.repeat([0.8, 0.2], 100)).astype(int), 2)
    scores = np.repeat(rng.normal(size=200), 2) + 2.0 * shard
    design = Design(truth, 2, np.repeat(np.arange(200), 2))
    assert family_of(scores[:, None], design, 199, 0).max() <= 0.05
    assert family_of(scores[:, None], design, 199, 0, strata_of(design, shard)).min() > 0.05


@pytest.mark.parametrize(
    ("hits", "audits", "valid"), [((3,), 20, True), ((3, 9), 100, True), (range(0, 100, 9), 100, False)]
)
def test_a_run_is_invalid_when_permuted_labels_find_too_much(monkeypatch, hits, audits, valid):
    """One of 20 may; above 5 %, five times as many audits say."""
    numbers = iter(range(1000))
    monkeypatch.setattr(controls, "_findings_of_one", lambda *given: int(next(numbers) in hits))
    design = Design(np.arange(100) % 2, 2)
    none = Largest(observed=np.zeros((1, 1)), spread=np.ones((1, 1)), largest=np.ones(199))
    ranks = np.zeros((100, 1), np.float32)
    found = controls.negative_control(ranks, design, none, audits=20, alpha=0.05, delta=0.2, seed=0)
    assert (found.audits, found.valid) == (audits, valid)
    assert found.share_with_any == len([hit for hit in hits if hit < audits]) / audits


def test_the_largest_statistic_controls_the_family():
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 3, 300)
        design = Design(truth, 3)
        scores = rng.normal(size=(300, 30))
        hits += bool((family_of(scores, design, 99, seed) <= 0.05).any())
    assert hits <= 6  # 2 expected; P(more than 6) < 1 %


def test_halves_are_even_stable_and_know_the_shard():
    keys = [f"{n:06d}" for n in range(4000)]
    first = hash_order(np.zeros(4000, np.int32), keys) < 0.5
    assert 0.46 < first.mean() < 0.54
    assert (first == (hash_order(np.zeros(4000, np.int32), keys) < 0.5)).all()
    assert 0.4 < (first == (hash_order(np.ones(4000, np.int32), keys) < 0.5)).mean() < 0.6
