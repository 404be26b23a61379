"""Error slices on arrays: what is found, what is not, and which figures are said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clipaudit.cues.mistakes.error_slices import accepted_slices, searched_classes, slice_tests
from clipaudit.cues.mistakes.trait_search import MIN_EFFECTIVE, Traits
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.design import Design

WIDTH, CLASSES = 24, 3
SKETCH, SNOW = 4, 5
"""Axes of two texts' directions; 20 other texts are axes of noise."""


def world(n: int, seed: int, *, sketch: float = 0.2):
    """(traits, truth, sketch): images of three classes, of which a share look like a sketch."""
    rng = np.random.default_rng([seed, 70])
    truth = rng.integers(0, CLASSES, n)
    drawn = rng.random(n) < sketch
    x = rng.standard_normal((n, WIDTH))
    x[:, SKETCH] = 3.0 * drawn + 0.7 * rng.standard_normal(n)
    axes = np.eye(WIDTH, dtype=np.float32)
    texts = [f"axis {place}" for place in range(WIDTH)]
    texts[SKETCH], texts[SNOW] = "a sketch", "snow"
    # a second text for the same thing: its axis leans on the first one's
    axes[6, SKETCH] = 2.0
    axes[6] /= np.linalg.norm(axes[6])
    texts[6] = "a pencil drawing"
    # the first two axes are those of the class prompts
    traits = Traits(texts=tuple(texts[2:]), axes=axes[2:], embedding=x, subspace=np.eye(2, WIDTH))
    return traits, truth, drawn


def design_of(truth, cluster=None, source=None, seed: int = 0) -> Design:
    discovery = np.random.default_rng([seed, 71]).random(len(truth)) < 0.5
    if cluster is not None:
        discovery = (np.random.default_rng([seed, 71]).random(int(cluster.max()) + 1) < 0.5)[cluster]
    return Design(truth, CLASSES, cluster, source, discovery)


def errors(truth, chance, seed: int):
    return np.random.default_rng([seed, 72]).random(len(truth)) < chance


def test_a_planted_failure_is_found_named_and_said_with_figures_of_the_other_half():
    traits, truth, drawn = world(1500, 1)
    failing = drawn & (truth == 1)
    wrong = errors(truth, np.where(failing, 0.6, 0.08), 1)
    design = design_of(truth)
    (slices,) = accepted_slices([slice_tests(traits, wrong, design)], [wrong], [design])
    assert [(entry.test.k, entry.test.chosen.trait.name) for entry in slices] == [(1, "a sketch")]
    entry = slices[0]
    assert entry.test.chosen.trait.fit > 0.5
    half = ~design.halves & (truth == 1)
    inside = np.isin(np.arange(len(truth)), entry.test.having)
    assert entry.wrong.value == pytest.approx(wrong[half & inside].mean())
    assert entry.others.value == pytest.approx(wrong[half & ~inside].mean())
    assert entry.wrong.n == int((half & inside).sum()) == entry.test.inside
    assert entry.wrong.low < 0.6 < entry.wrong.high
    assert entry.others.low < 0.08 < entry.others.high
    assert entry.difference.low < 0.52 < entry.difference.high
    assert entry.lift.value == pytest.approx(entry.wrong.value / entry.others.value)
    assert entry.lift.low < entry.lift.value < entry.lift.high
    assert failing[entry.test.having[:10]].all(), "most of it first"


def test_several_texts_for_one_slice_are_one_slice():
    traits, truth, drawn = world(2400, 2)
    wrong = errors(truth, np.where(drawn & (truth == 0), 0.7, 0.05), 2)
    design = design_of(truth)
    (slices,) = accepted_slices([slice_tests(traits, wrong, design)], [wrong], [design])
    assert len(slices) == 1
    named = [trait.name for trait in (slices[0].test.chosen.trait, *slices[0].test.chosen.same)]
    assert set(named) == {"a sketch", "a pencil drawing"}


def test_two_failures_of_a_class_are_two_slices():
    traits, truth, drawn = world(4000, 3)
    snowy = traits.embedding[:, SNOW] > 1.0
    wrong = errors(truth, np.where(truth == 2, 0.05 + 0.4 * drawn + 0.4 * snowy, 0.05), 3)
    design = design_of(truth)
    (slices,) = accepted_slices([slice_tests(traits, wrong, design)], [wrong], [design])
    assert sorted(entry.test.chosen.trait.name for entry in slices) == ["a sketch", "snow"]


def test_errors_at_random_make_no_slice():
    reports = 0
    for seed in range(60):
        traits, truth, _ = world(900, seed)
        wrong = errors(truth, 0.05 + 0.25 * (seed % 2), seed)
        design = design_of(truth, seed=seed)
        reports += bool(accepted_slices([slice_tests(traits, wrong, design)], [wrong], [design])[0])
    assert reports <= 3  # 5 % of 60


