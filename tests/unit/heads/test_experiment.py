"""Zero-shot experiments: what is replaced, by which means, against plain sums; controls; mistakes in one sentence."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from clipaudit.errors import UsageError
from clipaudit.heads.ablation import mean_ablation, replacement_means
from clipaudit.heads.experiment import Experiment, ExperimentConfig, ablation, chosen_columns
from clipaudit.heads.experiment_json import ablation_json
from clipaudit.heads.named_columns import Choice
from clipaudit.heads.plots import ablation_figure
from clipaudit.heads.roles import PropertyShare, Role
from clipaudit.run.derived import finite
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec
from tests.make_runs import SPEC, make_run
from tests.make_texts import HashedTexts, make_pool, write_pool


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(make_run(str(tmp_path_factory.mktemp("experiment") / "run")))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("files")
    (directory / "classes.txt").write_text("cat\ndog\ncow\n")
    return {"classes": str(directory / "classes.txt"), "texts": write_pool(directory / "pool.tsv", make_pool(60))}


@pytest.fixture
def ask(run, files):
    """`ask(where=..., means=...)`: a question to the run."""

    def make(run=run, encoder=None, **changes):
        return Experiment(
            run, encoder or HashedTexts(SPEC.embed_dim), ExperimentConfig(**{**files, "templates": "single", **changes})
        )

    return make


def plain_answers(run, question, columns, means):
    """Predicted classes of all rows, from whole arrays in the joint space."""
    z = run.embedding(dtype=np.float64).values
    for name in columns:
        away = run.vectors(name, dtype=np.float64).values - means.values[name]
        z = z - (away @ run.basis().Q(name).astype(np.float64) if name in run.head_labels else away)
    return (z @ question.asked.classes.T.astype(np.float64)).argmax(axis=1)


def test_an_ablation_is_the_plain_sum(run, ask):
    question = ask(attribute="place")
    found = ablation(question, Choice(heads=("L01H01", "L00H00"), mlps="all"))
    columns = ("L01H01", "L00H00", "mlp_L01")
    assert found.columns == columns
    labels = run.labels().astype(int)
    for score, replaced in ((found.base, ()), (found.ablated, columns)):
        right = plain_answers(run, question, replaced, found.means) == labels
        assert score.accuracy.right == right.sum()
        assert [of.right for of in score.by_class] == [right[labels == c].sum() for c in range(3)]
    places = [row["place"] for row in run.heads("L00H00", ["attributes"]).columns["attributes"]]
    assert {group for group, _ in found.base.groups.items()} == {
        (label, place) for label, place in zip(labels.tolist(), places, strict=True) if place is not None
    }


def test_nothing_replaced_changes_nothing(ask):
    found = ablation(ask(attribute="place"), Choice())
    assert found.columns == ()
    assert (found.base.confusion == found.ablated.confusion).all()
    assert found.base.groups == found.ablated.groups


def test_full_rank_reconstruction_changes_no_answer_and_none_is_mean_ablation(ask):
    question, heads = ask(), Choice(heads=("L00H01", "L01H00"))
    full = ablation(question, heads, reconstruct=60)
    assert (full.base.confusion == full.ablated.confusion).all()
    nothing, mean = ablation(question, heads, reconstruct=0), ablation(question, heads)
    assert (nothing.ablated.confusion == mean.ablated.confusion).all()
    partly = ablation(question, heads, reconstruct=1)
    assert partly.reconstructed == 1
    assert partly.columns == heads.heads


def test_only_the_rows_asked_for_are_classified(run, ask):
    found = ablation(ask(where=("place=water", "label=1")), Choice(heads=("L00H00",)))
    table = run.table(["status", "label", "attributes"]).to_pylist()
    wanted = [row for row in table if row["status"] == "ok" and row["label"] == 1]
    wanted = [row for row in wanted if row["attributes"]["place"] == "water"]
    assert found.base.accuracy.total == len(wanted)
    assert [of.total for of in found.base.by_class] == [0, len(wanted), 0]


def test_where_means_come_from(run, ask, tmp_path):
    columns = ["L00H00", "mlp_L01"]
    other = make_run(str(tmp_path / "other"), shards=1)
    cases = [
        (ask(), "run", replacement_means(run, columns)),
        (ask(means="balanced"), "equal weight", replacement_means(run, columns, balanced=True)),
        (ask(means=other.url), other.url, replacement_means(Run(other), columns)),
    ]
    for question, word, expected in cases:
        found = question.means(columns)
        assert word in found.source
        assert all(np.allclose(found.values[name], expected.values[name]) for name in columns)
    by_fit, by_where = ask(fit=("place=land",)).means(columns), ask(means="place=land").means(columns)
    assert by_fit.source == by_where.source
    assert by_fit.source.endswith("attributes.place = land")
    assert not np.allclose(by_fit.values["L00H00"], cases[0][2].values["L00H00"])
    mean_ablation(run, columns, by_fit)


def share(name, kind, explained, p=0.01):
    return PropertyShare(name=name, kind=kind, explained=explained, others=0.1, p=p)


def role(head, name, kind, confidence=0.9, p=0.01):
    shares = (share(name, kind, 0.5, p), share("shape", "core-like", 0.2))
    return Role(head=head, confidence=confidence, kind_confidence=0.9, properties=shares)


ROLES = [
    role("L00H00", "colour", "context-like"),
    role("L00H01", "animal", "core-like"),
    role("L01H00", "colour", "context-like", confidence=0.3),
    role("L01H01", "colour", "context-like", p=0.4),
]


@pytest.mark.parametrize(
    ("choice", "columns"),
    [
        (Choice(heads=("L01H01", "L00H00")), ["L01H01", "L00H00"]),
        (Choice(layers="1"), ["L01H00", "L01H01"]),
        (Choice(layers="0-1", heads=("L01H00",)), ["L01H00", "L00H00", "L00H01", "L01H01"]),
        (Choice(mlps="all"), ["mlp_L01"]),
        (Choice(mlps="1,"), ["mlp_L01"]),
        (Choice(roles=("colour",)), ["L00H00"]),
        (Choice(roles=("context-like",)), ["L00H00", "L01H00"]),
        (Choice(roles=("animal", "colour"), heads=("L00H01",)), ["L00H01", "L00H00"]),
        (Choice(), []),
    ],
)
def test_choices(ask, choice, columns):
    assert list(chosen_columns(ask(), choice, ROLES)) == columns


def test_heads_chosen_by_role_say_so(ask):
    question = ask()
    wanted = next((role.label for role in question.roles() if role.label), None)
    if wanted is None:
        with pytest.raises(UsageError, match="no head has the role colour; roles found: none"):
            ablation(question, Choice(roles=("colour",)))
        return
    found = ablation(question, Choice(roles=(wanted,)))
    assert {role.label for role in found.roles.values()} == {wanted}
    assert set(found.roles) == set(found.columns)


def test_the_control_draws_as_many_heads_of_the_same_layers(ask):
    found = ablation(ask(attribute="place", min_group=3), Choice(heads=("L01H00",)), random=40)
    assert found.accuracy_control.sets == found.worst_control.sets == 40
    assert found.accuracy_control.observed == found.ablated.accuracy.value
    # two heads in the layer: a random set is the chosen head or the other one
    other = ablation(ask(), Choice(heads=("L01H01",)))
    values = {found.ablated.accuracy.value, other.ablated.accuracy.value}
    assert min(values) <= found.accuracy_control.mean <= max(values)
    again = ablation(ask(attribute="place", min_group=3), Choice(heads=("L01H00",)), random=40)
    assert again.accuracy_control == found.accuracy_control


def test_a_texts_direction_alone_is_taken_out_of_the_heads(run, ask):
    question, heads = ask(attribute="place"), ("L01H01", "L00H00")
    result = ablation(question, Choice(heads=heads), direction="a photo of the sea", random=5)
    t = question.texts.vectors(["a photo of the sea"])[0].astype(np.float64)
    z = run.embedding(dtype=np.float64).values
    for name in heads:
        u = run.basis().Q(name).astype(np.float64) @ t
        u /= np.linalg.norm(u)
        along = (run.vectors(name, dtype=np.float64).values - result.means.values[name]) @ u
        z = z - np.outer(along, u @ run.basis().Q(name))
    truth = np.array([question.asked.class_of[label] for label in run.labels()])
    right = (z @ question.asked.classes.T.astype(np.float64)).argmax(axis=1) == truth
    assert result.ablated.accuracy.right == right.sum()
    whole = ablation(question, Choice(heads=heads))
    assert (result.ablated.confusion != whole.ablated.confusion).any(), "less is taken than the whole heads"
    assert ablation_json(result)["direction"] == "a photo of the sea"
    assert result.accuracy_control is not None


def test_json_and_figure(ask):
    for attribute in ("place", None):
        found = ablation(ask(attribute=attribute), Choice(heads=("L01H00",)), random=5)
        plain = json.loads(json.dumps(finite(ablation_json(found)), allow_nan=False))
        assert plain["columns"] == ["L01H00"]
        assert plain["classes"]["names"] == ["cat", "dog", "cow"]
        assert sum(entry["right"] for entry in plain["ablated"]["classes"]) == plain["ablated"]["accuracy"]["right"]
        assert plain["accuracy_control"]["sets"] == 5
        assert (plain["base"]["worst_group"] is None) == (attribute is None)
        assert plain["near_chance"] is found.base.near_chance
        picture = ablation_figure(found)
        assert picture.startswith(b"<?xml")
        assert b"accuracy, %" in picture
        assert picture == ablation_figure(found)


class NoModel:
    """In place of a run's texts: a mistake must be told before a model is loaded."""

    def vectors(self, texts):
        raise AssertionError("texts are encoded")

    def classes(self, names, templates):
        raise AssertionError("classes are encoded")


