"""The shipped demo model: stock open_clip loads it, it is small, and it knows its world."""

import itertools

import numpy as np
import pytest
from PIL import Image

from clipaudit.config import ModelConfig
from clipaudit.demo.world import nouns
from clipaudit.demo.world.captions import PLACES, STYLE_PREFIXES
from clipaudit.demo.world.datasets import samples
from clipaudit.errors import UsageError
from tests.commands import ROOT


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global open_clip, torch, ImageEncoder, bundled, Decomposer, load_model

    import open_clip
    import torch

    from clipaudit.demo.evaluation.recognition import ImageEncoder
    from clipaudit.model import bundled
    from clipaudit.model.decomposer import Decomposer
    from clipaudit.model.loading import load_model


SEED = 31


@pytest.fixture(scope="module")
def encoder():
    return ImageEncoder.load(ModelConfig(name="demo"))


@pytest.fixture(scope="module")
def things(encoder):
    """Photographs of single things with nothing tied to anything, and their vectors."""
    drawn = samples("things", count=2000, seed=SEED)
    chosen = list(itertools.islice((s for s in drawn if s.scene.style == "photo" and s.scene.tint == "none"), 400))
    return chosen, encoder.images([sample.pixels for sample in chosen])


def accuracy(encoder, vectors, prompts, truth):
    answers = (vectors @ encoder.options(prompts).T).argmax(1)
    return float((answers == np.array(truth)).mean())


def test_stock_open_clip_loads_the_directory(encoder):
    directory = bundled.unpack()
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{directory}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{directory}")
    sample = next(samples("things", count=1, seed=SEED))
    with torch.inference_mode():
        image = model.eval().encode_image(preprocess(Image.fromarray(sample.pixels))[None], normalize=True)
        text = model.encode_text(tokenizer(["a photo of a cat"]), normalize=True)
    np.testing.assert_allclose(image.numpy(), encoder.images([sample.pixels]), atol=1e-5)
    np.testing.assert_allclose(text.numpy(), encoder.texts(["a photo of a cat"]), atol=1e-5)


def test_the_model_and_the_package_are_small():
    assert sum(path.stat().st_size for path in bundled.PACKAGED.iterdir()) <= 10e6
    files = [
        path for path in (ROOT / "clipaudit").rglob("*") if path.suffix != ".pyc" and "node_modules" not in path.parts
    ]
    assert sum(path.stat().st_size for path in files) <= 15e6


def test_demo_takes_no_weight_tag():
    with pytest.raises(UsageError, match="--pretrained 'openai' has no meaning beside --model 'demo'"):
        load_model(ModelConfig(name="demo", pretrained="openai"))


def test_its_parts_sum_to_its_embedding(encoder, things):
    images = encoder.normalise([sample.pixels for sample in things[0][:16]])
    found = Decomposer(encoder.model)(images)
    assert float(found.remainder.abs().max()) < 5e-6


def test_it_knows_backgrounds(encoder, things):
    chosen, vectors = things
    prompts = [[f"a scene {way}" for way in PLACES[name]] for name in nouns.BACKGROUNDS]
    truth = [nouns.BACKGROUNDS.index(sample.scene.background) for sample in chosen]
    assert accuracy(encoder, vectors, prompts, truth) > 0.9


def test_it_knows_nouns(encoder, things):
    chosen, vectors = things
    prompts = [[f"a photo of a {noun}"] for noun in nouns.NOUNS]
    truth = [nouns.NOUNS.index(sample.scene.noun) for sample in chosen]
    assert accuracy(encoder, vectors, prompts, truth) > 0.5


def test_it_knows_styles(encoder):
    chosen = [sample for sample in samples("things", count=400, seed=SEED) if sample.scene.tint == "none"]
    styles = ("photo", *nouns.STYLES)
    prompts = [[f"{prefix} an object" for prefix in STYLE_PREFIXES[style] if prefix] for style in styles]
    truth = [styles.index(sample.scene.style) for sample in chosen]
    vectors = encoder.images([sample.pixels for sample in chosen])
    assert accuracy(encoder, vectors, prompts, truth) > 0.75


@pytest.mark.full
def test_it_has_learned_the_shortcut(encoder):
    birds = [sample for sample in samples("birds", count=1600, seed=SEED) if sample.split == "test"]
    vectors = encoder.images([sample.pixels for sample in birds])
    answers = (vectors @ encoder.texts(["a photo of a landbird", "a photo of a waterbird"]).T).argmax(1)
    right = answers == np.array([sample.label for sample in birds])
    groups = [(sample.label, sample.scene.factors()["place"]) for sample in birds]
    by_group = {group: np.mean([r for r, g in zip(right, groups, strict=True) if g == group]) for group in set(groups)}
    assert right.mean() - min(by_group.values()) > 0.1
    assert by_group[0, "land"] > 0.8
    assert by_group[1, "water"] > 0.8
