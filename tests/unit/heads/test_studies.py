"""The paper's studies from stored rows: every point against the ablation that it stands for, and what is not stored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from clipaudit.errors import UsageError
from clipaudit.heads.experiment import Experiment, ExperimentConfig, ablation
from clipaudit.heads.named_columns import Choice
from clipaudit.heads.plots import study_figure
from clipaudit.heads.studies import RANDOM, STUDIES, TEXTS, WORDS, study, study_json
from clipaudit.heads.texts.commonwords import common_words
from clipaudit.run.derived import finite
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec, attention_column, head_label, mlp_column, self_attention_column
from tests.make_runs import SPEC, make_run
from tests.make_texts import HashedTexts, make_pool, write_pool

WHOLE = TableSpec(
    heads=tuple(head_label(layer, head) for layer in range(3) for head in range(2)),
    head_dim=4,
    embed_dim=8,
    label_kind="int",
    attributes=("place",),
    components=tuple(name for layer in range(3) for name in (attention_column(layer), mlp_column(layer))),
)


def asked(run, directory, **changes):
    classes = directory / "classes.txt"
    classes.write_text("cat\ndog\ncow\n")
    texts = write_pool(directory / "pool.tsv", make_pool(30))
    config = {"classes": str(classes), "templates": "single", "attribute": "place", "texts": texts, "min_group": 3}
    return Experiment(run, HashedTexts(SPEC.embed_dim), ExperimentConfig(**{**config, **changes}))


@pytest.fixture(scope="module")
def question(tmp_path_factory) -> Experiment:
    directory = tmp_path_factory.mktemp("studies")
    return asked(Run(make_run(str(directory / "run"), WHOLE)), directory)


def by_name(found):
    return {(point.series, point.name): point for point in found.points}


def same(point, found):
    """Whether a study's point says what an ablation says."""
    worst = found.ablated.worst_group(3)
    return (point.accuracy, point.worst_group) == (found.ablated.accuracy, worst and worst[1])


def test_components_are_the_ablations_of_mlps(question):
    found = study(question, "components")
    points = by_name(found)
    assert same(points["", "nothing replaced"], ablation(question, Choice()))
    assert same(points["", "all stored MLPs"], ablation(question, Choice(mlps="all")))
    assert same(points["one MLP", "mlp_L01"], ablation(question, Choice(mlps="1,")))
    assert len(points) == 5
    assert found.notes == (
        "no row of class-token self-attention: it was made before class-token self-attention was stored: audit anew"
        " with --components",
    )


def test_the_papers_four_rows(tmp_path):
    names = [self_attention_column(layer) for layer in range(3)]
    question = asked(
        Run(make_run(str(tmp_path / "run"), replace(WHOLE, components=(*WHOLE.components, *names)))), tmp_path
    )
    result = study(question, "components")
    points = by_name(result)
    rows = ["nothing replaced", "all stored MLPs", "class-token self-attention", "both"]
    assert [name for series, name in points if not series] == rows
    own = ablation(question, Choice(components=("self-attention",)))
    assert own.columns == tuple(names)
    assert same(points["", rows[2]], own)
    assert same(points["", rows[3]], ablation(question, Choice(components=("mlp", "self-attention"))))
    with pytest.raises(UsageError, match="a tower with a LayerNorm inside its attention"):  # no residual means
        asked(question.run, tmp_path, allocation="published")
    assert same(points["", rows[1]], ablation(question, Choice(components=("mlp_L00", "mlp_L01", "mlp_L02"))))
    assert result.notes == ()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"components": ("self-attention",), "layers": "1,"}, "self_attention_L01 holds a part of L01H00"),
        ({"components": ("self-attention", "attention")}, "is part of attention_L00: replace one or the other"),
        ({"components": ("colours",)}, "--components colours: it takes self-attention, attention, mlp"),
        ({"components": ("mlp_L09",)}, "stores only attention_L00 to self_attention_L02 .* not mlp_L09"),
    ],
)
def test_components_that_cannot_be_ablated(tmp_path, choice, words):
    names = [self_attention_column(layer) for layer in range(3)]
    spec = replace(WHOLE, components=(*WHOLE.components, *names))
    question = asked(Run(make_run(str(tmp_path / "run"), spec)), tmp_path)
    with pytest.raises(UsageError, match=words):
        ablation(question, Choice(**choice))


def test_a_run_without_components_says_so(tmp_path):
    spec = replace(WHOLE, components=())
    question = asked(Run(make_run(str(tmp_path / "run"), spec)), tmp_path)
    with pytest.raises(
        UsageError, match="stores no class-token self-attention: it stores heads only: audit again with"
    ):
        ablation(question, Choice(components=("self-attention",)))
    with pytest.raises(
        UsageError, match="stores heads only, and no components such as mlp_L00: audit again with --components"
    ):
        study(question, "components")
    with pytest.raises(UsageError, match=r"--allocation published: the run at .* stores no components"):
        asked(question.run, tmp_path, allocation="published")


