"""Answers without heads: nothing ablated, which heads carry a cue, samples and blocks of rows."""

from __future__ import annotations

import numpy as np
import pytest

from clipaudit.cues.answerers.panel import clip_of
from clipaudit.cues.answerers.reliance_of import reliance_of
from clipaudit.cues.findings.carriers import CueGroups, choose_heads, margin_effects
from clipaudit.cues.findings.reliance_result import effect_of
from clipaudit.cues.measure import vectors
from clipaudit.cues.measure.answers import answers, sampled
from clipaudit.cues.measure.image_facts import image_facts
from clipaudit.cues.measure.vectors import each_of_vectors, read_vectors, shard_blocks
from clipaudit.cues.reliance.images import CueColumn, ScoredImages
from clipaudit.cues.statistics.balance import balanced_mean
from clipaudit.cues.statistics.groups import grouping
from clipaudit.run.rows import ALL
from tests.audit_worlds import CUE_HEADS, LABELS, cue_world, write_world

CUE_LABELS = {LABELS[head] for head in CUE_HEADS}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    world = cue_world(1600, 0, aligned=0.5)
    run = write_world(world, tmp_path_factory.mktemp("run") / "run")
    facts = image_facts(run, ALL, {0: 0, 1: 1}, ("attributes.place",))
    return answers(facts, run.head_labels, world.classes)


def test_a_sample_of_the_scored_images_says_of_how_many(found):
    assert found.drawn_from(1600, "attributes.place") == ""
    words = found.drawn_from(48_000, "attributes.place")
    assert words == ", a sample of 48,000, classes and values of place as evenly as they allow"
    assert "place" not in found.drawn_from(48_000, None)


@pytest.fixture(scope="module")
def cue(found):
    place = found.facts.attributes["attributes.place"]
    groups = grouping(found.truth, ("landbird", "waterbird"), "place", place.values, place.codes)
    return CueGroups(pointed=np.array([False, True]), value=1, grouping=groups)


def test_ablating_nothing_changes_nothing_bit_for_bit(found):
    assert found.without([]) is found.base
    assert found.without(found.heads, alpha=0.0) is found.base


def test_the_heads_of_the_cue_are_chosen(found, cue):
    effects = margin_effects(found, cue, found.facts.discovery)
    assert {found.heads[place] for place in np.argsort(-effects)[:2]} == CUE_LABELS
    assert set(choose_heads(found, cue, found.facts.discovery)) == CUE_LABELS


def test_heads_are_chosen_among_those_allowed(found, cue):
    allowed = ("L00H00", LABELS[CUE_HEADS[0]])
    assert choose_heads(found, cue, found.facts.discovery, allowed) == (LABELS[CUE_HEADS[0]],)


def test_an_arm_of_the_cue(found):
    """The whole way from stored rows to the result's numbers: the cue's heads, a gap that they close, and a dose."""
    facts, two = found.facts, np.ones(2, np.bool_)
    images = ScoredImages(truth=found.truth, classes=2, cluster=facts.cluster, discovery=facts.discovery)
    place = facts.attributes["attributes.place"]
    column = CueColumn(name="place=water", having=place.codes, pointed=np.array([False, True]), tested=two)
    report = reliance_of([clip_of(found)], [column], images)
    measured = report.findings[0][0]
    assert measured.relies_on_it
    effect = effect_of(measured.effect, measured.effect_p)
    assert set(effect.heads) == CUE_LABELS
    assert effect.net_did.low > 0.2
    assert effect.arms[0].name == "whole heads"
    assert effect.doses[0].gap.value == pytest.approx(effect.gap_before.value)
    assert effect.doses[-1].gap.value == pytest.approx(effect.gap_after.value)
    assert effect.p < 0.05


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
    assert np.allclose(balanced_mean(np.array([[1.0], [3.0]]), np.array([0, 1]), np.zeros(2, bool)), [2.0])
    # of a class's copies each counts a part, and classes alike however many images they have
    copied = balanced_mean(np.array([[1.0], [1.0], [4.0], [9.0]]), np.array([0, 0, 0, 1]), np.ones(4, bool),
                           np.array([0.5, 0.5, 1.0, 1.0]))  # fmt: skip
    assert np.allclose(copied, [(2.5 + 9.0) / 2])


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


@pytest.mark.parametrize("limit", [1, 5_000, 2**26])
def test_columns_that_are_read_together_are_those_read_alone(found, monkeypatch, limit):
    monkeypatch.setattr(vectors, "_GROUP_BYTES", limit)
    run, position = found.facts.run, found.facts.position[::3]
    names = [*run.head_labels[:5], "embedding"]
    together = list(each_of_vectors(run, names, position))
    assert [name for name, _ in together] == names
    for name, values in together:
        assert np.array_equal(values, read_vectors(run, name, position))
