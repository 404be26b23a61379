"""Sparse concepts: the optimum of their objective, planted sums found again, and groups of a run told by them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.errors import UsageError
from clipaudit.heads.concepts import ConceptConfig, concepts_json, concepts_of
from clipaudit.heads.sparse import dictionary_of, fidelity, sparse_weights
from clipaudit.heads.texts.pool import TextPool
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows
from tests.make_runs import SPEC, make_basis, make_manifest, make_samples, make_vectors, write_attempt
from tests.make_texts import HashedTexts

DIM = 64


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def words(count, dim=DIM):
    pool = TextPool.of([f"thing {number}" for number in range(count)])
    return dictionary_of(pool, HashedTexts(dim).vectors(pool.texts))


@given(seed=st.integers(0, 2**32 - 1), penalty=st.floats(0.05, 0.9), count=st.integers(2, 120))
@settings(deadline=None, max_examples=40)
def test_weights_are_the_optimum(seed, penalty, count):
    """Karush, Kuhn, Tucker: a concept with a weight has the penalty as its product with the rest, all others less."""
    dictionary = words(count)
    images = unit(np.random.default_rng(seed).normal(size=(5, DIM)))
    weights = sparse_weights(images, np.zeros(DIM), dictionary, penalty).astype(np.float64)
    products = (images - weights @ dictionary.vectors) @ dictionary.vectors.T
    assert (weights >= 0).all()
    assert np.abs(products[weights > 1e-4] - penalty).max(initial=0) < 0.02
    assert products.max(initial=0) < penalty + 0.02


def test_planted_sums_are_found_and_nothing_else():
    dictionary = words(200, dim=512)
    rng = np.random.default_rng(3)
    chosen = np.stack([rng.choice(200, 3, replace=False) for _ in range(50)])
    mean = rng.normal(size=512)
    images = mean + unit(dictionary.vectors[chosen].sum(axis=1))
    weights = sparse_weights(images, mean, dictionary, 0.25)
    assert all(set(np.flatnonzero(row)) == set(places) for row, places in zip(weights, chosen, strict=True))
    assert fidelity(images, mean, dictionary, weights).min() > 0.97


def test_wordings_of_one_text_are_one_concept():
    pool = TextPool.of(["a photo of water", "water", "An image of water", "sand"])
    dictionary = dictionary_of(pool, HashedTexts(DIM).vectors(pool.texts))
    assert dictionary.texts == ("water", "sand")


def test_an_image_like_the_mean_has_no_concepts():
    dictionary = words(10)
    mean = unit(np.ones(DIM))
    assert not sparse_weights(mean[None], mean, dictionary, 0.1).any()
    assert fidelity(mean[None], mean, dictionary, np.zeros((1, 10), np.float32)) == [0]


POOL = TextPool.of(["a meadow", "a harbour", "a kitchen", "a street"], ["place"] * 4)


class Axes:
    """Each text of the pool an axis of its own; made-up words elsewhere."""

    def vectors(self, texts):
        places = [POOL.texts.index(text) if text in POOL.texts else 4 for text in texts]
        return np.eye(SPEC.embed_dim, dtype=np.float32)[places]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two shards of 60 images: of each label 0 to 2 the concept of that number, in water a street beside it."""
    directory = RunDirectory(str(tmp_path_factory.mktemp("concepts") / "run"))
    manifest = make_manifest(SPEC, 2)
    directory.create_or_resume(manifest)
    write_basis(directory, make_basis(SPEC), {"tower": "test"})
    for shard in manifest.shards:
        samples = make_samples(60)
        vectors, scalars = make_vectors(SPEC, len(samples), shard.id)
        rows = 0.02 * np.random.default_rng(shard.id).normal(size=(len(samples), SPEC.embed_dim))
        rows[np.arange(len(samples)), [sample.label for sample in samples]] += 1
        rows[:, 3] += [0.8 * (sample.attributes["place"] == "water") for sample in samples]
        vectors["embedding"] = unit(rows).astype(np.float32)
        assert directory.commit(write_attempt(directory, shard, SPEC, samples, vectors, scalars))
    return Run(directory.url)


def test_groups_are_told_by_what_they_are_made_of(run):
    by_label = concepts_of(run, POOL, Axes(), ConceptConfig(by="label"))
    assert {group.name: group.concepts[0].text for group in by_label.groups} == {
        "0": "a meadow",
        "1": "a harbour",
        "2": "a kitchen",
    }
    assert all(group.concepts[0].images.value > 0.95 for group in by_label.groups)
    assert all(group.concepts[0].elsewhere < 0.05 for group in by_label.groups)
    by_place = concepts_of(run, POOL, Axes(), ConceptConfig(by="place"))
    assert {group.name: group.concepts[0].text for group in by_place.groups}["water"] == "a street"
    assert sum(group.rows for group in by_place.groups) < len(run), "images without a value are in no group"


def test_all_images_are_one_group_without_anything_else_to_compare_with(run):
    (group,) = concepts_of(run, POOL, Axes(), ConceptConfig()).groups
    assert (group.name, group.rows, group.drawn) == ("all images", 120, 120)
    assert {concept.elsewhere for concept in group.concepts} == {None}


def test_as_many_images_are_drawn_of_each_group_and_the_same_for_one_seed(run):
    config = ConceptConfig(by="label", sample=75)
    first, again = (concepts_of(run, POOL, Axes(), config) for _ in range(2))
    assert [group.drawn for group in first.groups] == [25, 25, 25]
    assert concepts_json(first, 3) == concepts_json(again, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalty": 0.0}, "--penalty must be above 0 and below 1, not 0"),
        ({"penalty": 1.0}, "--penalty must be above 0 and below 1, not 1"),
        ({"penalty": float("nan")}, "--penalty must be above 0"),
        ({"sample": 0}, "--sample must be at least 1, not 0"),
    ],
)
def test_impossible_questions_name_the_option(change, message):
    with pytest.raises(UsageError, match=message):
        ConceptConfig(**change)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ConceptConfig(by="plaice"), "no column 'plaice'.*did you mean place"),
        (ConceptConfig(by="label", sample=2), "--by label has 3 values, more than --sample 2 images"),
        (ConceptConfig(rows=Rows(where=("label = 9",))), "label"),
    ],
)
def test_questions_that_a_run_cannot_answer_get_a_sentence(run, config, message):
    with pytest.raises(UsageError, match=message):
        concepts_of(run, POOL, Axes(), config)
