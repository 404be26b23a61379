"""Verdicts: every row of the table of docs/method.md 8, what is missing, and the words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipaudit.cues.findings.verdicts import action, images_needed, labels_needed, needs, sentence, verdict
from clipaudit.cues.result.finding_parts import Verdict
from tests.audit_examples import arm, around, association, case, random_control


def effect(conflict, mean, half=0.01, p=0.005):
    found = arm("whole heads", 0.3)
    return replace(
        found,
        delta_conflict=around(conflict, half, 1000),
        delta_group_mean=around(mean, 0.004, 4000),
        control=replace(random_control(), p=p),
    )


NONE = association(0.0, above_delta=False, within_delta=True)
UNCLEAR = association(0.2, above_delta=False, within_delta=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Verdict.CONFIRMED),
        ({"association": NONE}, Verdict.MODEL_ONLY),
        ({"association": UNCLEAR}, Verdict.INCONCLUSIVE),
        ({"arm": effect(0.0, 0.0, half=0.008)}, Verdict.DATA_ONLY),
        ({"arm": effect(0.0, 0.0, half=0.02)}, Verdict.INCONCLUSIVE),
        ({"arm": effect(-0.1, -0.1)}, Verdict.CORE),
        ({"arm": effect(-0.1, -0.1), "association": NONE}, Verdict.CORE),
        ({"arm": effect(0.3, -0.02)}, Verdict.INCONCLUSIVE),
        ({"arm": effect(0.3, -0.004)}, Verdict.CONFIRMED),
        ({"arm": effect(0.3, 0.1, p=0.2)}, Verdict.INCONCLUSIVE),
        ({"arm": None}, Verdict.INCONCLUSIVE),
        ({"own": 99}, Verdict.INCONCLUSIVE),
        ({"others": 20}, Verdict.INCONCLUSIVE),
        ({"attributes": False}, Verdict.CANDIDATE),
        ({"attributes": False, "arm": effect(-0.1, -0.1)}, Verdict.CANDIDATE),
        ({"attributes": False, "association": UNCLEAR}, Verdict.INCONCLUSIVE),
        ({"classes_from": "caption"}, Verdict.OBSERVED),
        ({"classes_from": "clip", "arm": effect(-0.1, -0.1)}, Verdict.OBSERVED),
        ({"classes_from": "caption", "attributes": False, "association": UNCLEAR}, Verdict.OBSERVED),
        ({"association": NONE, "arm": effect(0.0, 0.0, half=0.008)}, Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts(changes, expected):
    assert verdict(case(**changes)) is expected


def test_inconclusive_says_how_many_images():
    found = needs(case(own=60, others=20), "waterbird", "water")
    assert [(need.what, need.images) for need in found] == [
        ("waterbird without water among the scored images", 40),
        ("other classes with water among the scored images", 80),
    ]
    wide = needs(case(arm=effect(0.02, 0.0, half=0.04)), "waterbird", "water")
    assert wide[0].images == 3000
    assert needs(case(attributes=False), "cat", "grey")[0].images is None
    for source in ("caption", "clip"):
        assert needs(case(classes_from=source), "cat", "grey")[0].what.startswith("class labels:")


@pytest.mark.parametrize("sets", [4, 20])
def test_too_few_sets_of_heads_are_named(sets):
    """Of 20 sets, the chosen one among them, no p-value comes below 1 / 20."""
    few = replace(random_control(), p=0.2, different_sets=sets)
    found = needs(case(arm=replace(effect(0.3, 0.1), control=few)), "waterbird", "water")
    assert "more stored heads" in found[0].what


def test_images_needed():
    assert images_needed(around(0.1, 0.2, 100), 0.0) == 300
    assert images_needed(around(0.0, 0.2, 100), 0.0) is None
    assert images_needed(around(0.5, 0.1, 100), 0.0) == 1


def test_labels_needed():
    """As many as would find the association again; at least a gate's hundred, at most all there are."""
    tied = around(0.5, 0.1, 2000)
    strong, weak = association(), association(0.25)
    assert labels_needed(replace(strong, d=around(0.9, 0.01, 4000)), 1000) == 100
    assert labels_needed(replace(weak, d=around(0.25, 0.04, 4000)), 1000) == 961
    assert labels_needed(replace(weak, d=around(0.25, 0.04, 4000)), 900) == 893
    assert labels_needed(replace(weak, d=around(0.21, 0.04, 4000)), 900) == 900
    assert labels_needed(replace(strong, d=tied), 40) == 40
    assert labels_needed(replace(strong, d=tied), 2000) == 2000
    assert "Label 100 of the images that count as cat and as many others" in action(Verdict.OBSERVED, "cat", "", 100)


@pytest.mark.parametrize(("source", "which"), [("caption", "whose captions name cat"), ("clip", "that CLIP calls cat")])
def test_what_is_observed_says_whose_word_the_class_is(source, which):
    said = sentence(case(classes_from=source), Verdict.OBSERVED, "cat", "grey")
    assert said.startswith(f"Images {which} go with 'grey' (D = 0.90")
    assert "without labels nobody can say" in said


@pytest.mark.parametrize("kind", list(Verdict))
def test_words_name_class_cue_number_and_never_say_biased(kind):
    text = sentence(case(), kind, "waterbird", "water: a lake")
    assert "waterbird" in text
    assert "water: a lake" in text
    assert "D = 0.90" in text
    advice = action(kind, "waterbird", "water", 12)
    assert "biased" not in (text + advice).lower()
    assert advice.endswith(".")
    assert text.endswith(".")