def test_mistakes(run, ask, files, tmp_path):
    ask = functools.partial(ask, encoder=NoModel())
    two = tmp_path / "two.txt"
    two.write_text("cat\ndog\n")
    one = tmp_path / "one.txt"
    one.write_text("0\tcat\n")
    unlabelled = TableSpec(heads=("L00H00",), head_dim=2, embed_dim=8)
    plain = Run(make_run(str(tmp_path / "plain"), unlabelled, label=lambda _: None))
    other_model = tmp_path / "other"
    make_run(str(other_model))
    manifest = json.loads((other_model / "run.json").read_text())
    manifest["model"]["fingerprint"] = "beef"
    (other_model / "run.json").write_text(json.dumps(manifest))
    cases = [
        (lambda: ask(classes=None), "labels are numbers .* no classnames.txt beside"),
        (lambda: ask(classes=str(two)), "label 2 has no name in .*two.txt, which has 2 classes"),
        (lambda: ask(classes=str(tmp_path / "none.txt")), "there is no file .*none.txt"),
        (lambda: ask(classes=str(one)), r"labels .* have no name in .*one\.txt"),
        (lambda: ask(attribute="colour"), "no column 'colour' to group rows by"),
        (lambda: ask(templates="nosuch"), "no templates 'nosuch'"),
        (lambda: ask(run=plain), "the run has no labels: audit again with --label"),
        (lambda: ask(min_group=0), "--min-group must be at least 1"),
        (lambda: ablation(ask(), Choice(heads=("L09H00",))), "stores no head 'L09H00'"),
        (lambda: ablation(ask(), Choice(layers="3")), "--layers 3: the tower has 2 layers"),
        (lambda: ablation(ask(), Choice(mlps="0,")), "stores only mlp_L01, not mlp_L00: audit with --components"),
        (lambda: ablation(ask(), Choice(roles=("smell",))), "--role smell: the texts have no such property or kind"),
        (lambda: ablation(ask(), Choice(heads=("L00H00",)), reconstruct=61), "61 texts were asked for"),
        (lambda: ablation(ask(), Choice(heads=("L00H00",)), reconstruct=-1), "--reconstruct must be at least 0"),
        (lambda: ablation(ask(), Choice(mlps="all"), random=5), "--random draws heads .* no head is ablated"),
        (lambda: ablation(ask(), Choice(), reconstruct=3), "--reconstruct replaces heads .* no head is chosen"),
        (lambda: ablation(ask(), Choice(mlps="all"), direction="sea"), "--direction .* heads, and mlp_L01 is none"),
        (lambda: ablation(ask(), Choice(), direction="sea"), "--direction is taken out of heads: name some"),
        (
            lambda: ablation(ask(), Choice(heads=("L00H00",)), reconstruct=3, direction="sea"),
            "--direction and --reconstruct are two ways",
        ),
        (lambda: ablation(ask(), Choice(mlps="all"), reconstruct=3), "--reconstruct replaces heads"),
        (
            lambda: ablation(ask(), Choice(layers="1"), random=5),
            "--random draws other heads .* all of them are ablated",
        ),
        (lambda: ablation(ask(where=("place=moon",)), Choice()), "has attributes.place = moon: there is water, land"),
        (
            lambda: ablation(ask(fit=("place=moon",)), Choice(heads=("L00H00",))),
            "has attributes.place = moon: there is water, land",
        ),
        (lambda: ablation(ask(means="moon"), Choice(heads=("L00H00",))), "there is no run at moon"),
        (lambda: ablation(ask(means=str(other_model)), Choice(heads=("L00H00",))), "are of another model than the run"),
    ]
    for action, words in cases:
        with pytest.raises(UsageError, match=words):
            action()
