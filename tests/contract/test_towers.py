"""Walks every configuration that open_clip registers: each is decomposed exactly, or refused with a reason."""

from __future__ import annotations

import open_clip
import pytest
import torch

from clipaudit.errors import UnsupportedTower
from clipaudit.model import Decomposer, describe_tower
from tests.tiny_models import full_size_on_meta, images_for, plain_embedding, tiny

CONFIGS = open_clip.list_models()
POOLED = ("SigLIP", "siglip", "PE-Core", "coca_ViT")
FOR_GOOD = ("RN", "convnext", "swin", "MobileCLIP-S", "MobileCLIP2-S")
CLASS_TOKEN_EXCEPTIONS = ("CLIPA", "SigLIP", "ViTamin")


def expected(name: str) -> str:
    if any(part in name for part in POOLED):
        return "exact"
    return "for good" if name.startswith(FOR_GOOD) else "exact"


def test_the_registry_is_the_one_that_was_read():
    # A new open_clip release with new towers must be looked at, not passed over.
    counts = {verdict: sum(expected(name) == verdict for name in CONFIGS) for verdict in ("exact", "for good")}
    assert len(CONFIGS) == 144
    assert counts == {"exact": 116, "for good": 28}
    pooled = [name for name in CONFIGS if any(part in name for part in POOLED)]
    assert len(pooled) == 35
    families = [
        open_clip.get_model_config(name)["vision_cfg"]
        for name in CONFIGS
        if expected(name) == "exact" and name not in pooled
    ]
    plain = [vision for vision in families if "timm_model_name" not in vision]
    assert sum(vision.get("pool_type", "tok") == "tok" for vision in plain) == 48
    assert sum(vision.get("pool_type") == "avg" and vision["final_ln_after_pool"] for vision in plain) == 6
    assert len(families) - len(plain) == 27


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_exact_or_refused(name: str):
    full = full_size_on_meta(name)
    if expected(name) != "exact":
        with pytest.raises(UnsupportedTower) as refusal:
            describe_tower(full)
        message = str(refusal.value)
        assert message.startswith("this image tower cannot be decomposed exactly: ")
        assert "\n" not in message
        return
    tower = describe_tower(full)
    assert (tower.pooling == "attention") == any(part in name for part in POOLED)
    visual = tiny(name)
    decomposer = Decomposer(visual)
    small = decomposer.tower
    facts = ("family", "pooling", "norm_before_pool", "pool_start", "prefix_tokens")
    assert [getattr(tower, fact) for fact in facts] == [getattr(small, fact) for fact in facts]
    assert tower.embed_dim == open_clip.get_model_config(name)["embed_dim"]

    images = images_for(visual)
    out = decomposer(images)
    whole = torch.stack(list(out.parts.values())).sum(dim=0)
    assert (whole - plain_embedding(visual, images)).abs().max() <= 5e-6
    assert out.remainder.max() <= 5e-6
    # What the heads add must be a real share, or the sum would prove nothing.
    assert out.parts["heads"].norm(dim=-1).min() > 0.02