def test_towers_that_pool_patches_have_no_self_attention(tmp_path):
    directory = make_run(str(tmp_path / "run"), WHOLE)
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    manifest["model"]["tower"] = {"layers": 3, "pooling": "average"}
    (tmp_path / "run/run.json").write_text(json.dumps(manifest))
    question = asked(Run(directory.url), tmp_path)
    assert "its tower pools patches" in study(question, "components").notes[0]
    with pytest.raises(UsageError, match="stores no class-token self-attention: its tower pools patches"):
        ablation(question, Choice(components=("self-attention",)))
    with pytest.raises(UsageError, match="the published code knows class-token towers only"):
        asked(question.run, tmp_path, allocation="published")


def test_layers_one_by_one_and_cumulative(question):
    found = study(question, "layers")
    points = by_name(found)
    assert points["from the first stored", "layers 0 to 1"].columns == 2
    assert points["from the last", "layers 1 to 2"].x == 2
    last, first = points["from the last", "layers 0 to 2"], points["from the first stored", "layers 0 to 2"]
    assert last.accuracy == first.accuracy
    assert last.worst_group == first.worst_group
    assert points["one layer", "layer 0"].accuracy == points["from the first stored", "layers 0 to 0"].accuracy
    assert found.notes == ()


def test_layers_without_components_are_their_heads(tmp_path):
    question = asked(Run(make_run(str(tmp_path / "run"))), tmp_path)
    found = study(question, "layers")
    points = by_name(found)
    assert same(points["one layer", "layer 1"], ablation(question, Choice(layers="1")))
    assert same(points["from the last", "layers 0 to 1"], ablation(question, Choice(layers="all")))
    assert "the sums of their heads" in found.notes[0]


def test_every_head_alone(question):
    found = study(question, "heads")
    assert [point.name for point in found.points[1:]] == list(question.run.head_labels)
    for point in found.points[1:]:
        assert same(point, ablation(question, Choice(heads=(point.name,))))


def test_texts_against_words_and_random_directions(question):
    steps = []
    found = study(question, "texts", seeds=2, counts=(1, 2, 4), on_step=lambda *step: steps.append(step))
    assert steps[-1] == (19, 19)
    points = found.points
    assert {point.series for point in points} == {"", TEXTS, WORDS, RANDOM}
    assert sum(point.series == WORDS for point in points) == 2 * 3
    mean = by_name(found)["", "every stored head at its mean"]
    assert same(mean, ablation(question, Choice(layers="all")))
    for point in points:
        if point.x == 4:  # as many texts as a head has dimensions: nothing is lost
            assert (point.accuracy, point.worst_group) == (found.base.accuracy, found.base.worst_group)
    again = study(question, "texts", seeds=2, counts=(1, 2, 4))
    assert again.points == points
    assert "30 candidates each" in found.notes[0]


def test_variants_in_several_passes_are_the_same(question, monkeypatch):
    whole = study(question, "heads")
    monkeypatch.setattr("clipaudit.heads.studies._AT_ONCE", 2)
    assert study(question, "heads").points == whole.points


@pytest.mark.parametrize("name", STUDIES)
def test_json_and_figures(question, name):
    found = study(question, name, seeds=2, counts=(1, 3))
    plain = json.loads(json.dumps(finite(study_json(found)), allow_nan=False))
    assert plain["study"] == name
    assert len(plain["points"]) == len(found.points)
    assert plain["means"] == question.run.directory.url
    assert plain["near_chance"] is found.near_chance
    picture = study_figure(found)
    assert picture.startswith(b"<?xml")
    assert picture == study_figure(found)


def test_layers_that_are_not_stored_are_named(tmp_path):
    directory = make_run(str(tmp_path / "run"))
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    manifest["model"]["tower"] = {"layers": 12}
    (tmp_path / "run/run.json").write_text(json.dumps(manifest))
    found = study(asked(Run(directory.url), tmp_path), "heads")
    assert found.notes == ("the run stores layers 0, 1: all others stay as they are",)


def test_mistakes(question, tmp_path):
    bare = TableSpec(heads=("L00H00",), head_dim=2, embed_dim=8, label_kind="int", attributes=("place",))
    without = asked(Run(make_run(str(tmp_path / "run"), bare)), tmp_path)
    cases = [
        (lambda: study(question, "colours"), "--study must be one of components, layers, heads, texts, not 'colours'"),
        (lambda: study(question, "texts", seeds=0), "--seeds must be at least 1"),
        (lambda: study(question, "texts", counts=()), "at least one text a head"),
        (
            lambda: study(without, "components"),
            "stores heads only, and no components such as mlp_L00: audit again with --components",
        ),
    ]
    for action, words in cases:
        with pytest.raises(UsageError, match=words):
            action()


def test_common_words_are_words():
    words = common_words()
    assert len(words) > 20_000
    assert len(set(words)) == len(words)
    assert {"this", "people", "photo", "happy"} <= set(words[:3000])
    assert not {"ing", "ers", "ght", "tion"} & set(words)
