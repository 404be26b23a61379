"""The statistics behind error slices: the score test, its choice, its figures, and the fit of a word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from clipaudit.cues.mistakes import trait_search
from clipaudit.cues.mistakes.error_slices import accepted_slices, figures_of, searched_classes, slice_tests
from clipaudit.cues.mistakes.trait_search import Traits, chosen_traits, null_design
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.design import Design

WIDTH = 16


def column(name: str, has) -> Attribute:
    return Attribute(column=name, values=("no", "yes"), codes=np.asarray(has, np.int64))


def only_columns(n: int, *columns: Attribute) -> Traits:
    """Traits without a text."""
    none = np.empty((0, WIDTH), np.float32)
    return Traits(texts=(), axes=none, embedding=np.zeros((n, WIDTH)), subspace=np.zeros((1, WIDTH)), columns=columns)


def halves(n: int, seed: int):
    return np.random.default_rng([seed, 1]).random(n) < 0.5


@pytest.fixture
def every_trait_is_tried(monkeypatch):
    """Also those that chance would make as strong."""
    monkeypatch.setattr(trait_search, "_CHANCE", np.inf)


def test_the_first_traits_statistic_is_that_of_a_two_by_two_table():
    rng = np.random.default_rng(0)
    has = rng.random(800) < 0.3
    wrong = rng.random(800) < np.where(has, 0.5, 0.1)
    (first, *_) = chosen_traits(only_columns(800, column("style", has)), wrong, np.ones(800), np.arange(800))
    assert (first.trait.name, first.trait.value) == ("style", "yes")
    p = wrong.mean()
    expected = (wrong - p)[has].sum() / np.sqrt(p * (1 - p) * has.sum() * (~has).sum() / 800)
    assert first.trait.z == pytest.approx(expected, rel=0.01)


def test_the_first_trait_is_no_surer_than_fishers_exact_test(every_trait_is_tried):
    rng = np.random.default_rng(1)
    has = rng.random(400) < 0.3
    wrong = rng.random(400) < 0.12
    design = Design(np.zeros(400, np.int64), 1, None, None, halves(400, 1))
    (test, *_) = slice_tests(only_columns(400, column("style", has)), wrong, design)
    rows = ~design.halves
    mine = has[rows] if test.chosen.trait.value == "yes" else ~has[rows]
    e = wrong[rows]
    table = [[(mine & e).sum(), (mine & ~e).sum()], [(~mine & e).sum(), (~mine & ~e).sum()]]
    assert test.p >= stats.fisher_exact(table, "greater").pvalue * (1 - 1e-9)


def test_a_trait_that_only_goes_with_the_one_before_it_says_nothing_more(every_trait_is_tried):
    small = total = 0
    for seed in range(40):
        rng = np.random.default_rng([2, seed])
        has = rng.random(1200) < 0.4
        # it agrees with the first trait in seven of ten images, and has no effect of its own
        follower = np.where(rng.random(1200) < 0.7, has, ~has)
        wrong = rng.random(1200) < np.where(has, 0.5, 0.1)
        design = Design(np.zeros(1200, np.int64), 1, None, None, halves(1200, seed))
        traits = only_columns(1200, column("style", has), column("tint", follower))
        after = [test for test in slice_tests(traits, wrong, design) if test.before]
        total += len(after)
        small += sum(test.p < 0.05 for test in after)
    assert total >= 30
    assert small <= 0.2 * total


def test_errors_that_come_by_source_are_counted_by_source(every_trait_is_tried):
    """Sources differ in how often they err and in how often they have the trait, which has nothing to do with it."""
    small = total = 0
    for seed in range(60):
        rng = np.random.default_rng([3, seed])
        source = np.arange(1600) % 32
        has = rng.random(1600) < rng.choice([0.1, 0.9], 32)[source]
        wrong = rng.random(1600) < rng.choice([0.05, 0.6], 32)[source]
        discovery = (rng.permutation(32) < 16)[source]
        design = Design(np.zeros(1600, np.int64), 1, None, source, discovery)
        tests = slice_tests(only_columns(1600, column("style", has)), wrong, design)
        total += len(tests)
        small += sum(test.p < 0.05 for test in tests)
    assert total >= 40
    assert small <= 0.12 * total  # as many images that are told to be independent: a quarter


def planted(seed: int = 4, n: int = 1600, sources: int | None = None):
    rng = np.random.default_rng([4, seed])
    has, other = rng.random(n) < 0.3, rng.random(n) < 0.5
    wrong = rng.random(n) < np.where(has, 0.5, 0.1)
    source = None if sources is None else np.arange(n) % sources
    half = halves(n, seed) if source is None else source % 2 == 0
    design = Design(np.zeros(n, np.int64), 1, None, source, half)
    return only_columns(n, column("style", has), column("tint", other)), wrong, design, has


def test_figures_of_a_slice_by_hand(every_trait_is_tried):
    traits, wrong, design, has = planted()
    tests = slice_tests(traits, wrong, design)
    (entry, *_) = accepted_slices([tests], [wrong], [design])[0]
    assert entry.test.chosen.trait.name == "style"
    rows = ~design.halves
    assert entry.share_of_errors == pytest.approx((wrong & has)[rows].sum() / wrong[rows].sum())
    # what is shown was chosen: the level follows from how many of the tests passed
    passed = len(accepted_slices([tests], [wrong], [design], margin=-1.0)[0])
    assert len(tests) > passed
    assert entry.difference.level == entry.wrong.level == pytest.approx(1 - 0.05 * passed / len(tests))
    # both shares are uncertain, and so is their ratio: more than by the slice's own limits alone
    lift = entry.lift
    assert lift.low < 0.99 * lift.value * entry.wrong.low / entry.wrong.value
    assert lift.high > 1.01 * lift.value * entry.wrong.high / entry.wrong.value


def test_a_lift_over_few_sources_is_no_surer_than_its_shares(every_trait_is_tried):
    """Trap 22: limits of both shares are t's with as many degrees as there are sources, and so are their ratio's."""
    traits, wrong, design, _ = planted(sources=20)
    entry = figures_of(slice_tests(traits, wrong, design)[0], wrong, design, 0.01, 0.95)
    # log p1 - log p0: the distances to the shares' own limits add in squares
    down = np.hypot(np.log(entry.wrong.value / entry.wrong.low), np.log(entry.others.high / entry.others.value))
    assert entry.lift.low == pytest.approx(entry.lift.value * np.exp(-down))


def test_a_difference_within_the_margin_is_no_slice():
    traits, wrong, design, _ = planted()
    tests = slice_tests(traits, wrong, design)
    (entry,) = accepted_slices([tests], [wrong], [design], margin=0.05)[0]
    assert accepted_slices([tests], [wrong], [design], margin=entry.difference.low + 1e-6)[0] == []
    assert len(accepted_slices([tests], [wrong], [design], margin=entry.difference.low - 1e-6)[0]) == 1


def test_a_class_needs_right_and_wrong_answers_on_both_halves():
    truth, discovery = np.arange(600) % 3, np.arange(600) // 3 % 2 == 0
    wrong = np.zeros(600, np.bool_)
    wrong[truth == 0] = np.arange(200) % 4 < 2  # half of them, on both halves
    wrong[(truth == 1) & discovery] = np.arange(100) < 50  # only on the half that chooses
    wrong[truth == 2] = True  # never right
    searched = searched_classes(wrong, Design(truth, 3, None, None, discovery))
    assert (searched.searched, searched.too_few) == ((0,), (1, 2))


def test_traits_that_chance_makes_as_strong_are_not_tested():
    """Each test made in vain costs the others power: noise is tried in one of ten classes at most."""
    tried = 0
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        columns = [column(f"c{place}", rng.random(600) < 0.4) for place in range(60)]
        wrong = rng.random(600) < 0.2
        tried += bool(chosen_traits(only_columns(600, *columns), wrong, np.ones(600), np.arange(600)))
    assert tried <= 13  # of 60; P(more at 10 %) = 1 %


def texts_world(seed: int, *, prompts: float = 0.0, n: int = 260):
    """Images of one class that fail where they look like the text of axis 5; `prompts`: what else sets them apart lies
    along what the class prompts differ in."""
    rng = np.random.default_rng([6, seed])
    drawn = rng.random(n) < 0.35
    x = rng.standard_normal((n, WIDTH))
    x[:, 5] += 1.5 * drawn
    x[:, 0] += prompts * drawn
    texts = tuple(f"axis {place}" for place in range(1, WIDTH))
    axes = np.eye(WIDTH, dtype=np.float32)[1:]
    traits = Traits(texts=texts, axes=axes, embedding=x, subspace=np.eye(1, WIDTH))
    return traits, rng.random(n) < np.where(drawn, 0.7, 0.1), drawn


@pytest.mark.parametrize("prompts", [0.0, 4.0])
def test_a_right_word_fits_whatever_noise_and_class_prompts_add(prompts):
    fits = []
    for seed in range(30):
        traits, wrong, _ = texts_world(seed, prompts=prompts)
        for chosen in chosen_traits(traits, wrong, np.ones(len(wrong)), np.arange(len(wrong)))[:1]:
            assert chosen.trait.name == "axis 5"
            fits.append(chosen.trait.fit)
    assert len(fits) >= 20
    assert np.median(fits) > 0.85


def test_a_text_in_the_null_is_there_as_a_cut_and_as_a_score():
    traits, wrong, _ = texts_world(1)
    (chosen, *_) = chosen_traits(traits, wrong, np.ones(len(wrong)), np.arange(len(wrong)))
    rows = np.arange(0, len(wrong), 2)
    null = null_design(traits, [chosen.trait], rows)
    scores = traits.embedding[rows, 5] - chosen.trait.cut
    assert np.allclose(null[:, :2], np.stack([np.ones(len(rows)), scores > 0], axis=1))
    assert np.allclose(null[:, 2], (scores - scores.mean()) / scores.std())


def test_what_is_left_of_a_trait_is_no_further_slice(every_trait_is_tried):
    traits, wrong, _ = texts_world(2, n=900)
    traits = replace(traits, columns=())
    chosen = chosen_traits(traits, wrong, np.ones(len(wrong)), np.arange(len(wrong)))
    assert [entry.trait.name for entry in chosen] == ["axis 5"], "texts of axes that nothing fails along fit by nothing"
