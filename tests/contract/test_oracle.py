"""The published code's outputs are recovered from our components (tests/data/oracle/README.md says whence)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, Decomposer, published_allocation

    import torch

    from clipaudit.model import Decomposer
    from tests.published import published_allocation


DATA = Path(__file__).parent.parent / "data" / "oracle"
TOTAL_LAYERS = 8
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(DATA / "decomposition.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def last_blocks():
    # Imported here too, because other modules use this fixture.
    import open_clip
    from safetensors.torch import load_file

    from tests.published import LastBlocks

    visual = open_clip.transformer.VisionTransformer(
        image_size=64,
        patch_size=8,
        width=192,
        layers=2,
        heads=3,
        mlp_ratio=4.0,
        output_dim=128,
        no_ln_pre=True,
        act_layer=open_clip.transformer.QuickGELU,
    ).eval()
    missing, unexpected = visual.load_state_dict(load_file(DATA / "last_blocks.safetensors"), strict=False)
    assert set(missing) == {"class_embedding", "positional_embedding", "conv1.weight"}
    assert not unexpected
    return LastBlocks(visual)


@pytest.mark.parametrize("image", [0, 1])
def test_published_components_are_recovered(reference, last_blocks, image):
    visual = last_blocks.starting_from(reference["streams"][image])
    attentions, mlps = published_allocation(visual, torch.zeros(1, 3, 64, 64), total_layers=TOTAL_LAYERS)
    # (layers, tokens, heads, D): every layer, token and head
    assert (attentions[0] - reference["attentions"][image]).abs().max() <= TOLERANCE
    assert (mlps[0, 1:] - reference["mlps"][image]).abs().max() <= TOLERANCE
    # The tolerance means something: the numbers compared are far larger.
    assert reference["attentions"][image].sum(dim=1).abs().max() > 1000 * TOLERANCE
    assert reference["mlps"][image].abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("image", [0, 1])
def test_embedding_and_norm_are_the_published_models(reference, last_blocks, image):
    out = Decomposer(last_blocks.starting_from(reference["streams"][image]))(torch.zeros(1, 3, 64, 64))
    features = reference["image_features"][image]
    assert (out.embedding[0] - features / features.norm()).abs().max() <= TOLERANCE
    assert out.norm[0] == pytest.approx(features.norm().item(), rel=1e-5)


@pytest.mark.skipif("CLIPAUDIT_ORACLE" not in os.environ, reason="CLIPAUDIT_ORACLE names no full oracle directory")
def test_full_oracle():
    from tests.published import full_oracle

    oracle, model = full_oracle()
    with np.load(oracle / "decomposition.npz") as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    attentions, mlps = published_allocation(model.visual, data["images"])
    errors = {
        "attentions": (attentions - data["attentions"]).abs().max().item(),
        "mlps": (mlps - data["mlps"]).abs().max().item(),
    }
    print(f"largest differences: {errors}")
    assert max(errors.values()) <= TOLERANCE
