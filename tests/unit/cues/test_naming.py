"""Naming, directions, environments, predictability, the published schema."""

from __future__ import annotations

import jsonschema
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from clipaudit.cues.measure.directions import INDISTINGUISHABLE, class_subspace, text_directions
from clipaudit.cues.measure.naming import Namer, sides_contrast, value_contrast
from clipaudit.cues.result.finding_parts import strength_word
from clipaudit.cues.result.result import finding_id, json_schema
from clipaudit.cues.statistics.environments import environments_of, heterogeneity, shift_rows, stability
from clipaudit.cues.statistics.predictability import fitted, folds_of, predictability, skill
from clipaudit.heads.texts.pool import CONTEXT, CORE, TextPool
from tests.audit_examples import around, example_result

TEXTS = ("a lake", "a forest", "a duck on a lake", "a duck", "waves")
POOL = TextPool(
    texts=TEXTS,
    properties=("place", "place", "place", "animals", "place"),
    kinds=("context-like",) * 3 + ("core-like", "context-like"),
    source="test",
)
VECTORS = np.eye(8, dtype=np.float32)[[0, 1, 2, 3, 4]]
CLASSES = np.eye(8, dtype=np.float32)[[3, 5]]


def namer(**changes):
    return Namer(POOL, VECTORS, ("duck", "owl"), CLASSES, **changes)


def test_the_nearest_text_names_a_contrast():
    found = namer().words(np.eye(8)[0], 2)
    assert found[0].text == "a lake"
    assert found[0].cosine > 0.5
    assert namer().words(np.zeros(8)) == []


def test_texts_with_a_class_name_and_things_are_no_context():
    words = [word.text for word in namer().words(np.eye(8)[3] + np.eye(8)[2], 5, context_only=True)]
    assert "a duck" not in words
    assert "a duck on a lake" not in words
    assert namer().own(np.eye(8)[3], 0) > 0.5


def test_an_axis_is_relative_to_its_property_and_can_lose_the_classes():
    axis = namer().axis(0, class_free=False)
    assert axis[0] > 0 > axis[1]
    free = namer().axis(0, class_free=True)
    assert abs(free @ (CLASSES[0] - CLASSES[1])) < 1e-9


def test_user_texts_come_first_and_count_as_context():
    found = namer(user=("fog",), user_vectors=np.eye(8, dtype=np.float32)[[6]])
    assert found.words(np.eye(8)[6], 1, context_only=True)[0].property == "user"


def test_contrasts():
    embedding, truth = np.array([[1.0, 0], [1, 0], [0, 1], [0, 3]]), np.array([0, 0, 1, 2])
    assert sides_contrast(embedding, truth, np.array([True, False, False])).tolist() == [1.0, -2.0]
    rows = np.repeat(np.arange(2), 10)
    having = np.tile([True, False], 10)
    shifted = np.stack([having * 2.0 + rows, np.zeros(20)], axis=1)
    assert value_contrast(shifted, rows, having, np.ones(20, bool), 2).tolist() == [2.0, 0.0]


def test_the_class_subspace_is_all_of_few_classes_and_most_of_many():
    few = class_subspace(np.random.default_rng(0).normal(size=(3, 40)))
    assert few.shape == (2, 40)
    # many classes that differ along few axes, and hardly along the others
    vectors = np.random.default_rng(0).normal(size=(100, 40)) * np.repeat([1.0, 0.05], [6, 34])
    many = class_subspace(vectors)
    assert len(many) == 6
    assert np.allclose(many @ many.T, np.eye(6))
    centred = vectors - vectors.mean(axis=0)
    assert ((centred @ many.T) ** 2).sum() >= 0.95 * (centred**2).sum()
    assert class_subspace(np.ones((2, 40))).shape == (0, 40)


def test_a_direction_that_is_the_class_prompt_is_known():
    subspace = class_subspace(CLASSES)
    found = text_directions(
        "L00H00",
        np.eye(8)[:4],
        ["duck and no owl", "lake"],
        np.concatenate([(CLASSES[:1] - CLASSES[1:]) / np.sqrt(2), VECTORS[:1]]),
        subspace,
    )
    assert found[0].outside < INDISTINGUISHABLE
    assert found[1].outside == pytest.approx(1.0)


# -- environments ------------------------------------------------------------------------------------------------------


def test_environments_of_shards_and_columns():
    codes, names = environments_of(np.array([3, 3, 7], np.int32), None, None)
    assert codes.tolist() == [0, 0, 1]
    assert names == ("shard 3", "shard 7")
    many, titles = environments_of(np.arange(40, dtype=np.int32), None, None)
    assert len(titles) == 12
    assert many.max() == 11
    codes, names = environments_of(np.zeros(2, np.int32), ("a", "b"), np.array([0, 1]))
    assert names == ("a", "b")


def test_homogeneous_environments_have_the_expected_q():
    rng = np.random.default_rng(0)
    q = []
    for _ in range(100):
        truth, environment = rng.integers(0, 2, 1200), rng.integers(0, 4, 1200)
        found = stability(rng.normal(size=1200) + 0.7 * truth, truth, 1, 2, environment, list("abcd"), "shard")
        q.append(found.cochran_q)
    assert np.mean(q) == pytest.approx(3, abs=0.7)


def test_environments_that_differ():
    assert heterogeneity([around(0.5, 0.05, 500), around(-0.5, 0.05, 500)])[2] > 0.9
    truth = np.repeat([0, 1], 50)
    assert stability(truth.astype(float), truth, 1, 2, np.zeros(100, int), ["one"], "shard") is None


