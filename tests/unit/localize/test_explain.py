"""`clipaudit explain`: numbers that add up, pictures that are written, mistakes in one sentence."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clipaudit.config import ModelConfig
from clipaudit.errors import UsageError
from tests.make_shards import huge_png_bytes


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, Options, Explainer, Decomposer, Normaliser

    import torch

    from clipaudit.localize import Options
    from clipaudit.localize.explain import Explainer
    from clipaudit.model import Decomposer
    from clipaudit.model.loading import Normaliser


TEXTS = ["a photo of a fish", "a photo of a city", "snow"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 130, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(ModelConfig(name="demo", device="cpu"))


def test_the_numbers_are_the_decompositions(explainer, picture):
    found = explainer.explain(picture, TEXTS, heads=["L05H01,L04H03"])
    numbers = found.numbers()
    assert [(entry["head"], entry["text"]) for entry in numbers["maps"]] == [
        (head, text) for head in ("L05H01", "L04H03") for text in TEXTS
    ]
    loaded = explainer._loaded
    decomposer = Decomposer(loaded.model)
    normalise = Normaliser(explainer._reader.mean, explainer._reader.std, loaded.device)
    out = decomposer(normalise([found.picture.seen]))
    texts = explainer.encode(TEXTS)
    expected = (decomposer.readout.expand(out.heads) @ texts.T)[0]
    for entry, (layer, head, text) in zip(
        numbers["maps"], [(layer, head, t) for layer, head in ((5, 1), (4, 3)) for t in range(3)], strict=True
    ):
        assert entry["heads_add"] == pytest.approx(expected[layer, head, text].item(), abs=2e-6)
        assert entry["cosine"] == pytest.approx((out.embedding @ texts.T)[0, text].item(), abs=2e-6)
        assert np.sum(entry["scores"]) == pytest.approx(entry["patches_add"], abs=1e-5)
        assert entry["max"] == pytest.approx(np.max(entry["scores"]), abs=1e-6)
    assert numbers["seen"] == {"top": 0, "left": 25, "bottom": 80, "right": 105}
    json.dumps(numbers)


@pytest.mark.parametrize("method", ["decomposition", "surgery", "relevance", "rollout"])
@pytest.mark.parametrize("whole", [False, True])
def test_every_method_draws(explainer, picture, method, whole):
    here = Explainer(explainer._config, whole=whole, loaded=(explainer._loaded, explainer._tokenizer))
    for texts in (TEXTS, TEXTS[:1]):
        found = here.explain(picture, texts, method=method)
        assert found.scores.shape == (1, len(texts), 8, 13 if whole else 8)
        image = found.draw()
        assert image.width >= (len(texts) + 1) * 300


def test_contrast_keeps_the_texts_cosines(explainer, picture):
    plain = explainer.explain(picture, TEXTS)
    contrast = explainer.explain(picture, TEXTS, method="contrast")
    assert np.allclose(plain.products, contrast.products, atol=1e-6)
    assert np.allclose(contrast.scores, plain.scores - plain.scores.mean(axis=1, keepdims=True), atol=1e-6)


def test_words_and_points(explainer, picture):
    found = explainer.explain(picture, TEXTS, method="surgery", words=True)
    numbers = found.numbers()
    assert [entry["word"] for entry in numbers["words"][0]] == TEXTS[0].split()
    shorter = explainer.explain(picture, ["a photo of a", *TEXTS[1:]]).products[0]
    assert numbers["words"][0][-1]["adds"] == pytest.approx(found.products[0] - shorter, abs=1e-6)
    for entry in numbers["maps"]:
        positive, negative = entry["points"]["positive"], entry["points"]["negative"]
        assert len(positive) == len(negative) > 0
        assert all(25 <= x < 105 and 0 <= y < 80 for x, y in positive + negative)
    assert found.draw().height > explainer.explain(picture, TEXTS, method="surgery").draw().height


def test_tokens_are_drawn_below_and_their_ends_are_the_texts(explainer, picture):
    found = explainer.explain(picture, TEXTS, method="surgery", tokens=True)
    numbers = found.numbers()
    assert [score["token"] for score in numbers["tokens"][0]] == ["[start]", *TEXTS[0].split(), "[end]"]
    assert [text[-1]["cosine"] for text in numbers["tokens"]] == pytest.approx(found.products.tolist(), abs=1e-5)
    json.dumps(numbers)
    plain = explainer.explain(picture, TEXTS, method="surgery").draw()
    drawn = found.draw()
    assert drawn.width == plain.width
    assert drawn.height >= plain.height + 3 * 40


def test_all_maps_have_one_scale_with_zero_in_it(explainer, picture, monkeypatch):
    panels = []
    monkeypatch.setattr(
        "clipaudit.localize.explain.sheet",
        lambda picture, rows, frame, **_: panels.extend(panel for row in rows for panel in row),
    )
    found = replace(explainer.explain(picture, TEXTS, heads=["L05H01", "L04H03"]), unrelated=-1.0)
    found.draw()
    assert len(panels) == 6
    assert {(panel.low, panel.high) for panel in panels} == {
        (min(float(found.scores.min()), 0.0), max(float(found.scores.max()), 0.0))
    }
    panels.clear()
    first = replace(found, unrelated=float(np.sort(found.products)[-2]))  # one text alone is above it
    first.draw()
    seen = int(np.argmax(found.products))
    assert [panel.seen for panel in panels] == [column == seen for _ in range(2) for column in range(3)]
    assert panels[seen].high == max(float(found.scores[:, seen].max()), 0.0), "what is not seen sets no scale"


def test_an_absent_thing_does_not_glow(explainer, picture):
    found = replace(explainer.explain(picture, TEXTS), unrelated=2.0)
    assert found.seen == (False,) * 3
    drawn = np.asarray(found.draw()).astype(int)
    maps = drawn[60:200, 330:]  # right of the picture itself
    assert np.ptp(maps, axis=2).max() == 0, "grey, without a colour"
    assert [entry["seen"] for entry in found.numbers()["maps"]] == [False] * 3
    assert found._note(0, 0).startswith("not seen: ")


@pytest.mark.full
def test_things_that_are_there_are_seen_and_others_mostly_not(explainer, tmp_path):
    from clipaudit.demo.world.datasets import write_world

    (shard,) = write_world("things", tmp_path, count=24, seed=11, shard_size=24)
    nouns = ["a photo of a cat", "a photo of a rocket", "a photo of a pizza", "a photo of a camera"]
    there, absent = [], []
    with tarfile.open(shard) as tar:
        for name in tar.getnames():
            if not name.endswith(".jpg"):
                continue
            noun = json.loads(tar.extractfile(name.replace(".jpg", ".json")).read())["noun"]
            (tmp_path / "p.jpg").write_bytes(tar.extractfile(name).read())
            found = explainer.explain(str(tmp_path / "p.jpg"), [f"a photo of a {noun}", *nouns])
            there.append(found.seen[0])
            absent += [seen for text, seen in zip(nouns, found.seen[1:], strict=True) if not text.endswith(noun)]
    assert np.mean(there) > 0.7
    assert np.mean(absent) < 0.25


def test_a_cropped_picture_is_explained(explainer, picture):
    found = explainer.explain(picture, TEXTS)
    assert found.picture.frame.crop == (
        "the model's preprocessing keeps 80 x 80 of 130 x 80 pixels, the rest is dark: --whole shows it all"
    )
    whole = Explainer(explainer._config, whole=True, loaded=(explainer._loaded, explainer._tokenizer))
    assert whole.explain(picture, TEXTS).picture.frame.crop == ""


def test_mistakes_are_told_before_a_model_is_loaded(picture, tmp_path, monkeypatch):
    from clipaudit import explain

    def load(config):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("clipaudit.localize.explain.load_model", load)
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "huge.png").write_bytes(huge_png_bytes())
    for arguments, words in (
        ((picture, []), "at least one --text"),
        ((picture, ["a", " "]), "is empty"),
        ((str(tmp_path / "gone.jpg"), "a"), "cannot be read: No such file"),
        ((str(tmp_path / "text.jpg"), "a"), "is no picture that can be read: it is no image of a format that is read"),
        ((str(tmp_path / "huge.png"), "a"), "huge.png: 30000 x 30000 pixels are more than the limit"),
    ):
        with pytest.raises(UsageError, match=words):
            explain(*arguments, "demo")
    with pytest.raises(UsageError, match="no method 'lime'"):
        explain(picture, "a", "demo", method="lime")
    with pytest.raises(UsageError, match="--head: 'five' is not a head label"):
        explain(picture, "a", "demo", heads="five")


def test_the_models_own_embedding_does_not_change(explainer, picture):
    before = explainer.explain(picture, TEXTS).products
    Explainer(explainer._config, whole=True, loaded=(explainer._loaded, explainer._tokenizer)).explain(picture, TEXTS)
    assert np.array_equal(explainer.explain(picture, TEXTS).products, before)


def test_mistakes(explainer, picture):
    with pytest.raises(UsageError, match="at least one --text"):
        explainer.explain(picture, [])
    with pytest.raises(UsageError, match="no method 'lime'"):
        explainer.explain(picture, TEXTS, method="lime")
    with pytest.raises(UsageError, match="surgery knows no single heads"):
        explainer.explain(picture, TEXTS, method="surgery", heads=["L05H01"])
    with pytest.raises(UsageError, match="--head: 'five' is not a head label"):
        explainer.explain(picture, TEXTS, heads=["five"])
    with pytest.raises(UsageError, match="--layers goes with --method decomposition or contrast"):
        explainer.explain(picture, TEXTS, method="rollout", options=Options(layers=[1]))
    with pytest.raises(UsageError, match="and without --head"):
        explainer.explain(picture, TEXTS, heads=["L05H01"], options=Options(layers=[5]))
    with pytest.raises(UsageError, match="--blocks goes with --method surgery or values: gradcam has no second path"):
        explainer.explain(picture, TEXTS, method="gradcam", options=Options(blocks=7))
    with pytest.raises(UsageError, match="no head L09H01"):
        explainer.explain(picture, TEXTS, heads=["L09H01"])
    with pytest.raises(UsageError, match="longer than the 32 tokens"):
        explainer.explain(picture, ["fish " * 60])
    assert not torch.is_inference_mode_enabled()
