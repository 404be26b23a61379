"""Token maps add up to what heads add; contrast, choice of heads, sizes and register-like tokens."""

from __future__ import annotations

import pytest

from clipaudit.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, TokenDecomposition, Decomposer, images_for, plain_embedding, tiny

    import torch

    from clipaudit.localize import TokenDecomposition
    from clipaudit.model import Decomposer
    from tests.tiny_models import images_for, plain_embedding, tiny


KINDS = ["ViT-B-32-quickgelu", "ViT-L-14-CLIPA", "vit_medium_patch16_gap_256", "EVA02-B-16"]


@pytest.fixture(scope="module")
def visual():
    return tiny("ViT-B-32-quickgelu", layers=4)


@pytest.fixture(scope="module")
def images(visual):
    return images_for(visual, 3)


def texts_of(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 144, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_sum_to_what_each_head_adds(kind):
    visual = tiny(kind)
    images, texts = images_for(visual), texts_of(5)
    decomposer = Decomposer(visual)
    out = decomposer(images)
    maps = TokenDecomposition(visual).by_head(images, texts)
    expected = decomposer.readout.expand(out.heads).flatten(1, 2) @ texts.T  # (B, layers * heads, T)
    assert (maps.heads - expected).abs().max() <= 2e-6
    assert (maps.products - plain_embedding(visual, images) @ texts.T).abs().max() <= 2e-6
    assert expected.abs().max() > 0.02


def test_patches_are_what_the_values_say_one_by_one(visual, images):
    # s alpha_i v_i M t, multiplied out in the joint space
    decomposer = Decomposer(visual, tokens=True)
    out, texts = decomposer(images), texts_of(3)
    M = decomposer.readout.T.float() @ decomposer.readout.Q.float()  # (layers, heads, head_dim, D)
    parts = torch.einsum("b,blhi,blhij,lhjd->blhid", out.scale, out.tokens.alpha, out.tokens.v, M) @ texts.T
    maps = TokenDecomposition(visual).by_head(images, texts)
    expected = parts[..., 1:, :].flatten(1, 2).transpose(2, 3).reshape(maps.patches.shape)
    assert (maps.patches - expected).abs().max() <= 1e-6


def test_chosen_heads_are_a_part_of_the_sum(visual, images):
    texts, chosen = texts_of(4), [(3, 1), (1, 0)]
    each = TokenDecomposition(visual).by_head(images, texts)
    tokens = TokenDecomposition(visual, heads=chosen)
    rows = [layer * 2 + head for layer, head in chosen]
    assert tokens.labels == ("L03H01", "L01H00")
    assert torch.allclose(tokens.by_head(images, texts).patches, each.patches[:, rows], atol=1e-7)
    assert torch.allclose(tokens(images, texts).patches, each.patches[:, rows].sum(dim=1), atol=1e-6)
    assert torch.allclose(tokens(images, texts).rest, each.rest[:, rows].sum(dim=1), atol=1e-6)
    layers = TokenDecomposition(visual, layers=[2, 3])(images, texts)
    assert torch.allclose(layers.patches, each.patches[:, 4:].sum(dim=1), atol=1e-6)


def test_contrast_takes_the_mean_over_the_texts_off(visual, images):
    texts, tokens = texts_of(6), TokenDecomposition(visual)
    plain, contrast = tokens(images, texts).patches, tokens(images, texts, contrast=True).patches
    assert torch.allclose(contrast, plain - plain.mean(dim=1, keepdim=True), atol=1e-6)
    assert contrast.sum(dim=1).abs().max() <= 1e-5


def test_a_batch_is_its_images_and_many_texts_are_each_text(visual, images):
    texts, tokens = texts_of(300), TokenDecomposition(visual)
    whole = tokens(images, texts).patches
    for number, image in enumerate(images):
        assert torch.allclose(whole[number], tokens(image[None], texts[:]).patches[0], atol=1e-6)
    assert torch.allclose(whole[:, 17], tokens(images, texts[17:18]).patches[:, 0], atol=1e-6)


def test_another_size_is_exact_too_and_changes_nothing(visual, images):
    texts, tokens = texts_of(2), TokenDecomposition(visual)
    before = tokens(images, texts).patches
    wide = torch.randn(2, 3, 64, 160)
    maps = tokens(wide, texts)
    assert maps.patches.shape == (2, 2, 2, 5)
    out = Decomposer(visual, tokens=True).resized((64, 160))(wide)
    assert out.remainder.max() <= 5e-6
    assert (maps.products - out.embedding @ texts.T).abs().max() <= 1e-6
    assert torch.equal(tokens(images, texts).patches, before)


def test_a_long_token_is_marked(visual, images):
    assert not TokenDecomposition(visual)(images, texts_of(1)).outliers.any()
    loud = images.clone()
    loud[1, :, 32:64, 64:96] *= 400  # with lively weights and no LayerNorm before them the patch's token grows
    tower = tiny("ViT-B-32-quickgelu", layers=4)
    tower.ln_pre = torch.nn.Identity()
    marked = TokenDecomposition(tower)(loud, texts_of(1)).outliers
    assert marked.nonzero().tolist() == [[1, 1, 2]]


def test_mistakes_are_one_sentence(visual, images):
    with pytest.raises(UsageError, match="no head L04H00: 4 layers of 2 heads, L00H00 to L03H01"):
        TokenDecomposition(visual, heads=[(4, 0)])
    with pytest.raises(UsageError, match="named twice"):
        TokenDecomposition(visual, heads=[(1, 0), (1, 0)])
    with pytest.raises(UsageError, match="name at least one"):
        TokenDecomposition(visual, heads=[])
    tokens = TokenDecomposition(visual)
    with pytest.raises(UsageError, match="there is no text"):
        tokens(images, torch.zeros(0, 144))
    with pytest.raises(UsageError, match="of shape Tx144, not 2x7"):
        tokens(images, torch.zeros(2, 7))
    with pytest.raises(UsageError, match="at least two"):
        tokens(images, texts_of(1), contrast=True)
    with pytest.raises(UsageError, match="training mode"):
        TokenDecomposition(visual.train())(images, texts_of(1))
    visual.eval()
