"""Verdicts: every row of the table of docs/method.md 8 by answerer, their precedence, what is missing, words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipaudit.cues.findings.sentences import Words, action, sentence
from clipaudit.cues.findings.verdicts import (
    CellSize,
    headline,
    images_needed,
    labels_needed,
    needs,
    verdicts,
)
from clipaudit.cues.result.finding_parts import Verdict
from tests.audit_examples import Rules, around, association, case, counterfactual, reliance

NONE = association(0.0, above_delta=False, within_delta=True)
UNCLEAR = association(0.2, above_delta=False, within_delta=False)
RELIES = Rules(relies_on_it=True, fails_where=True)
FAILS = Rules(fails_where=True)
NEEDED = Rules(needed=True)
IMMUNE = Rules(does_not_hang_on_it=True)
WORDS = Words(classes=("waterbird",), cue="water: a lake", side="both", others=("landbird",), column="place")


def verdict(given):
    return headline(verdicts(given))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Verdict.CONFIRMED),
        ({"association": NONE}, Verdict.MODEL_ONLY),
        ({"association": UNCLEAR}, Verdict.INCONCLUSIVE),
        ({"reliance": (FAILS,)}, Verdict.FAILS_WHERE),
        ({"reliance": (FAILS,), "association": NONE}, Verdict.INCONCLUSIVE),
        ({"reliance": (replace(FAILS, answerer="given"),), "association": NONE}, Verdict.MODEL_ONLY),
        # what is trained on these images alone cannot have learned it elsewhere
        ({"reliance": (replace(RELIES, answerer="rehearsed"),), "association": NONE}, Verdict.INCONCLUSIVE),
        ({"reliance": (NEEDED,)}, Verdict.NEEDED),
        ({"reliance": (NEEDED,), "association": NONE}, Verdict.NEEDED),
        ({"reliance": (replace(RELIES, needed=True),)}, Verdict.CONFIRMED),
        ({"reliance": (IMMUNE,)}, Verdict.DATA_ONLY),
        ({"reliance": (IMMUNE,), "association": NONE}, Verdict.INCONCLUSIVE),
        ({"reliance": (IMMUNE, Rules(answerer="given"))}, Verdict.INCONCLUSIVE),
        ({"reliance": (IMMUNE, replace(RELIES, answerer="given"))}, Verdict.CONFIRMED),
        ({"reliance": (Rules(),)}, Verdict.INCONCLUSIVE),
        ({"reliance": ()}, Verdict.INCONCLUSIVE),
        ({"few_sources": True}, Verdict.INCONCLUSIVE),
        ({"stands_in_for": "attributes.camera"}, Verdict.INCONCLUSIVE),
        ({"kind": "text", "reliance": ()}, Verdict.CANDIDATE),
        ({"kind": "text", "association": UNCLEAR}, Verdict.INCONCLUSIVE),
        ({"kind": "column", "reliance": ()}, Verdict.TIED),
        ({"kind": "column", "reliance": (), "association": UNCLEAR}, Verdict.TIED),
        ({"classes_from": "caption"}, Verdict.OBSERVED),
        ({"classes_from": "clip"}, Verdict.OBSERVED),
        ({"classes_from": "caption", "kind": "text", "association": UNCLEAR}, Verdict.OBSERVED),
    ],
)
def test_verdicts(changes, expected):
    assert verdict(case(**changes)) is expected


def test_each_answerer_has_its_own_verdict_and_the_worst_is_the_headline():
    given = case(reliance=(IMMUNE, replace(FAILS, answerer="rehearsed"), replace(RELIES, answerer="given")))
    assert verdicts(given) == (Verdict.INCONCLUSIVE, Verdict.FAILS_WHERE, Verdict.CONFIRMED)
    assert verdict(given) is Verdict.CONFIRMED


def test_inconclusive_says_how_many_images():
    cells = (CellSize(what="waterbird without water", n=60), CellSize(what="waterbird with water", n=20.5))
    undecided = case(reliance=(Rules(),))
    missing = needs(undecided, Verdict.INCONCLUSIVE, "water", cells, "able", ("more stored heads (--layers)",))
    assert [(need.what, need.images) for need in missing] == [
        ("waterbird without water among the scored images", 40),
        ("waterbird with water among the scored images", 80),
        ("more stored heads (--layers)", None),
    ]
    wide = needs(case(association=association(0.25, above_delta=False)), Verdict.INCONCLUSIVE, "water", (), "able", ())
    assert wide[0].images is not None
    chance = needs(undecided, Verdict.INCONCLUSIVE, "water", (), "at chance", ())
    assert "a model that can tell the classes" in [need.what for need in chance]
    assert needs(case(), Verdict.CONFIRMED, "water", cells, "able", ()) == ()
    assert needs(case(kind="text"), Verdict.CANDIDATE, "grey", (), None, ())[0].images is None
    assert "eight sources" in needs(case(few_sources=True), Verdict.INCONCLUSIVE, "grey", (), None, ())[0].what
    for source in ("caption", "clip"):
        given = needs(case(classes_from=source), Verdict.OBSERVED, "grey", (), None, ())
        assert given[0].what.startswith("class labels:")


def test_images_needed():
    assert images_needed(around(0.1, 0.2, 100), 0.0) == 300
    assert images_needed(around(0.0, 0.2, 100), 0.0) is None
    assert images_needed(around(0.5, 0.1, 100), 0.0) == 1


def test_labels_needed():
    """As many as would find the association again; at least a gate's hundred, at most all there are."""
    tied = around(0.5, 0.1, 2000)
    strong, weak = association(), association(0.25)
    assert labels_needed(replace(strong, d=around(0.9, 0.01, 4000)), 1000, 4000) == 100
    assert labels_needed(replace(weak, d=around(0.25, 0.04, 4000)), 1000, 4000) == 961
    assert labels_needed(replace(weak, d=around(0.25, 0.04, 4000)), 900, 4000) == 893
    assert labels_needed(replace(weak, d=around(0.21, 0.04, 4000)), 900, 4000) == 900
    assert labels_needed(replace(weak, d=around(0.25, 0.04, 2000)), 2000, 4000) == 1281, (
        "D is read on half of the images"
    )
    assert labels_needed(replace(strong, d=tied), 40, 4000) == 40
    assert labels_needed(replace(strong, d=tied), 2000, 4000) == 223, "two equal classes, half of whose images are read"
    assert labels_needed(replace(strong, d=tied), 2000, 2000) == 2000, "no other images"
    cat = replace(WORDS, classes=("cat",), cue="")
    assert "Label 100 of the images that count as cat and as many others" in action(Verdict.OBSERVED, cat, 100)


