"""An image's cosines with the tokens of a text: the text's own token is the text, in each of open_clip's encoders."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipaudit.config import ModelConfig
from clipaudit.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global open_clip, torch, nn, encode_texts, load_tokenizer, token_scores, load_model

    import open_clip
    import torch
    from torch import nn

    from clipaudit.heads.texts.encoder import encode_texts, load_tokenizer
    from clipaudit.localize.text_tokens import token_scores
    from clipaudit.model.loading import load_model


TEXT = "a photo of a duck on a lake"


@pytest.fixture(scope="module")
def demo():
    config = ModelConfig(name="demo", device="cpu")
    return load_model(config), load_tokenizer(config)


@pytest.fixture(scope="module")
def image():
    return torch.nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(0)), dim=0)


def test_tokens_are_spelled_and_the_end_is_the_text(demo, image):
    found = token_scores(*demo, image, TEXT)
    assert [score.token for score in found] == ["[start]", *TEXT.split(), "[end]"]
    assert [score.is_text for score in found] == [False] * 9 + [True]
    whole = float(encode_texts(*demo, [TEXT])[0] @ image.numpy())
    assert found[-1].cosine == pytest.approx(whole, abs=1e-5)
    # A causal encoder: what comes later changes nothing before it.
    longer = token_scores(*demo, image, f"{TEXT} in the snow")
    assert [score.cosine for score in longer[:9]] == pytest.approx([score.cosine for score in found[:9]], abs=1e-5)
    assert longer[-1].cosine != pytest.approx(found[-1].cosine, abs=1e-4)


@pytest.mark.parametrize("coca", [False, True])
def test_encoders_of_their_own(demo, image, coca):
    loaded, tokenizer = demo
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, "embed_cls": coca}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CustomTextCLIP(embed_dim=128, vision_cfg=vision, text_cfg=text).eval()
    other = replace(loaded, model=model)
    found = token_scores(other, tokenizer, image, TEXT)
    whole = float(encode_texts(other, tokenizer, [TEXT])[0] @ image.numpy())
    assert [score.cosine for score in found if score.is_text] == pytest.approx([whole], abs=1e-5)
    assert [score.token for score in found] == ["[start]", *TEXT.split(), "[end]"] + ["[end]"] * coca


def test_mistakes_are_one_sentence(demo, image):
    loaded, tokenizer = demo
    with pytest.raises(UsageError, match="longer than the 32 tokens"):
        token_scores(loaded, tokenizer, image, "fish " * 40)

    class Foreign(nn.Module):
        def encode_text(self, ids):
            return loaded.model.encode_text(ids)

    with pytest.raises(UsageError, match="Foreign is not open_clip's own"):
        token_scores(replace(loaded, model=Foreign()), tokenizer, image, TEXT)
