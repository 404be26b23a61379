"""A probe trained on a run's images: its fit, who trains for whom, and its answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clipaudit.cues.answerers.panel import Panel
from clipaudit.cues.answerers.rehearsed import rehearsed_answerer
from clipaudit.cues.findings.measured_reliance import column_experiments_of
from clipaudit.cues.measure.image_facts import image_facts
from clipaudit.cues.rehearsal.features import standardisation
from clipaudit.cues.rehearsal.folds import cross_folds, split_fold
from clipaudit.cues.rehearsal.rehearsal import rehearse
from clipaudit.cues.statistics.common_clusters import common_clusters
from clipaudit.cues.statistics.curvature import blocks_pay
from clipaudit.cues.statistics.softmax_fit import fit_softmax
from clipaudit.errors import UsageError
from clipaudit.run.rows import ALL, chosen_rows
from tests.audit_worlds import cue_world, write_world

# -- the fit -----------------------------------------------------------------------------------------------------------


def blobs(n, dims, classes, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    return rng.standard_normal((n, dims)) * np.arange(1, dims + 1) + rng.standard_normal((classes, dims))[truth], truth


def probabilities(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("dims", "weightings", "blocks"), [(12, 3, True), (100, 1, False)])
def test_a_fit_is_that_of_scikit_learn(classes, dims, weightings, blocks):
    from sklearn.linear_model import LogisticRegression

    embedding, truth = blobs(400, dims, classes, 0)
    # weights as a balanced column gives them: most images count little, a few much
    weights = np.random.default_rng(1).choice([0.1, 5.0], (weightings, 400), p=[0.9, 0.1])
    assert blocks_pay(weightings, 400, dims) == blocks
    features = standardisation(embedding, np.arange(400))(embedding)
    fits = fit_softmax(features, truth, classes, weights, 1 / (0.1 * weights.sum(axis=1)))
    plain = (embedding - embedding.mean(axis=0)) / embedding.std(axis=0)
    for place, row in enumerate(weights):
        # scikit-learn's model of two classes has one vector: the penalty of our two is half of its
        C = 0.1 * (2 if classes == 2 else 1)
        model = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(plain, truth, sample_weight=row)
        assert np.abs(probabilities(fits.logits(features)[place]) - model.predict_proba(plain)).max() < 0.01


def test_a_start_changes_the_way_and_not_the_end():
    features, truth = blobs(300, 6, 3, 2)
    features = standardisation(features, np.arange(300))(features)
    once = fit_softmax(features, truth, 3, np.ones((1, 300)), np.array([1e-2]))
    again = fit_softmax(features, truth, 3, np.ones((1, 300)), np.array([1e-2]), once)
    assert np.abs(once.logits(features) - again.logits(features)).max() < 1e-2
    with pytest.raises(ValueError, match="positive weight"):
        fit_softmax(features, truth, 3, np.zeros((1, 300)), np.array([1e-2]))


def test_flat_dimensions_are_left_out():
    embedding = np.random.default_rng(0).standard_normal((50, 8))
    embedding[:, 3] = 7.0
    features = standardisation(embedding, np.arange(50))(embedding)
    assert features.shape == (50, 7)
    assert np.isfinite(features).all()


# -- who trains for whom -----------------------------------------------------------------------------------------------


def test_folds_keep_near_duplicates_together():
    rng = np.random.default_rng(0)
    cluster, truth = rng.integers(0, 60, 200), rng.integers(0, 2, 200)
    folds = cross_folds(cluster, truth, cluster, 0)
    assert len(folds) == 5
    assert sorted(np.concatenate([fold.scored for fold in folds]).tolist()) == list(range(200))
    for fold in folds:
        assert not set(cluster[fold.train]) & set(cluster[fold.scored])
    (fold,) = split_fold(np.array([0, 1, 2, 3]), np.array([3, 9]))
    assert fold.train.tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="near duplicates of each other"):
        cross_folds(np.zeros(9, np.int64), np.zeros(9, np.int64), np.zeros(9, np.int64), 0)


def test_any_shared_code_makes_one_cluster():
    everything = np.ones(3, np.bool_)
    first = [(np.array([5, 5, 7]), everything), (np.array([0, 1, 2]), np.array([True, True, False]))]
    second = [(np.array([8, 9, 7]), np.array([True, True, False])), (np.array([1, 3, 3]), everything)]
    a, b = common_clusters([first, second])
    assert a[0] == a[1] == b[0]
    assert b[1] == b[2]
    assert len({a[0], a[2], b[1]}) == 3


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    world = cue_world(1200, 3, test_aligned=0.5)
    phash = np.random.default_rng(0).integers(0, 2**62, 1200)
    phash[1100] = phash[5]
    return write_world(replace(world, phash=phash), tmp_path_factory.mktemp("rehearsed") / "run")


def facts_of(run, *where):
    return image_facts(run, chosen_rows(run, where) if where else ALL, {0: 0, 1: 1}, ("attributes.place",))


def accuracies(answerer):
    place = answerer.scored.attributes["attributes.place"].codes
    right = answerer.logits.argmax(axis=1) == answerer.scored.truth
    return [float(right[place == answerer.scored.truth].mean()), float(right[place != answerer.scored.truth].mean())]


def test_a_split_trains_on_one_part_and_scores_the_other(run):
    train, test = facts_of(run, "split=train"), facts_of(run, "split=test")
    answerer = rehearsed_answerer(train, test, 2, out_of_fold=False)
    assert answerer.logits.shape == (len(test), 2)
    aligned, conflicting = accuracies(answerer)
    # it learned the cue, which pays in training: no more than a few points without it
    assert aligned > conflicting + 0.05
    # image 1100 has the same perceptual hash as image 5, which is not trained on
    (model,) = answerer.rehearsal.models
    assert 5 not in answerer.training.position[model.fold.train]
    assert len(model.fold.train) == len(train) - 1
    again = rehearsed_answerer(train, test, 2, out_of_fold=False)
    assert np.array_equal(answerer.logits, again.logits)


def test_out_of_fold_scores_every_image_and_learns_nothing_from_it(run):
    facts = facts_of(run)
    shuffled = replace(facts, truth=np.random.default_rng(1).permutation(facts.truth))
    answerer = rehearsed_answerer(shuffled, shuffled, 2, out_of_fold=True)
    right = answerer.logits.argmax(axis=1) == shuffled.truth
    # labels that nothing shows: whoever trained on what it scores would be better than chance
    assert abs(float(right.mean()) - 0.5) < 0.06
    some = facts.take(np.arange(0, 1200, 7))
    assert rehearsed_answerer(facts, some, 2, out_of_fold=True).logits.shape == (len(some), 2)


def test_images_that_are_scored_are_not_trained_on(run):
    everything, test = facts_of(run), facts_of(run, "split=test")
    answerer = rehearsed_answerer(everything, test, 2, out_of_fold=False)
    (model,) = answerer.rehearsal.models
    assert not set(answerer.training.position[model.fold.train]) & set(test.position)
    with pytest.raises(UsageError, match="the training part has no image"):
        rehearsed_answerer(test, test, 2, out_of_fold=False)
    with pytest.raises(UsageError, match="is of one class"):
        rehearsed_answerer(facts_of(run, "split=train", "label=1"), test, 2, out_of_fold=False)


def test_classes_without_a_training_image_are_never_answered():
    embedding, truth = blobs(200, 5, 2, 0)
    folds = split_fold(np.arange(150), np.arange(150, 200))
    rehearsal = rehearse(embedding[:150], truth[:150] * 2, embedding[150:], folds, 4)
    assert rehearsal.logits.shape == (50, 4)
    assert set(rehearsal.logits.argmax(axis=1)) <= {0, 2}
    assert np.isfinite(rehearsal.logits).all()


def test_weights_of_one_are_the_model_as_it_is(run):
    train, test = facts_of(run, "split=train"), facts_of(run, "split=test")
    answerer = rehearsed_answerer(train, test, 2, out_of_fold=False)
    again = answerer.rehearsal.retrained(np.ones((1, len(answerer.training))))[0]
    assert (again.argmax(axis=1) == answerer.logits.argmax(axis=1)).mean() > 0.995
    with pytest.raises(UsageError, match="weight above 0"):
        answerer.rehearsal.retrained(np.zeros((1, len(answerer.training))))


@pytest.mark.parametrize("kept", [1.0, 0.7, 0.3])
def test_many_trainings_at_one_time_are_those_of_one_at_a_time(run, kept):
    """Their searches share what was made for the model as it is, or have their own where few images are trained on."""
    train, test = facts_of(run, "split=train"), facts_of(run, "split=test")
    rehearsal = rehearsed_answerer(train, test, 2, out_of_fold=False).rehearsal
    rng = np.random.default_rng(0)
    weights = rng.choice([0.2, 5.0], (40, len(train)), p=[0.9, 0.1]) * (rng.random(len(train)) < kept)
    many = rehearsal.retrained(weights)
    alone = np.concatenate([rehearsal.retrained(row[None]) for row in weights])
    assert (many.argmax(axis=2) == alone.argmax(axis=2)).mean() > 0.98
    assert max(np.abs(probabilities(a) - probabilities(b)).mean() for a, b in zip(many, alone, strict=True)) < 0.02


def test_permuted_columns_move_by_sources_where_there_are_any(run):
    train, test = facts_of(run, "split=train"), facts_of(run, "split=test")
    by_images = rehearsed_answerer(train, test, 2, out_of_fold=False)
    # each class is one source: inside a class nothing may be exchanged
    by_sources = replace(by_images, training=replace(by_images.training, source=by_images.training.truth))

    def draws(answerer):
        panel = Panel(clip=None, rehearsed=answerer, not_rehearsed=None)
        return column_experiments_of(panel, ["attributes.place"], 1, 0)["attributes.place"].drawn

    assert (draws(by_sources) == draws(by_sources)[0]).all()
    assert (draws(by_images)[1:] != draws(by_images)[0]).any()