def test_values_of_columns_and_numbers_are_traits_too():
    traits, truth, _ = world(2400, 4)
    rng = np.random.default_rng(4)
    codes, light = rng.integers(0, 3, len(truth)), rng.random(len(truth))
    light[:50] = np.nan
    place = Attribute(column="attributes.place", values=("city", "forest", "sea"), codes=codes)
    traits = replace(traits, columns=(place,), numbers=(("image.brightness", light),))
    design = design_of(truth)
    wrong = errors(truth, np.where((truth == 0) & (codes == 2), 0.5, 0.05), 4)
    (slices,) = accepted_slices([slice_tests(traits, wrong, design)], [wrong], [design])
    trait = slices[0].test.chosen.trait
    assert (trait.kind, trait.name, trait.value, trait.fit) == ("value", "attributes.place", "sea", None)
    dark = (truth == 1) & (light < 0.2)
    wrong = errors(truth, np.where(dark, 0.6, 0.05), 5)
    (slices,) = accepted_slices([slice_tests(traits, wrong, design)], [wrong], [design])
    trait = slices[0].test.chosen.trait
    assert (trait.kind, trait.name) == ("below", "image.brightness")
    assert trait.cut == pytest.approx(0.2, abs=0.05)
    assert np.isfinite(light[slices[0].test.having]).all()


def test_images_without_a_number_are_on_neither_side_of_its_cut():
    traits, truth, _ = world(2400, 11)
    rng = np.random.default_rng(11)
    # half of the images say how light they are, and those go wrong most often; nobody knows how heavy any is
    light, known = 5 + rng.random(len(truth)), rng.random(len(truth)) < 0.5
    numbers = (("image.light", np.where(known, light, np.nan)), ("image.weight", np.full(len(truth), np.nan)))
    traits = replace(traits, numbers=numbers)
    wrong = errors(truth, np.where((truth == 1) & known, 0.5, 0.05), 11)
    design = design_of(truth)
    (slices,) = accepted_slices([slice_tests(traits, wrong, design)], [wrong], [design])
    assert slices
    for entry in slices:
        trait = entry.test.chosen.trait
        assert trait.name == "image.light"
        assert 5 <= trait.cut <= 6, "a cut is a number that images have"
        assert known[entry.test.having].all()
    # a share of the images with a number lies above: four fifths at the widest
    assert slices[0].test.chosen.trait.cut == pytest.approx(5.2 if trait.kind == "above" else 5.8, abs=0.1)


def test_a_slice_has_at_least_thirty_independent_images():
    traits, truth, drawn = world(300, 5, sketch=0.15)
    failing = drawn & (truth == 1)
    assert failing.sum() < 2 * MIN_EFFECTIVE
    wrong = errors(truth, np.where(failing, 1.0, 0.1), 5)
    tests = slice_tests(traits, wrong, design_of(truth))
    assert all(min(test.inside, test.outside) >= MIN_EFFECTIVE for test in tests)
    # each image ten times is no more evidence
    copied = np.repeat(np.arange(len(truth)), 10)
    many = replace(traits, embedding=traits.embedding[copied])
    design = design_of(truth[copied], cluster=copied)
    tests = slice_tests(many, wrong[copied], design)
    assert all(min(test.inside, test.outside) >= MIN_EFFECTIVE for test in tests)
    assert all(test.inside < 100 for test in tests)


def test_copies_and_sources_make_nothing_surer():
    traits, truth, drawn = world(1500, 6)
    wrong = errors(truth, np.where(drawn & (truth == 1), 0.35, 0.1), 6)
    design = design_of(truth)
    single = next(test for test in slice_tests(traits, wrong, design) if test.chosen.trait.name == "a sketch")
    copied = np.repeat(np.arange(len(truth)), 5)
    twice = design_of(truth[copied], cluster=copied)
    twice = replace(twice, discovery=design.halves[copied])
    many = replace(traits, embedding=traits.embedding[copied])
    copies = next(t for t in slice_tests(many, wrong[copied], twice) if t.chosen.trait.name == "a sketch")
    # a cut may lie a little further, but five copies of an image are one
    assert copies.inside < 1.5 * single.inside
    assert copies.p > single.p / 10


def test_few_sources_and_few_errors_are_not_searched():
    traits, truth, _ = world(1500, 7)
    wrong = errors(truth, np.where(truth == 0, 0.005, 0.2), 7)
    design = design_of(truth)
    searched = searched_classes(wrong, design)
    assert searched.searched == (1, 2)
    assert searched.too_few == (0,)
    of_six = replace(design, source=np.arange(len(truth)) % 6)
    assert searched_classes(wrong, of_six).searched == ()
    assert slice_tests(traits, wrong, of_six) == []


def test_where_no_text_says_what_is_wrong_the_fit_is_low():
    traits, truth, _ = world(3000, 8)
    # what sets the images apart lies along twelve axes at once, and no text is more than one of them
    hidden = np.random.default_rng(8).random(len(truth)) < 0.25
    x = traits.embedding.copy()
    x[:, SKETCH] = np.random.default_rng(9).standard_normal(len(truth))
    x[:, 10:22] += 1.2 * hidden[:, None]
    traits = replace(traits, embedding=x)
    wrong = errors(truth, np.where(hidden, 0.6, 0.05), 8)
    design = design_of(truth)
    (slices,) = accepted_slices([slice_tests(traits, wrong, design)], [wrong], [design])
    assert slices
    assert all(entry.test.chosen.trait.fit < 0.5 for entry in slices if not entry.test.before)
