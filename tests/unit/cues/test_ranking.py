"""The AUC gap of one label of several: its value, its interval, what wrong labels make of it, and planted cues."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import norm

from clipaudit.cues.rehearsal.rehearsal import STRENGTHS, chosen_strength, presence_auc, right_count
from clipaudit.cues.reliance.images import RelianceOptions, ScoredImages, cue_cells
from clipaudit.cues.reliance.label_noise import ranking_noise
from clipaudit.cues.reliance.ranking import Rankings, balanced_answers, drawn_gaps
from clipaudit.statistics import auc
from tests.label_worlds import cue_of, label_world, measured, scored_label, tied


def test_the_gap_is_the_difference_of_two_aucs():
    comparison, scores = scored_label(np.random.default_rng(0), 400, label=1.5, cue=1.0)
    has, cue = comparison.images.truth == 0, comparison.cue.having == 1
    right_way = has == cue
    expected = [auc(scores[rows], has[rows]) for rows in (right_way, ~right_way)]
    rankings = Rankings(comparison=comparison)
    assert [rankings.part(scores, kind).value for kind in (0, 1)] == pytest.approx(expected)
    assert rankings.gap(scores).value == pytest.approx(expected[0] - expected[1])
    assert rankings.mean(scores).value == pytest.approx(np.mean(expected))


def test_a_cue_that_images_with_the_label_lack_points_right_where_it_is_missing():
    comparison, scores = scored_label(np.random.default_rng(1), 400, label=1.5, cue=1.0)
    other = cue_of("other", 1 - comparison.cue.having)
    turned = cue_cells(comparison.images, type(other)(name="other", having=1 - comparison.cue.having,
                       pointed=np.array([False, True]), tested=np.ones(2, np.bool_)))  # fmt: skip
    assert Rankings(comparison=turned).gap(scores) == Rankings(comparison=comparison).gap(scores)


@pytest.mark.parametrize(
    ("label", "cue", "share", "tie", "copies", "sources"),
    [
        pytest.param(1.5, 0.0, 0.5, 0.5, 1, 0, id="no gap"),
        pytest.param(1.5, 2.0, 0.2, 0.95, 1, 0, id="few images against the cue"),
        pytest.param(2.5, 2.5, 0.3, 0.9, 1, 0, id="near the ceiling"),
        pytest.param(1.5, 1.0, 0.25, 0.9, 5, 0, id="copies"),
        pytest.param(1.5, 1.0, 0.25, 0.8, 1, 10, id="ten sources"),
    ],
)
def test_the_interval_of_the_gap_covers(label, cue, share, tie, copies, sources):
    true = norm.cdf((label + cue) / 2**0.5) - norm.cdf((label - cue) / 2**0.5)
    inside = []
    for seed in range(150):
        rng = np.random.default_rng([11, seed])
        comparison, scores = scored_label(
            rng, 700, label=label, cue=cue, share=share, tie=tie, copies=copies, sources=sources
        )
        gap = Rankings(comparison=comparison).gap(scores)
        if gap.value is not None:
            inside.append(gap.low <= true <= gap.high)
    # 95 % promised, 93 % asked for: 150 draws of 94 % are below 89 % once in 200 times
    assert np.mean(inside) >= 0.89
    assert len(inside) > 100


def test_five_images_of_a_cell_are_too_few_to_say_anything():
    comparison, scores = scored_label(np.random.default_rng(2), 60, label=1.5, cue=1.0, share=0.1, tie=0.98)
    assert Rankings(comparison=comparison).gap(scores).value is None


def test_wrong_labels_alone_make_a_gap_of_the_size_that_is_told():
    """Trap 24: scores follow the true label, 4 % of labels are wrong, and wrong ones lie among the conflicting."""
    rng = np.random.default_rng(3)
    has, n = rng.random(40_000) < 0.5, 40_000
    cue = tied(rng, has, 0.9)
    scores = (rng.normal(size=n) + 2.5 * has).astype(np.float32)
    labelled = np.where(rng.random(n) < 0.04, ~has, has)
    images = ScoredImages(truth=np.where(labelled, 0, 1), classes=2, cluster=np.arange(n), discovery=np.zeros(n, bool))
    comparison = cue_cells(images, cue_of("cue", cue))
    rankings = Rankings(comparison=comparison)
    gap = rankings.gap(scores)
    assert gap.low > 0.05
    noise = ranking_noise(comparison, rankings.part(scores, 0).value, gap.value, gap.low, RelianceOptions())
    assert noise.rate == pytest.approx(0.04, abs=0.006)
    told = ranking_noise(comparison, rankings.part(scores, 0).value, gap.value, gap.low,
                         RelianceOptions(label_error=0.05))  # fmt: skip
    assert not told.counts


def test_permuted_columns_have_no_gap():
    comparison, scores = scored_label(np.random.default_rng(4), 500, label=1.5, cue=2.0, tie=0.8)
    n = len(scores)
    rng = np.random.default_rng(5)
    by_side = [np.flatnonzero(comparison.images.truth == k) for k in (0, 1)]
    places = np.tile(np.arange(n), (100, 1))
    for row in places[1:]:
        for rows in by_side:
            row[rows] = rng.permutation(rows)
    t = drawn_gaps(comparison.images, comparison.cue, scores, places)
    assert t[0] > np.abs(t[1:]).max()
    assert np.abs(t[1:].mean()) < 0.4


def test_as_many_of_either_side_are_right_at_the_cut():
    rng = np.random.default_rng(6)
    has = rng.random(2000) < 0.1
    right = balanced_answers(rng.normal(size=2000) + 2 * has, has, np.ones(2000))
    assert right[has].mean() == pytest.approx(right[~has].mean(), abs=0.01)


def test_the_penalty_of_a_rare_label_is_chosen_by_its_ranking():
    """Of a label that 3 % of images have accuracy says nothing: "never" is 97 % right with every penalty."""
    rng = np.random.default_rng(7)
    truth = (rng.random(3000) > 0.03).astype(np.int64)
    features = rng.standard_normal((3000, 30)).astype(np.float32) * np.linspace(5, 0.2, 30, dtype=np.float32)
    features[truth == 0, 25] += 0.4
    by_accuracy = chosen_strength(features, truth, 2, 3000, [0], right_count)
    by_auc = chosen_strength(features, truth, 2, 3000, [0], presence_auc)
    assert by_accuracy == STRENGTHS[0]
    assert by_auc > by_accuracy


# -- planted cues ------------------------------------------------------------------------------------------------------

WORLDS = 20


def word(reliance):
    if reliance.relies_on_it:
        return "confirmed"
    return "fails where" if reliance.fails_where else "acquitted" if reliance.does_not_hang_on_it else "open"


@pytest.fixture(scope="module")
def worlds():
    """A label tied to a cue at 95 %, a column drawn from the label alone (90 %), and one that goes with nothing."""
    found = []
    for seed in range(WORLDS):
        rng = np.random.default_rng([12, seed])
        world = label_world(rng, 1000)
        ghost = tied(rng, world.labels[:, 0], np.where(world.train, 0.9, 0.5))
        columns = {"cue": world.cue, "ghost": ghost, "coin": rng.integers(0, 2, 1000)}
        found.append({part.cue: part for part in measured(world, columns)})
    return found


def test_a_cue_that_a_label_is_tied_to_is_confirmed(worlds):
    counts = Counter(word(world["cue"]) for world in worlds)
    assert counts["confirmed"] >= 0.95 * WORLDS, counts


def test_columns_that_no_pixel_shows_or_that_go_with_nothing_are_not_believed(worlds):
    counts = Counter(word(world[name]) for world in worlds for name in ("ghost", "coin"))
    assert counts["confirmed"] + counts["fails where"] <= 0.05 * 2 * WORLDS, counts


def test_weights_rank_better_than_the_probe_as_it_is(worlds):
    effects = [world["cue"].training for world in worlds]
    assert all(effect.group_mean_change.low > 0 and effect.net_fall.low > 0 for effect in effects)
    assert all(effect.gap_after.value < effect.gap_before.value for effect in effects)


def test_of_many_labels_the_p_values_are_multiplied():
    rng = np.random.default_rng(13)
    world = label_world(rng, 800)
    alone, of_three = (measured(world, {"cue": world.cue}, labels=labels)[0] for labels in (1, 3))
    assert alone.effect_p == pytest.approx(1 / 100)
    assert of_three.effect_p == pytest.approx(3 / 100)


def test_without_a_split_each_fifth_is_scored_by_the_others():
    rng = np.random.default_rng(14)
    world = label_world(rng, 1200, scored_tie=0.95)
    (part,) = measured(world, {"cue": world.cue}, split=False)
    assert word(part) == "confirmed"
    assert part.gap.ranking.aligned.value > 0.9 > 0.5 > part.gap.ranking.conflicting.value
