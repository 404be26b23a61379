"""Counterfactuals: nothing ablated, arms, which heads, matched controls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipaudit.cues.findings.counterfactual import (
    ALPHAS,
    CueGroups,
    arm,
    choose_heads,
    different_sets,
    margin_effects,
    other_sets,
)
from clipaudit.cues.measure.answers import answers, balanced_mean, sampled, shard_blocks
from clipaudit.cues.measure.image_facts import image_facts
from clipaudit.cues.statistics.groups import grouping
from clipaudit.run.rows import ALL
from tests.audit_worlds import CORE_HEADS, CUE_HEADS, LABELS, cue_world, write_world

CUE_LABELS = {LABELS[head] for head in CUE_HEADS}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    world = cue_world(1600, 0, aligned=0.5)
    run = write_world(world, tmp_path_factory.mktemp("run") / "run")
    facts = image_facts(run, ALL, {0: 0, 1: 1}, ("attributes.place",))
    return answers(facts, run.head_labels, world.classes)


@pytest.fixture(scope="module")
def cue(found):
    place = found.facts.attributes["attributes.place"]
    groups = grouping(found.truth, ("landbird", "waterbird"), "place", place.values, place.codes)
    return CueGroups(k=1, value=1, grouping=groups)


def scored(found, cue, heads, directions=None, name="whole heads"):
    rows = ~found.facts.discovery
    return arm(name, found, cue, heads, directions or {}, rows, ~rows, n_min=30, sets=200, seed=0)


def test_ablating_nothing_changes_nothing_bit_for_bit(found, cue):
    assert found.without([]) is found.base
    assert found.without(found.heads, alpha=0.0) is found.base
    assert found.without_directions({}) is found.base
    nothing = scored(found, cue, ())
    assert nothing.delta_conflict.value == 0
    assert nothing.delta_group_mean.value == 0
    assert nothing.delta_plain.value == 0
    assert all(test.fixed == test.broken == 0 and test.p == 1 for test in nothing.tests)
    assert len({point.plain_average.value for point in nothing.dose}) == 1
    assert nothing.control is None


def test_the_heads_of_the_cue_are_chosen(found, cue):
    effects = margin_effects(found, cue, found.facts.discovery)
    assert {found.heads[place] for place in np.argsort(-effects)[:2]} == CUE_LABELS
    assert set(choose_heads(found, cue, found.facts.discovery)) == CUE_LABELS


def test_heads_are_chosen_among_those_allowed(found, cue):
    allowed = ("L00H00", LABELS[CUE_HEADS[0]])
    assert choose_heads(found, cue, found.facts.discovery, allowed) == (LABELS[CUE_HEADS[0]],)


def test_an_arm_of_the_cue(found, cue):
    result = scored(found, cue, tuple(CUE_LABELS))
    assert result.delta_conflict.low > 0.2
    assert result.delta_group_mean.low > 0
    assert result.control.p < 0.05
    assert result.control.observed == pytest.approx(result.delta_conflict.value)
    assert sum(result.control.counts) == result.control.sets
    assert [point.alpha for point in result.dose] == list(ALPHAS)
    assert result.dose[-1].conflict.value - result.dose[0].conflict.value == pytest.approx(result.delta_conflict.value)
    conflict = [(test.class_name, test.value) for test in result.tests if test.conflict]
    assert conflict == [("landbird", "water"), ("waterbird", "land")]


def test_sets_that_are_all_there_are_are_not_called_matched(found, cue):
    """Beside one of 40 heads there are 39: among 200 wanted, none can be left out for being unlike it."""
    control = scored(found, cue, (LABELS[CUE_HEADS[0]],)).control
    assert (control.sets, control.different_sets) == (39, 40)
    assert control.matched.endswith("all that there are, alike in class margin variance or not")


def test_an_arm_of_the_core(found, cue):
    result = scored(found, cue, tuple(LABELS[head] for head in CORE_HEADS))
    assert result.delta_conflict.high < 0
    assert result.delta_group_mean.high < 0
    assert result.control.p > 0.5


def test_the_direction_alone_does_what_the_head_does_when_it_is_all_of_the_cue(found, cue):
    u = np.array([1.0, 0.0])  # the first of a head's two coordinates carries the cue
    whole = scored(found, cue, tuple(CUE_LABELS))
    only = scored(found, cue, tuple(CUE_LABELS), dict.fromkeys(CUE_LABELS, u), "direction only")
    assert only.delta_conflict.value == pytest.approx(whole.delta_conflict.value, abs=0.05)
    aside = scored(found, cue, tuple(CUE_LABELS), dict.fromkeys(CUE_LABELS, u[::-1]), "direction only")
    assert abs(aside.delta_conflict.value) < 0.05


def test_without_heads_is_the_ablated_embedding(found):
    heads = ("L00H05", "L01H10")
    expected = found.embedding_without(heads) @ found.classes.T
    assert np.allclose(found.without(heads), expected, atol=1e-4)


def test_means_are_of_the_discovery_half_with_equal_classes(found):
    values = found.values["L00H05"]
    expected = np.mean(
        [values[found.facts.discovery & (found.truth == k)].mean(axis=0, dtype=float) for k in (0, 1)], axis=0
    )
    assert np.allclose(found.means["L00H05"], expected)
    assert "discovery half" in found.mean_source
    assert np.allclose(balanced_mean(np.array([[1.0], [3.0]]), np.array([0, 1]), np.zeros(2, bool)), [2.0])


def test_how_many_sets_there_are():
    assert different_sets(LABELS, ("L00H05", "L01H09")) == 400
    assert different_sets(LABELS, ("L00H05", "L00H09")) == 780  # of both layers: one has 190
    assert different_sets(LABELS, ("L00H05",)) == 40


@given(data=st.data(), layers=st.integers(1, 4), per_layer=st.integers(1, 14))
def test_other_sets_are_as_large_and_never_the_chosen_one(data, layers, per_layer):
    heads = [f"L{layer:02d}H{head:02d}" for layer in range(layers) for head in range(per_layer)]
    chosen = data.draw(st.lists(st.sampled_from(heads), min_size=1, max_size=5, unique=True))
    sets, where = other_sets(heads, chosen, seed=0)
    mask = np.isin(heads, chosen)
    assert (sets.sum(axis=1) == len(chosen)).all()
    assert not (sets == mask).all(axis=1).any()
    assert len(np.unique(sets, axis=0)) == len(sets) <= different_sets(heads, chosen) - 1
    of_layers = sets.reshape(len(sets), layers, per_layer).sum(axis=2)
    assert "any layer" in where or (of_layers == mask.reshape(layers, per_layer).sum(axis=1)).all()


def test_one_head_of_an_ordinary_tower_can_be_told_from_others():
    """12 heads a layer: beside one there are 11 in its layer, with which no p-value would be below .05."""
    heads = [f"L{layer:02d}H{head:02d}" for layer in range(8, 12) for head in range(12)]
    assert len(other_sets(heads, ("L10H03",), seed=0)[0]) == 47
    assert len(other_sets(heads, ("L10H03", "L10H04", "L10H05"), seed=0)[0]) == 219


def test_a_sample_keeps_small_groups(found):
    facts = found.facts.take(np.concatenate([np.flatnonzero(found.truth == 0), np.flatnonzero(found.truth == 1)[:40]]))
    few = sampled(facts, 200, 0)
    assert len(few) <= 200
    assert (few.truth == 1).sum() == 40
    assert sampled(facts, 10_000, 0) is facts


def test_blocks_cover_the_run(found):
    blocks = list(shard_blocks(found.facts.run))
    assert blocks[0][1] == 0
    assert blocks[-1][2] == len(found.facts.run)
