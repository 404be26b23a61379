"""Tokenizers in every spelling of a model, and texts to unit vectors as open_clip makes them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from clipaudit.config import ModelConfig
from clipaudit.errors import UnknownModel, UsageError
from tests.worded_models import MERGES, write_worded_model


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global open_clip, torch, build_zero_shot_classifier, encode_classes, encode_texts, fill
    global load_tokenizer, load_model

    import open_clip
    import torch
    from open_clip.zero_shot_classifier import build_zero_shot_classifier

    from clipaudit.heads.texts.encoder import encode_classes, encode_texts, fill, load_tokenizer
    from clipaudit.model.loading import load_model


TEXTS = ["a cat", "a dog", "two dogs", "a cat", "", "cat dog"]


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> Path:
    """An open_clip directory that brings its own merges under a relative name, as the demo model does."""
    return write_worded_model(tmp_path_factory.mktemp("own_merges"))


@pytest.fixture(scope="module")
def encoder(model_directory):
    config = ModelConfig(name=str(model_directory))
    # as in an audit, where the working directory is anywhere; load_model does not read the merges
    return load_model(config), load_tokenizer(config)


@pytest.mark.parametrize("spelling", ["{}", "local-dir:{}"])
def test_a_directorys_own_merges_are_found_from_anywhere(model_directory, spelling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer(ModelConfig(name=spelling.format(model_directory)))
    start, end = 512 + len(MERGES), 512 + len(MERGES) + 1
    assert tokenizer.context_length == 16
    assert tokenizer(["cat"])[0, :4].tolist() == [start, 512 + MERGES.index("ca t</w>"), end, 0]


@pytest.mark.parametrize(("name", "context"), [("ViT-B-32", 77), ("ViT-B/32", 77), ("coca_ViT-B/32", 76)])
def test_registered_models(name, context):
    tokenizer = load_tokenizer(ModelConfig(name=name, pretrained="random-seed-0"))
    expected = open_clip.get_tokenizer("ViT-B-32", context_length=context)(["a cat"])
    assert torch.equal(tokenizer(["a cat"]), expected)
    assert tokenizer.context_length == context


def test_context_length_is_the_models(tiny_model):
    assert load_tokenizer(ModelConfig(name=tiny_model)).context_length == 8


def test_what_cannot_be_loaded_is_one_sentence(tmp_path):
    with pytest.raises(UnknownModel, match="did you mean"):
        load_tokenizer(ModelConfig(name="ViT-B-33", pretrained="random-seed-0"))
    with pytest.raises(UnknownModel, match=r"no open_clip_config\.json"):
        load_tokenizer(ModelConfig(name=f"local-dir:{tmp_path}"))
    with pytest.raises(UsageError, match="tokenizer of --model hf-hub:nobody/nothing cannot be loaded"):
        load_tokenizer(ModelConfig(name="hf-hub:nobody/nothing"))


def test_loading_leaves_the_root_logger_alone(model_directory):
    before = list(logging.getLogger().handlers)
    load_tokenizer(ModelConfig(name=str(model_directory)))
    assert logging.getLogger().handlers == before


def test_unit_vectors_in_order_whatever_the_batch(encoder):
    loaded, tokenizer = encoder
    found = encode_texts(loaded, tokenizer, TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), 24)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    with torch.inference_mode():
        expected = loaded.model.encode_text(tokenizer(TEXTS), normalize=True).numpy()
    assert np.abs(found - expected).max() < 1e-6
    for batch_size in (1, 4):
        assert np.abs(encode_texts(loaded, tokenizer, TEXTS, batch_size=batch_size) - found).max() < 1e-6
    assert np.abs(found[0] - found[3]).max() < 1e-6
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert len(encode_texts(loaded, tokenizer, [])) == 0


@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_classes_are_open_clips_zero_shot_classifier(encoder, batch_size):
    loaded, tokenizer = encoder
    names, templates = ["cat", "dog", "cod"], [lambda c: f"a {c}.", lambda c: f"{c}", "the {}"]
    functions = [*templates[:2], "the {}".format]
    expected = build_zero_shot_classifier(loaded.model, tokenizer, names, functions).T.numpy()
    found = encode_classes(loaded, tokenizer, names, templates, batch_size=batch_size)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-6


def test_templates():
    assert fill("a {} {}", "{0}") == "a {0} {0}"
    assert fill(str.upper, "cat") == "CAT"
    with pytest.raises(UsageError, match=r"'a photo' has no \{\}"):
        fill("a photo", "cat")


def test_no_templates(encoder):
    with pytest.raises(UsageError, match="no prompt template"):
        encode_classes(*encoder, ["cat"], [])


def test_texts_that_would_be_cut_are_refused(encoder):
    fits = "cat " * 14  # with start and end 16 tokens
    assert len(encode_texts(*encoder, ["dog", fits])) == 2
    with pytest.raises(UsageError, match=r"longer than the 16 tokens .*'cat cat"):
        encode_texts(*encoder, ["dog", fits + "dog", "cat"])


def test_another_models_tokenizer_is_refused(encoder):
    with pytest.raises(UsageError, match="not this model's: it gives token 49407, and the model knows 518"):
        encode_texts(encoder[0], open_clip.get_tokenizer("ViT-B-32", context_length=16), ["a cat"])
