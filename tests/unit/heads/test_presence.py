"""Images with several labels: average precision and AUC of each label, before and after heads are replaced."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from clipaudit.errors import UsageError
from clipaudit.heads.ablation import replacement_means
from clipaudit.heads.calls import ablate, ablate_presence
from clipaudit.heads.experiment import Experiment, ExperimentConfig, ablation
from clipaudit.heads.named_columns import Choice
from clipaudit.heads.presence import presence_scores
from clipaudit.heads.presence_ablation import presence_ablation, presence_json
from clipaudit.heads.studies import study
from clipaudit.run.reader import Run
from clipaudit.statistics import average_precision
from tests.make_runs import SPEC, make_run
from tests.make_texts import HashedTexts

LISTS = (("dog", "cat"), (), ("dog",), ("cow", "dog"), ("cat",), ("dog",))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("presence")
    spec = replace(SPEC, label_kind="strings")
    return Run(make_run(str(folder / "run"), spec, label=lambda i: LISTS[i % len(LISTS)]))


@pytest.fixture
def ask(run):
    def make(of=run, **changes):
        return Experiment(of, HashedTexts(SPEC.embed_dim), ExperimentConfig(**{"templates": "single", **changes}))

    return make


def present_in(run, names):
    return np.array([[name in label for name in names] for label in run.labels()])


def test_an_ablation_ranks_images_by_plain_sums(run, ask):
    question = ask()
    result = presence_ablation(question, Choice(heads=("L01H01", "L00H00")), random=5)
    names = question.names.names
    assert names == ("cat", "cow", "dog")
    z = run.embedding(dtype=np.float64).values
    present = present_in(run, names)
    for score in (result.base, result.ablated):
        scores = z @ question.asked.classes.T
        expected = [average_precision(scores[:, c], present[:, c])[0] for c in range(len(names))]
        np.testing.assert_allclose(score.average_precision, expected, atol=1e-6)
        assert score.mean.value == pytest.approx(np.mean(expected), abs=1e-6)
        for name in ("L01H01", "L00H00"):
            z = z - (run.vectors(name, dtype=np.float64).values - result.means.values[name]) @ run.basis().Q(name)
    assert result.base.with_class.tolist() == present.sum(axis=0).tolist()
    assert result.change.value == pytest.approx(result.ablated.mean.value - result.base.mean.value)
    assert result.control is not None
    assert result.control.sets == 5
    plain = json.loads(json.dumps(presence_json(result)))
    assert [entry["class"] for entry in plain["base"]["classes"]] == list(names)


def test_nothing_replaced_changes_nothing(ask):
    result = presence_ablation(ask(), Choice())
    assert result.change.value == 0
    np.testing.assert_array_equal(result.base.average_precision, result.ablated.average_precision)


def test_a_label_that_tells_is_ranked_and_one_that_no_image_has_has_no_figure():
    rng = np.random.default_rng(0)
    present = np.stack([rng.random(200) < 0.3, np.zeros(200, bool), np.ones(200, bool)], axis=1)
    scores = rng.standard_normal((200, 3)).astype(np.float32)
    scores[:, 0] += 5 * present[:, 0]
    (told,), _ = presence_scores([scores], present)
    assert told.auc[0] > 0.99
    assert told.average_precision[0] > 0.98
    assert math.isnan(told.average_precision[1])
    assert math.isnan(told.auc[2])
    assert told.mean_auc == pytest.approx(told.auc[0])
    assert told.mean.low <= told.mean.value <= told.mean.high
    (guessed,), _ = presence_scores([rng.standard_normal((200, 3)).astype(np.float32)], present)
    assert guessed.near_chance
    assert not told.near_chance


def test_means_of_labels_with_equal_weight(run):
    means = replacement_means(run, ["L00H00"], balanced=True).values["L00H00"]
    values, labels = run.heads("L00H00").values.astype(float), run.labels()
    by_label = [values[[name in label for label in labels]].mean(axis=0) for name in ("dog", "cat", "cow")]
    np.testing.assert_allclose(means, np.mean(by_label, axis=0), atol=1e-6)


def test_what_needs_one_label_an_image_says_so(run, ask, tmp_path):
    with pytest.raises(UsageError, match=r"accuracy counts right answers, and images of the run .* several labels"):
        ablation(ask(), Choice(heads=("L00H00",)))
    with pytest.raises(UsageError, match="--study heads counts right answers"):
        study(ask(), "heads")
    with pytest.raises(UsageError, match=r"--attribute makes groups of classes .* have several classes"):
        presence_ablation(ask(attribute="place"), Choice())
    single = Run(make_run(str(tmp_path / "run"), replace(SPEC, label_kind="string"), label=lambda i: "ab"[i % 2]))
    with pytest.raises(UsageError, match="have one label each"):
        presence_ablation(ask(of=single), Choice())


def test_recognition_of_a_run_is_that_of_its_embeddings(run):
    import torch

    from clipaudit.localize.evaluation.multilabel import recognise_rows
    from clipaudit.run.classes import find_classes

    names = find_classes(None, [], run.label_counts())
    vectors = HashedTexts(SPEC.embed_dim).classes(names.names, ())
    result = recognise_rows(run, names, torch.from_numpy(vectors))
    scores, present = run.embedding().values.astype(np.float32) @ vectors.T, present_in(run, names.names)
    expected = {name: average_precision(scores[:, c], present[:, c])[0] for c, name in enumerate(names.names)}
    assert {name: figures["cosine"] for name, figures in result.by_class.items()} == pytest.approx(expected)
    assert result.images == len(run)
    assert result.occurrences == {name: run.label_counts()[name] for name in names.names}


def test_the_call_takes_what_ablate_takes_of_single_labels():
    calls = (inspect.signature(call).parameters for call in (ablate, ablate_presence))
    of_one, of_several = (dict(parameters) for parameters in calls)
    assert of_one.keys() - of_several.keys() == {"attribute", "min_group", "direction"}, (
        "as groups, a text taken out is of single labels"
    )
    assert of_several.keys() <= of_one.keys()
    assert Choice(components="mlp").components == ("mlp",)
