"""Walks every configuration that open_clip registers: each is decomposed exactly, or refused with a reason."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from clipaudit.errors import UnsupportedTower


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global open_clip, torch, Decomposer, describe_tower, full_size_on_meta, images_for, plain_embedding, tiny

    import open_clip
    import torch

    from clipaudit.model import Decomposer, describe_tower
    from tests.tiny_models import full_size_on_meta, images_for, plain_embedding, tiny


# Its files, since `open_clip.list_models()` would be imported where tests are only collected.
CONFIGS = sorted(path.stem for path in Path(find_spec("open_clip").origin).parent.glob("model_configs/*.json"))
OF_EACH_KIND = {
    *("ViT-B-32-quickgelu", "ViT-M-16-alt", "ViT-L-14-CLIPA", "vit_medium_patch16_gap_256", "EVA02-B-16", "EVA02-E-14"),
    *("vit_relpos_medium_patch16_cls_224", "MobileCLIP-B", "ViTamin-S", "coca_ViT-B-32", "ViT-B-16-SigLIP"),
    *("PE-Core-B-16", "RN50", "convnext_base", "swin_base_patch4_window7_224", "MobileCLIP-S1"),
}
"""In the fast tier; the others are larger towers of these kinds."""
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
    assert sorted(open_clip.list_models()) == CONFIGS
    assert len(CONFIGS) == 144
    assert set(CONFIGS) >= OF_EACH_KIND
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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in OF_EACH_KIND else pytest.mark.full) for name in CONFIGS]
)
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