@pytest.mark.parametrize(("source", "which"), [("caption", "whose captions name cat"), ("clip", "that CLIP calls cat")])
def test_what_is_observed_says_whose_word_the_class_is(source, which):
    said = sentence(replace(WORDS, classes=("cat",), cue="grey"), Verdict.OBSERVED, association(), source)
    assert said.startswith(f"Images {which} go with 'grey' (D = 0.90")
    assert "without labels nobody can say" in said


@pytest.mark.parametrize("kind", list(Verdict))
def test_words_name_class_cue_number_and_never_say_biased(kind):
    part = reliance()
    text = sentence(
        WORDS, kind, association(), "label", "clip", gap=part.gap, margin_d=part.margin_d, effect=counterfactual()
    )
    assert "waterbird" in text
    assert "water: a lake" in text
    assert "D = 0.90" in text
    advice = action(kind, WORDS, 12)
    assert "biased" not in (text + advice).lower()
    assert advice.endswith(".")
    assert text.endswith(".")


@pytest.mark.parametrize(("side", "where"), [
    ("has", "waterbird without water: a lake, or on landbird with water: a lake"),
    ("lacks", "waterbird with water: a lake, or on landbird without water: a lake"),
])  # fmt: skip
def test_both_sides_on_which_a_shortcut_fails_are_not_to_be_trusted(side, where):
    """A landbird on water is taken for a waterbird as surely as a waterbird on land is missed."""
    said = action(Verdict.CONFIRMED, replace(WORDS, side=side), 12)
    assert said.endswith(f"until then do not trust answers on {where}.")


@pytest.mark.parametrize(
    ("p", "words"), [(0.005, "p = 0.005)"), (0.0004, "p = 0.0004)"), (0.094, "p = 0.094, not significant)")]
)
def test_a_p_value_in_a_sentence_says_when_it_is_not_significant(p, words):
    effect = replace(counterfactual(), p=p)
    assert words in sentence(
        WORDS, Verdict.CONFIRMED, association(), "label", "clip", gap=reliance().gap, effect=effect
    )


def test_who_lacks_a_shared_cue_is_named():
    shared = Words(classes=("cow",), cue="snow", side="lacks", others=("car", "cat"))
    text = sentence(shared, Verdict.CANDIDATE, association(), "label")
    assert text.startswith("cow lacks 'snow', which car and cat share (D = 0.90")


@pytest.mark.parametrize("answerer", ["clip", "rehearsed", "given"])
@pytest.mark.parametrize("kind", [Verdict.CONFIRMED, Verdict.FAILS_WHERE, Verdict.NEEDED, Verdict.DATA_ONLY])
def test_the_answerer_is_named(answerer, kind):
    who = {"clip": "CLIP", "rehearsed": "a model trained on these images", "given": "your model"}[answerer]
    assert who in sentence(WORDS, kind, association(), "label", answerer, gap=reliance().gap)
