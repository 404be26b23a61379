"""What an audit stored and what is computed on the fly are one: token maps, and the Waterbirds protocol."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from clipaudit.cli.console.evaluate import groups_json, print_groups
from clipaudit.cli.console.job import ConsoleReporter
from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
from clipaudit.demo.world.datasets import write_world
from clipaudit.errors import UsageError
from clipaudit.heads.experiment import Experiment, ExperimentConfig, ablation
from clipaudit.heads.named_columns import Choice
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.job.driver import run_job
from clipaudit.job.engine_local import LocalPool
from clipaudit.run.classes import ClassNames
from clipaudit.run.reader import Run


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, TokenDecomposition, EvaluationConfig, LocaliserEvaluation, group_accuracy, PictureReader, Masked
    global MaskedShards, Decomposer, describe_tower, Normaliser, load_model, images_for, tiny

    import torch

    from clipaudit.localize import TokenDecomposition
    from clipaudit.localize.evaluation.evaluate import EvaluationConfig, LocaliserEvaluation
    from clipaudit.localize.evaluation.waterbirds import group_accuracy
    from clipaudit.localize.frames import PictureReader
    from clipaudit.localize.masks import Masked, MaskedShards
    from clipaudit.model import Decomposer, describe_tower
    from clipaudit.model.loading import Normaliser, load_model
    from tests.tiny_models import images_for, tiny


DEMO = ModelConfig(name="demo", device="cpu")
HEADS = ("L05H00", "L03H02")


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> tuple[str, Run]:
    """150 birds and their run, everything stored."""
    out = tmp_path_factory.mktemp("birds")
    write_world("birds", out, count=150, seed=3)
    config = JobConfig(
        shards=(f"{out}/birds-*.tar",),
        out=str(out / "run"),
        model=DEMO,
        fields=FieldsConfig(label="cls", attributes=("json:place",)),
        store=StoreConfig(layers="all", components=True),
        execution=ExecutionConfig(engine="local"),
    )
    with ConsoleReporter(config) as reporter:
        run_job(config, LocalPool(config), reporter, threading.Event())
    return f"{out}/birds-*.tar", Run(config.out)


def test_token_maps_sum_to_the_heads_stored_scores(birds):
    shards, run = birds
    loaded = load_model(DEMO)
    reader = PictureReader(loaded.transform, describe_tower(loaded.model))
    pictures = [sample.seen for sample in MaskedShards([shards], reader, limit=8)]
    images = Normaliser(reader.mean, reader.std, loaded.device)(pictures)
    texts = RunTexts(run, "cpu").vectors(["a photo of a duck", "a photo of the sea", "grass"])
    maps = TokenDecomposition(loaded.model, heads=[(5, 0), (3, 2)]).by_head(images, torch.from_numpy(texts))
    for row, head in enumerate(HEADS):
        y = run.vectors(head).values[:8].astype(np.float32)
        stored = y @ (run.basis().Q(head) @ texts.T)
        summed = maps.patches[:, row].sum(dim=(-2, -1)) + maps.rest[:, row]
        rounding = 2**-11 * np.linalg.norm(y, axis=1).max()  # of float16, relative
        assert np.abs(summed.numpy() - stored).max() <= rounding
        assert np.abs(stored).max() > 20 * rounding


def test_waterbirds_on_images_is_the_ablation_of_a_run(birds, capsys):
    shards, run = birds
    config = EvaluationConfig(shards=(shards,), model=DEMO)
    found = LocaliserEvaluation(config).groups("json:place", HEADS, kept_layers=6, random=50, min_group=5)
    question = Experiment(
        run, RunTexts(run, "cpu"), ExperimentConfig(templates="single", attribute="place", min_group=5)
    )
    stored = ablation(question, Choice(heads=HEADS, mlps="all"))
    assert found.images == 150
    assert list(found.plain.groups) == list(stored.base.groups)
    for here, there in ((found.plain, stored.base), (found.ablated, stored.ablated)):
        for group, share in here.groups.items():
            assert share.total == there.groups[group].total
            assert abs(share.right - there.groups[group].right) <= 1  # float16 may turn a tie
    assert found.plain.accuracy.right != found.early.accuracy.right
    assert found.control is not None
    assert found.control.sets == 50
    plain = json.loads(json.dumps(groups_json(found)))
    assert plain["ablated"]["accuracy"]["right"] == found.ablated.accuracy.right
    assert plain["plain"]["worst_group"]["share"] == min(g["share"] for g in plain["plain"]["groups"] if g["total"] > 4)
    print_groups(found)
    table = capsys.readouterr().out
    assert all(f"{name}, {place}" in table for name in ("landbird", "waterbird") for place in ("land", "water"))
    assert "50 random sets of as many heads of the same layers" in table


def test_parts_at_their_means_multiplied_out():
    # early layers' attention, all MLPs and one head, replaced in the joint space
    visual = tiny("ViT-B-32-quickgelu", layers=4)
    images, texts = images_for(visual, 6), torch.nn.functional.normalize(torch.randn(3, 144), dim=-1)
    samples = [
        Masked(where="a", seen=np.zeros((1, 1, 3), np.uint8), mask=None, label=n % 3, attributes={"place": "xy"[n % 2]})
        for n in range(6)
    ]
    names = ClassNames(labels=(0, 1, 2), names=("a", "b", "c"), source="here")
    decomposer = Decomposer(visual, terms=True)
    found = group_accuracy(samples, decomposer, names, texts, ["L03H01"], lambda _: images, kept_layers=2, min_group=1)
    out = decomposer(images)
    part = out.parts["mlp"] + out.attention[:, :2].sum(dim=1) + decomposer.readout.expand(out.heads)[:, 3, 1]
    answers = ((out.embedding - part + part.mean(dim=0)) @ texts.T).argmax(dim=1).numpy()
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (np.arange(6) % 3, answers), 1)
    assert np.array_equal(found.ablated.confusion, confusion)
    assert found.ablated.groups.keys() == {(c, place) for c in range(3) for place in "xy"}


def test_mistakes_are_one_sentence(birds):
    shards, _ = birds
    here = LocaliserEvaluation(EvaluationConfig(shards=(shards,), model=DEMO, limit=4))
    options = {"kept_layers": 4, "random": 0, "min_group": 1}
    with pytest.raises(UsageError, match="names heads for ViT-B-16, ViT-L-14, ViT-H-14 only, not for demo"):
        here.groups("json:place", (), **options)
    with pytest.raises(UsageError, match="--head L01H00: the last 4 layers, whose heads stay, are L02H00 to L05H03"):
        here.groups("json:place", ("L01H00",), **options)
    with pytest.raises(UsageError, match="--keep-layers must be 1 to 6"):
        here.groups("json:place", HEADS, **{**options, "kept_layers": 7})
    with pytest.raises(UsageError, match=r"none of the 150 samples has all that is needed: image, cls, place=json:no"):
        here.groups("json:no", HEADS, **options)
