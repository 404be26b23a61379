"""The parts of reliance: clustered combinations, score intervals, rank differences, drawn columns, chosen heads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from clipaudit.cues.reliance.clustered import Cells
from clipaudit.cues.reliance.column_test import drawn_statistics, single_step, step_down
from clipaudit.cues.reliance.direction_removal import random_directions
from clipaudit.cues.reliance.drawn_columns import draw_places, drawn_columns, sorted_rows
from clipaudit.cues.reliance.head_choice import TriedHeads, choose_heads
from clipaudit.cues.reliance.head_parts import Removal, removal
from clipaudit.cues.reliance.images import RelianceOptions, ScoredImages, class_shares, cue_cells
from clipaudit.cues.reliance.label_noise import label_noise
from clipaudit.cues.reliance.matched_sets import LEAST_SETS, matched_sets
from clipaudit.cues.reliance.rank_difference import placements, rank_difference
from clipaudit.cues.reliance.score_intervals import cell_accuracies, score_combination
from clipaudit.cues.reliance.specific_effect import Fits
from clipaudit.cues.statistics.right import answered, right_answers
from clipaudit.statistics import Proportion
from tests.reliance_worlds import CUE_HEADS, answerer_of, column, images, tied


def cells_of(cell, count, cluster=None, sources=False):
    codes = np.arange(len(cell)) if cluster is None else np.asarray(cluster)
    weight = 1 / np.bincount(codes)[codes]
    return Cells(cell=np.asarray(cell), count=count, weight=weight, cluster=codes, sources=sources)


# -- intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (2,)])
def test_a_right_answer_is_above_all_others_and_a_tie_with_all_is_no_answer(shape):
    rows = np.array([[0.0, 2.0, 1.0], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0], [np.nan, 0.0, 1.0], [5.0, 4.0, -np.inf]])
    logits, truth = np.broadcast_to(rows, (*shape, *rows.shape)), np.array([1, 0, 0, 2, 0])
    expected = np.broadcast_to([True, False, False, False, True], (*shape, 5))
    assert (right_answers(logits, truth) == expected).all()
    given = np.broadcast_to([True, True, False, False, False], (*shape, 5))
    assert (answered(logits) == given).all()


def test_single_images_have_wilsons_interval():
    right = np.arange(40) < 31
    interval = cell_accuracies(cells_of(np.zeros(40, np.int64), 1), right)[0]
    assert (interval.low, interval.high) == pytest.approx(Proportion(right=31, total=40).interval())
    assert interval.value == 31 / 40


def test_a_difference_has_newcombes_interval():
    """Newcombe (1998), table II: 56/70 - 48/80, method 10: .0524 to .3339."""
    cell = np.repeat([0, 1], [70, 80])
    right = np.concatenate([np.arange(70) < 56, np.arange(80) < 48])
    interval = score_combination(cells_of(cell, 2), right, np.array([1.0, -1.0]))
    assert (interval.low, interval.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("copies", [1, 5, 20])
def test_score_intervals_cover_with_copies(copies):
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        cell = np.repeat(np.arange(4), 20 * copies)
        right = np.repeat(rng.random(80) < 0.7, copies)
        cells = cells_of(cell, 4, np.repeat(np.arange(80), copies))
        interval = score_combination(cells, right, np.array([0.5, -0.5, 0.5, -0.5]))
        hits.append(interval.low <= 0 <= interval.high)
    assert np.mean(hits) >= 0.92


def test_differences_of_images_of_one_source_are_surer_than_those_of_two():
    """Sources that shift both cells alike cancel in the difference."""
    rng = np.random.default_rng(1)
    source = np.repeat(np.arange(20), 40)
    level = rng.uniform(0.2, 0.9, 20)
    right = rng.random(800) < level[source]
    shared = cells_of(np.arange(800) % 2, 2, source, sources=True)
    apart = cells_of(source % 2, 2, source, sources=True)
    widths = []
    for cells in (shared, apart):
        interval = score_combination(cells, right, np.array([1.0, -1.0]))
        widths.append(interval.high - interval.low)
    assert widths[0] < widths[1] / 2


def test_the_jackknife_of_single_images_is_the_usual_variance():
    rng = np.random.default_rng(2)
    values = rng.standard_normal(50)
    spread = cells_of(np.zeros(50, np.int64), 1, sources=True).combine(values, np.array([1.0]), floored=False)
    assert spread.variance == pytest.approx(values.var(ddof=1) / 50)
    assert spread.freedom == 49


def test_a_cell_of_one_source_has_no_interval():
    cells = cells_of([0] * 10 + [1] * 10, 2, [0] * 10 + [1] * 10, sources=True)
    spread = cells.combine(np.arange(20) / 20, np.array([1.0, -1.0]))
    assert spread.estimate().low == -1.0
    assert spread.p == 1.0


def test_unchanged_answers_do_not_show_that_none_ever_changes():
    spread = cells_of([0] * 12 + [1] * 12, 2).combine(np.zeros(24), np.array([1.0, -1.0]))
    assert spread.value == 0
    assert spread.estimate().high > 0.1


# -- ranks -------------------------------------------------------------------------------------------------------------


def test_placements_average_to_the_auc():
    rng = np.random.default_rng(3)
    scores, upper = np.round(rng.standard_normal(60), 1), rng.random(60) < 0.4
    placed = placements(scores, upper, np.ones(60))
    auc = stats.mannwhitneyu(scores[upper], scores[~upper]).statistic / (upper.sum() * (~upper).sum())
    assert placed[upper].mean() == pytest.approx(auc)
    assert placed[~upper].mean() == pytest.approx(auc)


def test_rank_differences_cover():
    rng = np.random.default_rng(4)
    truth_d = 2 * stats.norm.cdf(0.5 / np.sqrt(2)) - 1
    hits = []
    for _ in range(300):
        truth = rng.integers(0, 2, 120)
        having = rng.integers(0, 2, 120)
        scores = rng.standard_normal(120) + 0.5 * having + 3 * truth
        comparison = cue_cells(images(rng, truth), column("x", having))
        interval = rank_difference(comparison, scores, comparison.shares).estimate()
        hits.append(interval.low <= truth_d <= interval.high)
    assert np.mean(hits) >= 0.92


def test_a_class_that_cannot_be_compared_leaves_the_strength_of_the_others_alone():
    """Its aligned images are all in one stratum and its conflicting ones in the other."""
    rng = np.random.default_rng(8)
    truth, having = np.repeat([0, 1], 100), np.tile([0, 1], 100)
    strata = np.where(truth == 1, having, rng.integers(0, 2, 200))
    comparison = cue_cells(images(rng, truth), column("x", having))
    scores = 10.0 * having + rng.standard_normal(200)
    found = rank_difference(comparison, scores, comparison.shares, strata)
    assert found.value == pytest.approx(float(comparison.shares[0]), abs=0.01)


def test_both_sides_of_a_cue_count_alike():
    pointed = np.array([True, False, False, False])
    assert class_shares(np.ones(4, np.bool_), pointed).tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert class_shares(~pointed, pointed).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


# -- drawn columns -----------------------------------------------------------------------------------------------------


def test_draws_keep_class_half_and_clusters():
    rng = np.random.default_rng(5)
    cluster = np.repeat(np.arange(60), 3)
    truth = rng.integers(0, 3, 60)[cluster]
    scored = images(rng, truth, 3, cluster)
    having = rng.integers(0, 2, 60)[cluster]
    for places in draw_places(scored, 20, 0):
        assert (truth[places] == truth).all()
        assert (scored.discovery[places] == scored.discovery).all()
        drawn = having[places].reshape(60, 3)
        assert (drawn == drawn[:, :1]).all()
        assert np.bincount(truth, having[places]).tolist() == np.bincount(truth, having).tolist()
    assert (draw_places(scored, 20, 0) == draw_places(scored, 20, 0)).all()


def test_drawn_gaps_are_those_of_the_cells():
    rng = np.random.default_rng(6)
    truth = rng.integers(0, 3, 300)
    scored = images(rng, truth, 3)
    cue = column("x", rng.integers(-1, 2, 300), 3)
    right = rng.random(300) < 0.7
    places = np.concatenate([np.arange(300)[None], draw_places(scored, 5, 1)])
    rows = sorted_rows(scored, np.ones(300, np.bool_))
    drawn = drawn_columns(scored, cue, places, rows)
    gaps, errors = drawn.difference() @ right[rows].astype(np.float32), drawn.errors(right[rows].astype(np.float32))
    for number, given in enumerate(places):
        comparison = cue_cells(scored, cue.take(given))
        spread = comparison.cells.combine(right, comparison.difference(comparison.shares), floored=False)
        assert gaps[number] == pytest.approx(spread.value, abs=1e-5)
        assert errors[number] == pytest.approx(np.sqrt(spread.variance), rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_permutations_that_are_the_true_order_again_count(seed):
    """Few images have few statistics. Sums in float32 differ in their last digits, and a third of the equal draws was
    taken for smaller: p = .070 in the place of .107."""
    rng = np.random.default_rng(seed)
    n, truth = 120, np.arange(120) % 2
    having = np.where(rng.random(n) < 0.85, truth == 0, truth != 0).astype(np.int64)
    right, scored, cue = rng.random(n) < 0.7, images(rng, truth), column("place", having)
    places = np.concatenate([np.arange(n)[None], draw_places(scored, 400, seed)])
    statistics = drawn_statistics(scored, cue, places, right, None).gap_t

    def right_answers_against(row):
        against = (having[row] == 1) != (truth == 0)
        return tuple(int((right & against & (truth == k)).sum()) for k in (0, 1))

    again = [right_answers_against(row) == right_answers_against(places[0]) for row in places[1:]]
    assert any(again)
    assert np.abs(statistics[1:][again] - statistics[0]).max() < 1e-5
    # different ones are further apart
    assert step_down(statistics[:, None])[0] == (1 + (statistics[1:] > statistics[0] - 1e-4).sum()) / 401


def test_step_down_is_single_step_for_the_largest_and_no_larger_for_others():
    rng = np.random.default_rng(7)
    statistics = rng.standard_normal((200, 4))
    statistics[0] = [5.0, 2.2, 2.0, -1.0]
    stepped, single = step_down(statistics), single_step(statistics)[0]
    assert stepped[0] == pytest.approx(single[0]) == pytest.approx(1 / 200)
    assert (stepped <= single + 1e-12).all()
    assert (np.diff(stepped) >= 0).all()


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(8)
    truth = rng.integers(0, 2, 600)
    place = tied(rng, truth, 0.5)
    return answerer_of(rng, truth, place), images(rng, truth), column("place", place)


def test_taking_nothing_out_changes_nothing_bit_for_bit(world):
    answerer, scored, _ = world
    part = removal(answerer.logits, answerer.parts, scored.truth, scored.discovery, scored.weight)
    nothing = np.zeros(24, np.bool_)
    assert part.left(nothing) is part.base
    assert part.left(~nothing, alpha=0.0) is part.base
    assert (part.without(nothing) == right_answers(answerer.logits, scored.truth)).all()
    assert (part.right == (answerer.logits.argmax(axis=1) == scored.truth)).all()


def test_taking_heads_out_is_mean_ablation(world):
    """Of the embedding: each head's coordinates at the mean of the half's class means."""
    answerer, scored, _ = world
    heads = [3, 8]
    mask = np.isin(np.arange(24), heads)
    half = scored.discovery
    logits = answerer.logits.astype(np.float64)
    for head in heads:
        values = answerer.parts.coordinates[head].astype(np.float64)
        mean = np.mean([values[half & (scored.truth == k)].mean(axis=0) for k in (0, 1)], axis=0)
        logits = logits - (values - mean) @ answerer.parts.toward[head]
    part = removal(answerer.logits, answerer.parts, scored.truth, half, scored.weight)
    assert (part.without(mask) == (logits.argmax(axis=1) == scored.truth)).mean() > 0.995
    assert (part.sets_without(mask[None])[0] == part.without(mask)).mean() > 0.995
    further = part.each_without(mask)
    for head in (0, 17):
        assert (further[head] == ((part.left(mask) - part.heads[head]).max(axis=0) < 0)).all()


def test_versions_of_a_column_choose_what_each_chooses_alone(world):
    answerer, scored, cue = world
    part = removal(answerer.logits, answerer.parts, scored.truth, scored.discovery, scored.weight)
    places = np.concatenate([np.arange(600)[None], draw_places(scored, 30, 2)])
    rows = sorted_rows(scored, scored.discovery)
    together = choose_heads(drawn_columns(scored, cue, places, rows), part.take(rows))
    for number, given in enumerate(places):
        alone = choose_heads(drawn_columns(scored, cue, given[None], rows), part.take(rows))
        assert (together[number] == alone[0]).all()
    assert set(np.flatnonzero(together[0])) == set(CUE_HEADS)
    assert together[1:].sum(axis=1).mean() < 1


def test_the_head_that_makes_a_constant_predictor_is_not_chosen():
    """Trap 26: a constant answer has no gap; the group mean on the choosing half falls by at most a point."""
    rng = np.random.default_rng(13)
    truth = rng.integers(0, 2, 400)
    scored, cue = images(rng, truth), column("x", tied(rng, truth, 0.5))
    right = rng.random(400) < np.where(cue.conflicting(truth) == 0, 0.95, 0.75)
    base = np.where(right, -1.0, 1.0).astype(np.float32)[None]
    constant = base - np.where(truth == 0, 1.0, -1.0).astype(np.float32)
    part = Removal(base=base, heads=np.stack([constant, np.zeros_like(base)]))
    rows = sorted_rows(scored, np.ones(400, np.bool_))
    drawn = drawn_columns(scored, cue, np.arange(400)[None], rows)
    assert choose_heads(drawn, part.take(rows), None)[0].tolist() == [True, False]
    assert not choose_heads(drawn, part.take(rows))[0].any()


def test_control_sets_hold_no_head_that_sees_the_cue():
    rng = np.random.default_rng(9)
    layers = np.repeat(np.arange(4), 6)
    chosen, seeing = np.zeros(24, np.bool_), np.zeros(24, np.bool_)
    chosen[[3, 17]] = seeing[[3, 17, 4]] = True
    spread = np.diag(rng.uniform(0.5, 2, 24))
    sets = matched_sets(chosen, layers, seeing, spread, 200, 0)
    assert len(sets.masks) >= LEAST_SETS
    assert not sets.masks[:, seeing].any()
    assert (sets.masks.sum(axis=1) == 2).all()
    assert len(np.unique(sets.masks, axis=0)) == len(sets.masks)
    single = np.arange(24) == 3
    assert len(matched_sets(single, layers, seeing, spread, 200, 0).masks) == 0  # 21 sets are no comparison


def test_random_directions_have_the_variance_and_do_not_see_the_cue():
    rng = np.random.default_rng(10)
    values = rng.standard_normal((500, 16)) * np.linspace(0.3, 3, 16)
    u = np.zeros(16)
    u[10] = 1.0
    directions = random_directions(values, u, 100, rng)
    covariance = np.cov(values, rowvar=False, bias=True)
    variance = np.einsum("sd,de,se->s", directions, covariance, directions)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1)
    assert np.abs(directions @ covariance @ u).max() < 1e-8
    assert 0.5 < np.median(variance) / (u @ covariance @ u) < 2


# -- label noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.06])
def test_the_rate_of_wrong_labels_is_found_where_they_alone_make_the_gap(rate):
    rng = np.random.default_rng(11)
    true_class = rng.integers(0, 2, 60_000)
    labels = np.where(rng.random(60_000) < rate, 1 - true_class, true_class)
    answers = np.where(rng.random(60_000) < 0.1, 1 - true_class, true_class)
    comparison = cue_cells(images(rng, labels), column("x", tied(rng, true_class, 0.9)))
    gap = score_combination(comparison.cells, answers == labels, comparison.difference(comparison.shares))
    noise = label_noise(comparison, answers, gap.value, gap.low, RelianceOptions())
    assert noise.rate == pytest.approx(rate, abs=0.004)
    assert noise.counts == (noise.rate_low > 0.03)


def test_no_rate_of_wrong_labels_makes_a_gap_on_balanced_rows():
    rng = np.random.default_rng(12)
    truth = rng.integers(0, 2, 4000)
    having = tied(rng, truth, 0.5)
    answers = np.where(rng.random(4000) < 0.3, 1 - having, truth)
    comparison = cue_cells(images(rng, truth), column("x", having))
    noise = label_noise(comparison, answers, 0.3, 0.25, RelianceOptions())
    assert noise.rate is None
    assert noise.counts


def test_a_rate_that_leaves_a_class_without_an_image_is_no_failure():
    """A class of just 22 % on either side of the cue, and 22 % of the labels wrong: one of the rates that are tried."""
    truth = np.tile(np.repeat([0, 1], [195, 55]), 2)
    having = np.repeat([0, 1], 250)
    rng = np.random.default_rng(13)
    for _ in range(5):  # rounding decides whether the true count is 0 or just not
        answers = np.where(rng.random(500) < 0.38, 1 - truth, truth)
        noise = label_noise(cue_cells(images(rng, truth), column("x", having)), answers, 0.3, 0.25, RelianceOptions())
        assert noise.counts


def test_weights_of_a_cluster_sum_to_that_of_one_image():
    scored = ScoredImages(
        truth=np.zeros(6, np.int64), classes=2, cluster=np.array([0, 0, 0, 1, 2, 2]), discovery=np.ones(6, np.bool_)
    )
    assert np.bincount(scored.cluster, scored.weight).tolist() == pytest.approx([1, 1, 1])


# -- fits --------------------------------------------------------------------------------------------------------------


def test_folds_keep_clusters_together_inside_halves_and_spread_classes():
    rng = np.random.default_rng(12)
    truth = np.repeat([0, 1, 2], [400, 120, 80])
    cluster = np.arange(600)
    cluster[:40] = cluster[40:80] = np.arange(40)  # copies
    scored = ScoredImages(truth=truth, classes=3, cluster=cluster, discovery=(rng.random(600) < 0.5)[cluster])
    fold = scored.folds(4)
    for code in range(40):
        assert len(set(fold[cluster == code])) == 1
    assert set(fold[scored.discovery]).isdisjoint(fold[~scored.discovery])
    for k in range(3):
        for half in (scored.discovery, ~scored.discovery):
            distinct = np.unique(cluster[(truth == k) & half], return_index=True)[1]
            sizes = np.bincount(fold[(truth == k) & half][distinct], minlength=4)
            assert np.ptp(sizes[sizes > 0]) <= 1


def test_every_image_is_answered_without_the_heads_that_others_chose(world):
    answerer, scored, _ = world
    part = removal(answerer.logits, answerer.parts, scored.truth, np.ones(600, np.bool_), scored.weight)
    fits = Fits(fold=scored.folds(4), count=4, halves=(scored.discovery, ~scored.discovery), removal=part)
    chosen = np.eye(24, dtype=np.bool_)[[2, 3, 8, 17]]
    rights = fits.without(chosen)
    for f in range(4):
        assert (rights == part.without(chosen[f]))[fits.fold == f].all()
        assert not (fits.choosing[f] & (fits.fold == f)).any()


def test_trials_of_some_images_are_those_of_all(world):
    answerer, scored, cue = world
    part = removal(answerer.logits, answerer.parts, scored.truth, scored.discovery, scored.weight)
    tried, rows = TriedHeads(part), sorted_rows(scored, scored.discovery)
    drawn = drawn_columns(scored, cue, np.arange(600)[None], rows)
    assert (choose_heads(drawn, tried.on(rows)) == choose_heads(drawn, part.take(rows))).all()
    mask = np.zeros(24, np.bool_)
    assert tried.each_without(mask) is tried.each_without(mask.copy())  # worked out once