def test_a_shift_is_tested():
    rows = shift_rows(
        [
            ("cat", "snow", None, around(0.6, 0.05, 900), around(0.0, 0.05, 900)),
            ("cat", "grass", None, around(0.1, 0.05, 900), around(0.1, 0.05, 900)),
        ],
        0.05,
    )
    assert [row.shifted for row in rows] == [True, False]
    assert rows[0].difference.value == pytest.approx(0.6)


# -- predictability ----------------------------------------------------------------------------------------------------


def test_skill_of_noise_and_of_signal():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 900)
    noise = rng.normal(size=(900, 6))
    assert skill(noise, truth, 3, np.arange(900)).value == pytest.approx(0, abs=0.05)
    signal = noise + 4 * np.eye(3, 6)[truth]
    assert skill(signal, truth, 3, np.arange(900)).value > 0.8
    found = predictability("L00H00", signal, np.eye(3, 6), truth, 3, np.arange(900))
    assert found.skill_class_free.value < 0.05
    assert found.cue_share < 0.1


def test_near_duplicates_do_not_leak_between_folds():
    cluster = np.repeat(np.arange(50), 10)
    fold = folds_of(np.repeat(np.arange(50) % 2, 10), cluster)
    assert (fold.reshape(50, 10) == fold.reshape(50, 10)[:, :1]).all()
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        copies = np.repeat(rng.normal(size=(50, 20)), 10, axis=0)
        truth = np.repeat(rng.integers(0, 2, 50), 10)
        found.append(skill(copies, truth, 2, cluster).value)
    assert np.mean(found) < 0.06  # with copies in other folds nearly 1


@pytest.mark.parametrize("classes", [2, 3])
def test_every_fold_has_the_regression_of_scikit_learn(classes):
    """Each fold's images standardised by themselves; a coordinate that one fold never saw vary teaches it nothing."""
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, classes, 300)
    values = (rng.normal(size=(300, 4)) + np.eye(classes, 4)[truth]) @ rng.normal(size=(4, 4)) + 3
    train = np.stack([np.arange(300) % 3 != number for number in range(3)])
    values[:, 3] = np.where(train[0], 5.0, values[:, 3])
    fits, features = fitted(values, truth, train)
    for number, rows in enumerate(train):
        deviation = values[rows].std(axis=0)
        plain = (values - values[rows].mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)
        # scikit-learn's model of two classes has one vector: the penalty of our two is half of its
        model = LogisticRegression(C=2 if classes == 2 else 1, class_weight="balanced", tol=1e-8, max_iter=5000)
        model.fit(plain[rows], truth[rows])
        found = softmax(fits.logits(features)[number], axis=1)
        assert np.abs(found - model.predict_proba(plain)).max() < 1e-3


def test_a_class_of_one_cluster_is_no_class_to_the_folds_without_it():
    """What a fold never saw costs 2 log K, and changes nothing of what it says about the other classes."""
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.integers(0, 2, 400), np.full(20, 2)])
    values = rng.normal(size=(420, 5)) + np.array([3, 3, 30])[truth, None] * np.eye(3, 5)[truth]
    cluster = np.minimum(np.arange(420), 400)
    both = skill(values[:400], truth[:400], 2, cluster[:400]).value
    third = skill(values, truth, 3, cluster).value
    # of three classes with equal weight two are told as well as before, one not at all
    assert third == pytest.approx(1 - ((1 - both) * np.log(2) * 2 + 2 * np.log(3)) / 3 / np.log(3), abs=0.03)


# -- the result --------------------------------------------------------------------------------------------------------


def test_the_example_follows_the_schema():
    document = example_result().to_json()
    jsonschema.validate(document, json_schema())
    assert "rows" not in document


def test_ids_are_stable():
    assert finding_id("demo", "cat", "snow") == finding_id("demo", "cat", "snow")
    assert (
        len({finding_id("demo", "cat", "snow"), finding_id("demo", "car", "snow"), finding_id("x", "cat", "snow")}) == 3
    )


@pytest.mark.parametrize(("d", "word"), [(0.05, "negligible"), (-0.2, "small"), (0.4, "moderate"), (-0.6, "strong")])
def test_words_for_strength(d, word):
    assert strength_word(d) == word


def test_a_text_that_shares_only_what_all_of_its_property_share_fits_badly():
    """The nearest text is then no name: cosine cannot tell, fit can."""
    shared, axes = np.eye(8)[5], np.eye(8)[[0, 1, 2]]
    places = TextPool(
        texts=("on snow", "on sand", "on grass", "a dog"),
        properties=("place", "place", "place", "thing"),
        kinds=(CONTEXT, CONTEXT, CONTEXT, CORE),
        source="test",
    )
    vectors = np.concatenate([shared + 0.4 * axes, np.eye(8)[[7]]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = Namer(places, vectors, ("duck", "owl"), np.eye(8)[[3, 4]])
    nearest = names.words(shared, 1)[0]
    assert nearest.cosine > 0.5
    assert abs(nearest.fit) < 0.2
    named = names.words(axes[0], 1, by_fit=True)[0]
    assert named.text == "on snow"
    assert named.fit > 0.7


def test_a_fit_may_be_with_what_differs_inside_classes():
    """Of classes that differ by more than the cue its text says little, and inside them nearly all."""
    texts, axes = ("a red wall", "a blue wall", "a sketch"), np.eye(4)
    pool = TextPool(texts=texts, properties=("place", "place", "style"), kinds=("context-like",) * 3, source="t")
    namer = Namer(pool, axes[:3], ("cat", "dog"), np.stack([axes[3], axes[3] + 0.1 * axes[2]]))
    classes = axes[0] - axes[1] + 3 * axes[3]
    word = next(word for word in namer.words(classes) if word.text == "a red wall")
    inside = next(word for word in namer.words(classes, inside=axes[0] - axes[1]) if word.text == "a red wall")
    assert inside.cosine == word.cosine
    assert inside.fit > 0.95 > word.fit
