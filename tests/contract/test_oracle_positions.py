"""Images larger than the model's: the published code of CLIP Surgery resizes position embeddings bilinearly."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, F, Decomposer, Surgery, with_positions, plain_forward, tiny, tiny_tower
    global UsageError

    import torch
    import torch.nn.functional as F

    from clipaudit.errors import UsageError
    from clipaudit.localize import Surgery
    from clipaudit.model import Decomposer, with_positions
    from tests.plain_towers import plain_forward
    from tests.published import tiny_tower
    from tests.tiny_models import tiny


FEATURES = 1e-5


def published_resize(visual, side):
    """A copy of a tower for images of `side` pixels, its position embeddings as the published code makes them."""
    visual = copy.deepcopy(visual)
    old = visual.grid_size[0]
    new = side // visual.patch_size[0]
    table = visual.positional_embedding.detach()
    cells = table[1:].reshape(-1, old, old, table.shape[-1]).permute(0, 3, 1, 2)
    cells = F.interpolate(cells, (new, new), mode="bilinear")
    rows = cells.reshape(-1, table.shape[-1], new * new).transpose(1, 2)[0]
    visual.positional_embedding.data = torch.cat([table[:1], rows])
    visual.grid_size = (new, new)
    return visual


def surgery_errors(visual, images, blocks):
    """Largest differences of both resizes from the published features, (B, 1 + patches, D) with the class token."""
    with torch.inference_mode():
        tower = published_resize(visual, images.shape[-1])
        trace = plain_forward(tower, images, second_from=len(visual.transformer.resblocks) - blocks)
        patches = tower.ln_post(trace.second[:, 1:]) @ tower.proj
    errors = {}
    for positions in ("bilinear", "bicubic"):
        out = Surgery(with_positions(visual, positions), blocks=blocks)(images)
        whole = (out.whole - trace.embedding).abs().max().item()
        errors[positions] = max(whole, (out.patches - patches).abs().max().item())
    return errors


@pytest.mark.parametrize("side", [128, 32])
def test_bilinear_positions_give_the_published_features(side):
    visual = tiny_tower(width=96, heads=3, patch=8, size=64, layers=4, embed_dim=48, quick=True)
    errors = surgery_errors(visual, torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3)), blocks=3)
    assert errors["bilinear"] <= FEATURES
    assert errors["bicubic"] > 1000 * FEATURES


def test_the_default_and_the_models_own_size_stay_as_they_are():
    visual = tiny_tower(width=96, heads=3, patch=8, size=64, layers=2, embed_dim=48)
    generator = torch.Generator().manual_seed(3)
    own, large = (torch.randn(2, 3, side, side, generator=generator) for side in (64, 128))
    plain, bilinear = Decomposer(visual), Decomposer(with_positions(visual, "bilinear"))
    assert torch.equal(plain(own).heads, bilinear(own).heads)
    by_default = plain.resized((128, 128))(large)
    bicubic = Decomposer(with_positions(visual, "bicubic")).resized((128, 128))(large)
    assert torch.equal(by_default.heads, bicubic.heads)
    other = bilinear.resized((128, 128))(large)
    assert (other.heads - by_default.heads).abs().max() > 1e-4
    assert other.remainder.max() <= 1e-5  # exact as well
    # the view leaves the model alone
    assert torch.equal(plain.resized((128, 128))(large).heads, by_default.heads)
    with pytest.raises(UsageError, match="--positions must be bicubic or bilinear, not 'nearest'"):
        with_positions(visual, "nearest")


def test_timm_towers_too():
    visual = tiny("vit_medium_patch16_gap_256")
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    by_default = Decomposer(visual).resized((128, 128))(images)
    other = Decomposer(with_positions(visual, "bilinear")).resized((128, 128))(images)
    table, old = visual.trunk.pos_embed.detach(), visual.trunk.patch_embed.grid_size
    cells = table.reshape(1, *old, -1).permute(0, 3, 1, 2)
    rows = F.interpolate(cells, (8, 8), mode="bilinear").permute(0, 2, 3, 1).flatten(1, 2)
    again = Decomposer(with_positions(visual, "bilinear")).resized((128, 128)).tower.visual.trunk.pos_embed
    assert (again - rows).abs().max() <= 1e-6
    assert (other.heads - by_default.heads).abs().max() > 1e-5


@pytest.mark.skipif("CLIPAUDIT_ORACLE" not in os.environ, reason="CLIPAUDIT_ORACLE names no full oracle directory")
def test_full_oracle():
    from tests.published import full_oracle

    oracle, model = full_oracle()
    with np.load(oracle / "decomposition.npz") as arrays:
        images = F.interpolate(torch.from_numpy(arrays["images"]), (128, 128), mode="bicubic")
    errors = surgery_errors(model.visual, images, blocks=6)
    print(f"largest differences at 128 pixels: {errors}")
    assert errors["bilinear"] <= FEATURES
    assert errors["bicubic"] > 1000 * FEATURES
