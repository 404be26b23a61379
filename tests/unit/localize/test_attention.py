"""Attention-based localisers against the whole matrices, every token in every layer."""

from __future__ import annotations

import pytest

from clipaudit.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global \
        torch, \
        F, \
        METHODS, \
        Options, \
        localiser, \
        GradCam, \
        RawAttention, \
        Relevance, \
        Rollout, \
        plain_forward, \
        images_for, \
        tiny

    import torch
    import torch.nn.functional as F

    from clipaudit.localize import METHODS, Options, localiser
    from clipaudit.localize.attention import GradCam, RawAttention, Relevance, Rollout
    from tests.plain_towers import plain_forward
    from tests.tiny_models import images_for, tiny


NAMES = (
    "decomposition",
    "contrast",
    "surgery",
    "values",
    "maskclip",
    "patches",
    "relevance",
    "gradcam",
    "rollout",
    "attention",
)


@pytest.fixture(scope="module")
def visual():
    return tiny("ViT-B-32-quickgelu", layers=4).requires_grad_(False)


@pytest.fixture(scope="module")
def images(visual):
    return images_for(visual, 3)


@pytest.fixture(scope="module")
def texts():
    return F.normalize(torch.randn(3, 144, generator=torch.Generator().manual_seed(3)))


@pytest.mark.usefixtures("inference_mode")
def test_raw_attention_and_rollout(visual, images, texts):
    attention = plain_forward(visual, images).attention
    raw = attention[-1].mean(dim=1)[:, 0, 1:].reshape(3, 1, 3, 3)
    assert torch.allclose(RawAttention(visual)(images, texts), raw.expand(-1, 3, -1, -1), atol=1e-6)
    joint = torch.eye(10).expand(3, -1, -1)
    for A in attention:
        joint = (A.mean(dim=1) + torch.eye(10)) / 2 @ joint
    rolled = joint[:, 0, 1:].reshape(3, 1, 3, 3)
    assert torch.allclose(Rollout(visual)(images, texts), rolled.expand(-1, 3, -1, -1), atol=1e-6)
    assert joint.sum(dim=-1).allclose(torch.ones(3, 10))


def gradients_of(visual, images, text):
    with torch.enable_grad():
        trace = plain_forward(visual, images)
        score = (F.normalize(trace.embedding, dim=-1) @ text).sum()
        return trace.attention, torch.autograd.grad(score, trace.attention)


@pytest.mark.parametrize("first", [0, 3])
def test_relevance_is_the_papers_recursion(visual, images, texts, first):
    found = Relevance(visual, first_layer=first)(images, texts)
    for number, text in enumerate(texts):
        R = torch.eye(10).expand(3, -1, -1)
        for A, G in list(zip(*gradients_of(visual, images, text), strict=True))[first:]:
            R = R + (G * A).relu().mean(dim=1) @ R
        assert torch.allclose(found[:, number], R[:, 0, 1:].reshape(3, 3, 3), rtol=1e-3, atol=1e-8)


def test_grad_cam_weighs_heads_by_their_gradients(visual, images, texts):
    found = GradCam(visual)(images, texts)
    for number, text in enumerate(texts):
        attention, gradients = gradients_of(visual, images, text)
        A, G = attention[-1][:, :, 0, 1:], gradients[-1][:, :, 0, 1:]
        cam = (G.mean(dim=-1, keepdim=True) * A).mean(dim=1).relu()
        assert torch.allclose(found[:, number], cam.reshape(3, 3, 3), rtol=1e-3, atol=1e-8)
    assert found.max() > 0


def test_the_methods_are_these():
    assert tuple(METHODS) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["ViT-B-32-quickgelu", "ViT-L-14-CLIPA", "EVA02-B-16"])
def test_every_method_keeps_the_interface(name, kind):
    visual = tiny(kind).requires_grad_(False)
    images, texts = images_for(visual, 2), F.normalize(torch.randn(3, 144))
    method = localiser(name, visual)
    with torch.inference_mode():  # as a command calls it
        maps = method(images.clone(), texts.clone())
    assert maps.shape[:2] == (2, 3)
    assert maps.isfinite().all()
    assert not maps.requires_grad
    assert torch.equal(maps[:, 0], maps[:, 1]) == (name in ("rollout", "attention")), "these two know no text"
    if kind == "ViT-B-32-quickgelu":
        assert method(torch.randn(2, 3, 64, 160), texts).shape == (2, 3, 2, 5)
    singles = torch.cat([method(image[None], texts) for image in images])
    assert torch.allclose(maps, singles, rtol=1e-3, atol=2e-6)
    assert all("forward" not in vars(module) for module in visual.modules())


def test_mistakes_are_one_sentence(visual, images, texts):
    with pytest.raises(UsageError, match="no method 'lime'; there are: decomposition, contrast, surgery"):
        localiser("lime", visual)
    with pytest.raises(UsageError, match="compares it with the empty text"):
        localiser("surgery", visual)(images, texts[:1])
    assert localiser("surgery", visual, Options(empty=texts[1]))(images, texts[:1]).shape == (3, 1, 3, 3)
    with pytest.raises(UsageError, match="there is no text"):
        localiser("relevance", visual)(images, texts[:0])
