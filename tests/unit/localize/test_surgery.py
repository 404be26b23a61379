"""CLIP Surgery on small towers: against the forward pass written out, and against tensors of size N x T x D."""

from __future__ import annotations

import pytest

from clipaudit.errors import UnsupportedTower, UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, TorchDispatchMode, tree_leaves, Surgery, feature_surgery, similarities, text_weights, heads_of
    global plain_forward, images_for, plain_embedding, tiny

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from clipaudit.localize import Surgery, feature_surgery, similarities, text_weights
    from tests.plain_towers import heads_of, plain_forward
    from tests.tiny_models import images_for, plain_embedding, tiny


# QuickGELU, LayerScale, average pooling with the norm behind the pool, inner norms and rotary positions, post-norm
# blocks, relative positions.
KINDS = [
    "ViT-B-32-quickgelu",
    "ViT-M-16-alt",
    "ViT-L-14-CLIPA",
    "EVA02-B-16",
    "EVA02-E-14",
    "vit_relpos_medium_patch16_cls_224",
]


@pytest.fixture(scope="module")
def visual():
    return tiny("ViT-B-32-quickgelu", layers=4)


@pytest.fixture(scope="module")
def images(visual):
    return images_for(visual, 4)


def texts_of(count: int, dimension: int = 144) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dimension, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("kind", ["ViT-B-32-quickgelu", "ViT-M-16-alt"])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.usefixtures("inference_mode")
def test_the_second_path_is_value_attention_without_mlp(kind, blocks):
    visual = tiny(kind, layers=3)
    images = images_for(visual)
    trace = plain_forward(visual, images, second_from=3 - blocks)
    out = Surgery(visual, blocks=blocks)(images)
    assert torch.allclose(out.patches, visual.ln_post(trace.second[:, 1:]) @ visual.proj, atol=1e-5)
    assert torch.allclose(out.whole, trace.embedding, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tower(kind):
    visual = tiny(kind)
    images = images_for(visual, 4)
    out = Surgery(visual)(images)
    unit = torch.nn.functional.normalize(out.whole, dim=-1)
    assert (unit - plain_embedding(visual, images)).abs().max() <= 1e-6
    singles = torch.cat([Surgery(visual)(image[None]).patches for image in images])
    assert (out.patches - singles).abs().max() <= 5e-6
    assert out.patches.shape[1] == out.grid[0] * out.grid[1]


@pytest.mark.usefixtures("inference_mode")
def test_the_other_paths(visual, images):
    trace = plain_forward(visual, images)
    plain = Surgery(visual, path="plain")(images)
    assert torch.allclose(plain.patches, visual.ln_post(trace.tokens[:, 1:]) @ visual.proj, atol=1e-5)
    block, x = visual.transformer.resblocks[-1], trace.entered[-1]
    _, _, v = heads_of(block.attn, block.ln_1(x))
    x = x + block.attn.out_proj(v.transpose(1, 2).flatten(2))
    x = x + block.mlp(block.ln_2(x))
    maskclip = Surgery(visual, path="maskclip")(images)
    assert torch.allclose(maskclip.patches, visual.ln_post(x[:, 1:]) @ visual.proj, atol=1e-5)
    assert torch.allclose(maskclip.whole, plain.whole)
    assert (maskclip.patches - plain.patches).abs().max() > 0.1


@pytest.mark.usefixtures("inference_mode")
def test_the_plain_path_of_a_rotary_tower_is_its_own_features():
    visual = tiny("EVA02-B-16")
    images = images_for(visual)
    tokens = visual.trunk.forward_features(images)[:, 1:]  # the last norm is in them
    for step in Surgery(visual).tower.head:
        tokens = step(tokens)
    assert torch.allclose(Surgery(visual, path="plain")(images).patches, tokens, atol=1e-5)


def test_any_size_in_any_order_leaves_the_model_alone(visual, images):
    surgery = Surgery(visual)
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    wide, tall = torch.randn(2, 3, 32, 160), torch.randn(2, 3, 128, 64)
    first = [surgery(batch) for batch in (images, wide, tall)]
    second = [surgery(batch) for batch in (tall, images, wide)]
    assert [out.grid for out in first] == [(3, 3), (1, 5), (4, 2)]
    for a, b in zip(first, [second[1], second[2], second[0]], strict=True):
        assert torch.equal(a.patches, b.patches)
        assert torch.equal(a.whole, b.whole)
    assert all(torch.equal(value, before[name]) for name, value in visual.state_dict().items())
    assert visual.image_size == (96, 96)


def naive(features, texts, form, tau=2.0):
    """Feature surgery with its products multiplied out."""
    tokens = torch.nn.functional.normalize(features.patches, dim=-1)
    whole = torch.nn.functional.normalize(features.whole, dim=-1) @ texts.T
    w = (tau * whole).softmax(dim=-1)
    w = w / w.mean(dim=-1, keepdim=True)
    products = tokens[:, :, None] * texts  # (B, N, T, D)
    weighed = products * w[:, None, :, None]
    rest = (weighed if form == "code" else products) - weighed.mean(dim=2, keepdim=True)
    return rest.sum(dim=-1)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_the_closed_form_is_the_multiplied_out_one(visual, images, form):
    texts = texts_of(7)
    out = Surgery(visual)(images)
    K, whole = similarities(out, texts)
    assert (feature_surgery(K, text_weights(whole), form) - naive(out, texts, form)).abs().max() <= 1e-6


def test_two_texts_that_are_one_leave_nothing_in_the_papers_form(visual, images):
    text = texts_of(1)
    K, whole = similarities(Surgery(visual)(images), text.expand(2, -1))
    assert feature_surgery(K, text_weights(whole)).abs().max() <= 1e-6


def test_nothing_is_larger_than_tokens_times_texts(visual, images):
    class Largest(TorchDispatchMode):
        """Remembers the largest tensor that any operation returned."""

        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            self.numel = max([self.numel, *sizes])
            return out

    texts = texts_of(1000)
    out = Surgery(visual)(images)
    with Largest() as largest:
        K, whole = similarities(out, texts)
        feature_surgery(K, text_weights(whole))
    assert largest.numel <= max(K.numel(), texts.numel())
    with Largest() as plain:
        naive(out, texts, "paper")
    assert plain.numel == K.numel() * texts.shape[1]


def test_mistakes_are_one_sentence(visual, images):
    K, whole = similarities(Surgery(visual)(images), texts_of(1))
    with pytest.raises(UsageError, match="at least two, or one and the empty text"):
        feature_surgery(K, text_weights(whole))
    with pytest.raises(UsageError, match="1 to 4 blocks"):
        Surgery(visual, blocks=5)
    with pytest.raises(UsageError, match="surgery, maskclip or plain"):
        Surgery(visual, path="other")
    with pytest.raises(UsageError, match="patches of 32 x 32"):
        Surgery(visual)(torch.randn(1, 3, 96, 100))
    with pytest.raises(UsageError, match="images must be"):
        Surgery(visual)(torch.randn(3, 96, 96))
    with pytest.raises(UnsupportedTower, match="one size only"):
        Surgery(tiny("vit_relpos_medium_patch16_cls_224"))(torch.randn(1, 3, 96, 96))
    with pytest.raises(UnsupportedTower, match="convolutional"):
        Surgery(resnet())


def resnet():
    from open_clip.modified_resnet import ModifiedResNet

    return ModifiedResNet((1, 1, 1, 1), 16, 2, image_size=32, width=8)
